"""Notices a client that has stopped reading: what is buffered for it does not become less.

A slow reader is not a stuck one: every byte its machine takes counts as progress, the kernel's buffer included, which
a reader of one token per second empties in steps. Knows nothing about requests.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable

LOOKS = 8  # in the time after which a reader counts as stuck


class ReaderWatch:
    """One connection's. `begin` when a write could not be sent at once, `end` when all is sent."""

    __slots__ = ("_blocked_s", "_least_bytes", "_loop", "_on_stuck", "_progress_at", "_timer", "_transport", "is_stuck")

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        blocked_s: float,
        on_stuck: Callable[[], None],
    ) -> None:
        self.is_stuck = False
        self._transport = transport
        self._loop = loop
        self._blocked_s = blocked_s
        self._on_stuck = on_stuck
        self._progress_at = 0.0
        self._least_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self.end()
        self._progress_at, self._least_bytes = self._loop.time(), self._unsent_bytes()
        self._timer = self._loop.call_later(self._blocked_s / LOOKS, self._look)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now, unsent_bytes = self._loop.time(), self._unsent_bytes()
        if unsent_bytes < self._least_bytes:
            self._progress_at, self._least_bytes = now, unsent_bytes
        if now - self._progress_at >= self._blocked_s:
            self.is_stuck, self._timer = True, None
            self._on_stuck()
            return
        self._timer = self._loop.call_later(self._blocked_s / LOOKS, self._look)

    def _unsent_bytes(self) -> int:
        """What the client's machine has not acknowledged, as far as this system tells."""
        buffered = self._transport.get_write_buffer_size()
        connection = self._transport.get_extra_info("socket")
        try:
            raw = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
        except (OSError, AttributeError):
            return buffered
        return buffered + int(struct.unpack("i", raw)[0])

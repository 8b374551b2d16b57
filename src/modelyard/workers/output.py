"""The last lines a worker wrote: always drained, so that a talkative worker never blocks; bounded, so that it is cheap.

Knows nothing about processes.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque

LINES_MAX = 200
LINE_BYTES_MAX = 2048
READ_BYTES = 65536
LAST_WORDS_BYTES_MAX = 1024 * 1024
MASK = b"********"


class OutputTail:
    """Reads one pipe on the event loop until it ends or `close` is called."""

    def __init__(self, pipe: int, secrets: tuple[str, ...] = ()) -> None:
        """`secrets` are never kept: a mask stands in their place."""
        self.line_count = 0  # of all lines ever, so that a watcher sees growth
        self._pipe = pipe
        self._secrets = tuple(text.encode() for text in sorted(secrets, key=len, reverse=True) if text)
        self._lines: deque[str] = deque(maxlen=LINES_MAX)
        self._rest = b""
        self._is_open = True
        os.set_blocking(pipe, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pipe, self._on_readable)

    def lines(self) -> tuple[str, ...]:
        """The last lines, oldest first; the last one may be unfinished."""
        kept = tuple(self._lines)
        return (*kept, _text(self._rest)) if self._rest.strip() else kept

    def close(self) -> None:
        """Take what is still in the pipe and let go of it. Grandchildren may hold the other end for ever."""
        taken = 0
        while self._is_open and taken < LAST_WORDS_BYTES_MAX and (count := self._take()):
            taken += count
        self._release()

    def _on_readable(self) -> None:
        self._take()

    def _take(self) -> int:
        try:
            data = os.read(self._pipe, READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self._release()
            return 0
        *whole, rest = self._masked(self._rest + data).split(b"\n")
        self.line_count += len(whole)
        self._lines.extend(_text(line) for line in whole[-LINES_MAX:] if line.strip())
        self._rest = rest[-LINE_BYTES_MAX:]
        return len(data)

    def _masked(self, data: bytes) -> bytes:
        for secret in self._secrets:
            data = data.replace(secret, MASK)
        return data

    def _release(self) -> None:
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)


def _text(line: bytes) -> str:
    printable = line[:LINE_BYTES_MAX].decode("utf-8", "replace").rstrip()
    return "".join(character if character.isprintable() else "\ufffd" for character in printable)

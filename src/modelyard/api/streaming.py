"""Writing a streamed answer to whoever asked: when headers go out, what fills silence, when a reader is too slow.

Headers go out with the first content or after ten seconds of silence, whichever comes first: until then an error keeps
its status. Afterwards an error is one frame, without the end mark. Also watches for callers that leave. Knows nothing
about what is in the frames.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress

from starlette.types import Receive, Send

from modelyard.errors import N_, ClientClosed
from modelyard.providers.ticket import Ticket
from modelyard.types.status import WaitStatus

from .slow_readers import ReaderWatch
from .yard_headers import RawHeaders

UNWATCHED_S = 0.05
KEEPALIVE_S = 10.0
BLOCKED_S = 30.0  # a reader that takes nothing for so long is gone or as good as gone
KEEPALIVE = b": keepalive\n\n"
MODEL_CHARS_MAX = 80
HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

_UNSAFE = re.compile(r"[^!-~]")  # anything but what is visible in ASCII


class CallerWatch:
    """Interrupts the ticket as soon as its caller hangs up, or is hung up on, whatever it waits for.

    Begins `UNWATCHED_S` late: most short answers are complete by then, and a task costs them a tenth of their time.
    """

    __slots__ = ("_loop", "_reader", "_receive", "_task", "_ticket", "_timer")

    def __init__(self, receive: Receive, ticket: Ticket, reader: ReaderWatch | None = None) -> None:
        self._receive, self._ticket, self._reader = receive, ticket, reader
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    def __enter__(self) -> None:
        self._timer = self._loop.call_later(UNWATCHED_S, self._begin)

    def __exit__(self, *_exception: object) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        is_stuck = self._reader is not None and self._reader.is_stuck
        self._ticket.interrupt(_stopped_reading() if is_stuck else ClientClosed())


def _stopped_reading() -> ClientClosed:
    return ClientClosed(N_("The client stopped reading."))


def wait_comment(wait: WaitStatus | None) -> bytes:
    """What fills silence: how it stands with whoever waits, in one line that no name can break.

    >>> wait_comment(WaitStatus("qwen", 2, "memory", 20.0, 12.3))
    b': queued model=qwen position=2 reason=memory eta=12s\\n\\n'
    >>> wait_comment(WaitStatus("qwen\\n\\ndata: x", 1, "loading", 20.0, 8.0, "43%"))
    b': loading model=qwen???data:?x progress=43% eta=8s\\n\\n'
    """
    if wait is None:
        return KEEPALIVE
    name = _UNSAFE.sub("?", wait.model[:MODEL_CHARS_MAX])
    if wait.reason == "loading":
        line = f"loading model={name}" + (f" progress={_UNSAFE.sub('?', wait.detail)}" if wait.detail else "")
    else:
        line = f"queued model={name} position={wait.position} reason={_UNSAFE.sub('?', wait.reason)}"
    if wait.eta_s is not None:
        line += f" eta={wait.eta_s:.0f}s"
    return f": {line}\n\n".encode("ascii")


class EventWriter:
    """The body of one streamed answer. `write` and `finish` by the task that answers; silence is filled by itself.

    A connection with a `reader` judges for itself who is too slow; else `blocked_s` without a send is too slow.
    """

    __slots__ = (
        "_blocked_s", "_comment", "_headers", "_is_last", "_keepalive_s", "_last_sent_at", "_loop", "_reader", "_send",
        "_sending_since", "_silence", "_ticket", "_timer", "started",
    )  # fmt: skip

    def __init__(
        self,
        send: Send,
        ticket: Ticket,
        headers: Callable[[], RawHeaders],
        *,
        keepalive_s: float = KEEPALIVE_S,
        blocked_s: float = BLOCKED_S,
        reader: ReaderWatch | None = None,
        comment: Callable[[], bytes] = lambda: KEEPALIVE,
    ) -> None:
        self.started = False  # True once the status can no longer be changed
        self._send = send
        self._ticket = ticket
        self._headers = headers
        self._keepalive_s = keepalive_s
        self._blocked_s = blocked_s
        self._reader = reader
        self._comment = comment
        self._loop = asyncio.get_running_loop()
        self._last_sent_at = self._loop.time()
        self._sending_since: float | None = None
        self._is_last = False
        self._silence: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(keepalive_s, self._look)

    async def write(self, data: bytes, *, more: bool = True) -> None:
        """Send bytes, headers first. Waits while the reader is behind, and for a comment under way."""
        if self._silence is not None and not self._silence.done():
            await asyncio.wait((self._silence,))
        await self._put(data, more)

    async def _put(self, data: bytes, more: bool) -> None:
        self._sending_since = self._last_sent_at = self._loop.time()
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers()})
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        self._sending_since = None

    async def finish(self, data: bytes) -> None:
        """Send the last bytes of a complete answer."""
        self._is_last = True
        await self.write(data, more=False)
        self.close()

    async def fail(self, data: bytes) -> None:
        """Send the last bytes of an answer that failed, if they can still be sent."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._blocked_s):
                await self.finish(data)

    def close(self) -> None:
        """Fill no more silence."""
        self._timer.cancel()
        if self._silence is not None:
            self._silence.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        if self._sending_since is not None and self._reader is not None:
            left_s = self._keepalive_s
        elif self._sending_since is not None:
            left_s = self._sending_since + self._blocked_s - now
            if left_s <= 0:
                self._ticket.interrupt(_stopped_reading())
                return
        else:
            left_s = self._last_sent_at + self._keepalive_s - now
            if left_s <= 0 and not self._is_last:
                self._silence = self._loop.create_task(self._put(self._comment(), True))
                left_s = self._keepalive_s
        self._timer = self._loop.call_later(max(left_s, 0.001), self._look)

"""One request in flight: who asked, how far it is, and the handle by which anyone may end it with a reason.

Entered as a context in the task that does the work. `interrupt(error)` then ends whatever that task waits for, and the
block raises `error`: the client left, an operator cancelled, a worker died, nothing came in time. It is
`asyncio.timeout` with a reason instead of a clock. Knows nothing about HTTP or models.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Literal, Self

from modelyard.errors import YardError
from modelyard.types.chat import FinishReason, Trimmed, Usage

Phase = Literal["received", "queued", "prefill", "generating"]


class Ticket:
    """What is known of one request between its first and its last byte."""

    __slots__ = (
        "_error", "_task", "affinity", "answered_at", "attempts", "caller_id", "deadline_at", "degraded", "engine",
        "fallback_reason", "finish", "first_token_at", "has_others", "hops", "id", "is_retry", "load_s", "model",
        "output_chunks", "phase", "priority", "prompt_ratio", "provider", "queue_s", "request_id", "role", "route",
        "sent_at", "started_at", "streamed", "trimmed", "usage", "wait_s_max", "why",
    )  # fmt: skip

    def __init__(self, id: str, *, request_id: str, route: str, caller_id: str, started_at: float) -> None:
        self.id = id  # unique in this process; a request id is the caller's and may repeat
        self.request_id = request_id
        self.route = route
        self.caller_id = caller_id
        self.started_at = started_at  # this and the other times: seconds of the monotonic clock
        self.phase: Phase = "received"
        self.streamed = False
        self.wait_s_max: float | None = None  # for memory and a slot, if the caller has less patience than we
        self.model = ""  # canonical, once resolved; of a fallback its own
        self.engine = ""  # the model's
        self.role = ""  # by which the model was named, if by one
        self.priority = 0  # its caller's
        self.provider = ""  # name of the node that answers, or was asked last
        self.why = ""  # that node: `resident`, `affinity`, ...
        self.attempts = 0  # nodes that were asked
        self.hops = 0  # servers like us that passed it on before
        self.is_retry = False  # the one before asks others itself if this fails: it has the retries, we have none
        self.has_others = False  # another node could be asked instead of this one
        self.deadline_at: float | None = None  # for the whole answer, if its caller set one
        self.affinity = ""  # what should go to the same node again: a session, or the beginning of a prompt
        self.degraded: tuple[str, ...] = ()  # what was given up so that it is answered: `model=small`, `kv_type=q8_0`
        self.trimmed: Trimmed | None = None  # what was left out of the prompt
        self.fallback_reason = ""  # code of the error for which another model answers
        self.queue_s: float | None = None
        self.load_s: float | None = None
        self.sent_at: float | None = None  # handed to whoever answers
        self.first_token_at: float | None = None
        self.answered_at: float | None = None  # the last piece so far
        self.prompt_ratio: float | None = None  # how much of the prompt is read, where that is told
        self.output_chunks = 0
        self.usage: Usage | None = None
        self.finish: FinishReason | None = None
        self._task: asyncio.Task[object] | None = None
        self._error: YardError | None = None

    def interrupt(self, error: YardError) -> None:
        """End the work with this error. The first reason counts; before the block and after it this does nothing."""
        if self._task is not None and self._error is None:
            self._error = error
            self._task.cancel()

    @property
    def interrupted_by(self) -> YardError | None:
        """Why the work was ended from outside, if it was."""
        return self._error

    def reprieve(self) -> bool:
        """Take an interruption back once its `CancelledError` was caught; False if somebody else cancelled as well."""
        assert self._task is not None, "nothing is being done"
        if self._error is None or self._task.uncancel():
            return False
        self._error = None
        return True

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._error is None or task is None:
            return
        still_cancelled = task.uncancel()  # ours is taken back; somebody else's cancellation goes on
        if kind is asyncio.CancelledError and not still_cancelled:
            raise self._error from None

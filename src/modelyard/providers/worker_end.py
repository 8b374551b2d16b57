"""What the end of a worker means to a question it has not answered: its death, or a socket nobody answers at.

A worker's exit ends the ticket with an error that says why. Shared by streams and by whole answers.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from modelyard.diagnosis import crash
from modelyard.diagnosis.showing import shown
from modelyard.errors import (
    N_,
    ModelUnloaded,
    ShuttingDown,
    UpstreamError,
    UpstreamInvalid,
    UpstreamUnreachable,
    YardError,
)

from .ticket import Ticket
from .worker_http import BrokenConnection, NoConnection, RunningWorker

LAST_LINES_SHOWN = 5


class WorkerLease(Protocol):
    """The right to use one slot of a worker."""

    @property
    def worker(self) -> RunningWorker: ...

    @property
    def queue_s(self) -> float: ...

    @property
    def load_s(self) -> float: ...

    @property
    def leaving_because(self) -> str: ...

    @property
    def degraded(self) -> tuple[str, ...]: ...

    @property
    def context_length(self) -> int: ...

    def progressed(self) -> None: ...

    def worker_quiet_s(self) -> float: ...

    async def fail(self, error: YardError) -> None: ...


class WorkerEnd:
    """Listens for a worker's exit until it is closed."""

    def __init__(self, lease: WorkerLease, source: str, ticket: Ticket, exit_news_s: float) -> None:
        self.unreachable: YardError | None = None  # its socket is gone: it lives on, and nobody can ask it
        self._lease, self._source, self._ticket, self._exit_news_s = lease, source, ticket, exit_news_s
        lease.worker.exited.add_done_callback(self._on_exit)

    def close(self) -> None:
        self._lease.worker.exited.remove_done_callback(self._on_exit)

    async def lost(self, exc: NoConnection | BrokenConnection) -> UpstreamError:
        """The error for a connection that failed. Raises that of the worker's exit, if this is why."""
        await self.news()
        if isinstance(exc, NoConnection):
            error = UpstreamUnreachable(provider=self._source, problem=N_("its socket does not answer"))
            self.unreachable = error if exc.is_for_good else None
            return error
        return UpstreamInvalid(provider=self._source, problem=N_("the connection broke"))

    async def news(self) -> None:
        """Give the news of an exit time to arrive: it then ends this task."""
        exited = self._lease.worker.exited
        await asyncio.wait((exited,), timeout=self._exit_news_s)
        if exited.done():
            raise self._crash(exited)

    def _on_exit(self, exited: asyncio.Future[str]) -> None:
        if not exited.cancelled():
            self._ticket.interrupt(self._crash(exited))

    def _crash(self, exited: asyncio.Future[str]) -> YardError:
        match self._lease.leaving_because:
            case "" | "crash":
                pass
            case "shutdown":
                return ShuttingDown()
            case _:  # an operator did not want to wait for us
                return ModelUnloaded(N_("{model} was unloaded while this request used it."), model=self._source)
        error = crash(self._source, exited.result(), self._lease.worker.verdict())
        if lines := [shown(line) for line in self._lease.worker.last_lines()[-LAST_LINES_SHOWN:]]:
            error.fields["last_lines"] = " | ".join(lines)
        return error

"""Ends an answer whose worker has gone quiet. One timer per answer, looked at rarely: a chunk costs two assignments.

Time counts only while we wait for the worker, so a slow caller never makes a worker look stalled. Before the first
token every sign that the prompt is being read extends the deadline. After it, a worker is stalled when none of its
slots has moved: one slot reading a long prompt slows the others down. Reads the clock that leases read: the loop's own
lags behind it, and by comparing the two a hung worker could look alive.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from modelyard.errors import UpstreamStalled, UpstreamTimeout, YardError

from .deadlines import Deadlines
from .ticket import Ticket


class Progressing(Protocol):
    """The part of a lease that knows about the whole worker's progress."""

    def progressed(self) -> None: ...

    def worker_quiet_s(self) -> float: ...


class QuietWatch:
    """`wait` before waiting for the worker, `hear` after something came, `close` at the end."""

    __slots__ = (
        "_deadlines", "_is_waiting", "_lease", "_loop", "_source", "_ticket", "_timer", "_waiting_since", "broken",
        "has_token",
    )  # fmt: skip

    def __init__(self, lease: Progressing, ticket: Ticket, deadlines: Deadlines, source: str) -> None:
        self.has_token = False
        self.broken: YardError | None = None
        self._lease = lease
        self._ticket = ticket
        self._deadlines = deadlines
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._is_waiting = False
        self._waiting_since = time.monotonic()
        self._timer = self._loop.call_later(deadlines.first_token_s, self._look)

    def wait(self) -> None:
        self._waiting_since = time.monotonic()
        self._is_waiting = True

    def hear(self) -> None:
        self._is_waiting = False
        self._lease.progressed()

    def first_token(self) -> None:
        self.has_token = True
        self._timer.cancel()
        self._timer = self._loop.call_later(self._deadlines.between_tokens_s, self._look)

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        budget_s = self._deadlines.between_tokens_s if self.has_token else self._deadlines.first_token_s
        quiet_s = time.monotonic() - self._waiting_since if self._is_waiting else 0.0
        worker_quiet_s = self._lease.worker_quiet_s()
        if self.has_token:
            quiet_s = min(quiet_s, worker_quiet_s)
        if quiet_s < budget_s:
            self._timer = self._loop.call_later(max(budget_s - quiet_s, 0.001), self._look)
            return
        error: YardError
        if self.has_token:
            error = UpstreamStalled(model=self._source, stalled_s=round(quiet_s, 1))
        else:
            error = UpstreamTimeout(model=self._source, budget_s=round(budget_s, 1))
        if self.has_token or worker_quiet_s >= budget_s:
            self.broken = error  # no slot of it moves: it will not come back by itself
        self._ticket.interrupt(error)

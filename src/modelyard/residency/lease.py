"""The right to use a resident model for one request, and what all leases of one worker share."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable

from modelyard.clock import Clock
from modelyard.errors import YardError
from modelyard.types.memory import ProcessMemory, Receipt
from modelyard.types.model import Model, ModelSpec

from .ports import RunningWorker


class Hosted:
    """One load of one model: its worker once there is one, and when it last did something."""

    def __init__(self, model: Model, spec: ModelSpec, epoch: int, now: float) -> None:
        self.model = model
        self.spec = spec
        self.epoch = epoch
        self.worker: RunningWorker | None = None
        self.starting: asyncio.Task[RunningWorker] | None = None
        self.is_given_up = False  # while it loads: end it instead
        self.is_guest = False  # another node brought it in by itself
        self.leaving_because = ""
        self.began_at = now
        self.ready_at = 0.0
        self.loaded_at = 0.0  # seconds since 1970
        self.progress = ("", 0.0)  # of the load
        self.receipt: Receipt | None = None  # of the load
        self.memory = ProcessMemory()  # of the worker, as last measured
        self.end: asyncio.Future[Receipt | None] = asyncio.get_running_loop().create_future()
        self.leases = 0
        self.busy_since = now
        self.progressed_at = now

    @property
    def load_s(self) -> float:
        return self.ready_at - self.began_at


class Lease:
    """One slot of one worker. Lives exactly as long as the request that uses it; the manager takes it back."""

    __slots__ = (
        "_clock", "_hosted", "_report", "context_length", "degraded", "epoch", "load_s", "model", "queue_s", "worker",
    )  # fmt: skip

    def __init__(
        self, hosted: Hosted, asked_at: float, now: float, clock: Clock, report: Callable[[Hosted, YardError], None]
    ) -> None:
        assert hosted.worker is not None, "a lease without a worker"
        self.model = hosted.model
        self.epoch = hosted.epoch
        self.worker = hosted.worker
        self.degraded = hosted.spec.degraded  # what was given up so that it fits
        self.context_length = hosted.spec.context_length  # tokens there is room for; 0: nobody knows
        self.load_s = max(0.0, hosted.ready_at - max(asked_at, hosted.began_at))  # of the wait, what was loading
        self.queue_s = max(0.0, now - asked_at - self.load_s)  # and the rest of it
        self._hosted = hosted
        self._clock = clock
        self._report = report

    def progressed(self) -> None:
        """Say that the worker has done something: a token, a part of the prompt."""
        self._hosted.progressed_at = self._clock.monotonic()

    def worker_quiet_s(self) -> float:
        """How long no slot of this worker has done anything, counted only while it had something to do."""
        return self._clock.monotonic() - max(self._hosted.progressed_at, self._hosted.busy_since)

    @property
    def leaving_because(self) -> str:
        """Why the worker is being ended (operator, shutdown, crash, ...); empty while it is not."""
        return self._hosted.leaving_because

    async def fail(self, error: YardError) -> None:
        """Report that the worker is broken, stalled for instance: it is ended, and the next request gets another."""
        self._report(self._hosted, error)


class Asked:
    """One ticket's answer: there at once, or waited for."""

    __slots__ = ("_arrived", "at", "error", "hosted")

    def __init__(self, at: float) -> None:
        self.at = at
        self.hosted: Hosted | None = None
        self.error: YardError | None = None
        self._arrived: asyncio.Future[None] | None = None

    def answer(self, hosted: Hosted | None, error: YardError | None) -> None:
        assert self.hosted is None and self.error is None, "a ticket was answered twice"  # noqa: PT018
        self.hosted, self.error = hosted, error
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    async def result(self) -> Hosted:
        """Without a suspension if the answer is there."""
        if self.hosted is None and self.error is None:
            self._arrived = asyncio.get_running_loop().create_future()
            await self._arrived
        if self.error is not None:
            raise copy.copy(self.error)  # many may be refused for one cause; each gets its own traceback
        assert self.hosted is not None
        return self.hosted

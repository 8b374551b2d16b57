"""The door through which models of other nodes come into the ledger, and leave it: the manager's side of a watch.

It only joins what belongs together, the model, its place in the ledger and what stands for its worker. Whether a model
is taken in is the scheduler's decision, whether it has gone the watcher's finding.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType

from modelyard.clock import Clock
from modelyard.types.memory import DeviceReading
from modelyard.types.model import Model, ModelSpec
from modelyard.types.status import Residency

from .hosting import Hosting
from .messages import Adopt, Adopted, DevicesRead, Event, Left
from .ports import RunningWorker
from .scheduler import Scheduler


class Guests:
    """What a watcher of other nodes needs of the manager. Implements its `LedgerOwner`."""

    def __init__(
        self,
        clock: Clock,
        scheduler: Scheduler,
        hosting: Hosting,
        feed: Callable[[Event], None],
        register: Callable[[Model, ModelSpec], None],
    ) -> None:
        self._clock, self._scheduler, self._hosting, self._register = clock, scheduler, hosting, register
        self.feed = feed
        self._arriving: dict[str, tuple[Model, RunningWorker]] = {}

    @property
    def is_active(self) -> bool:
        """Whether anything is in memory or waits for it."""
        return bool(self._scheduler.records) or bool(len(self._scheduler.queue))

    async def look(self) -> tuple[DeviceReading, ...]:
        """Read the devices, tell what they say, and answer it."""
        await asyncio.to_thread(self._hosting.read_devices)
        readings = self._hosting.newest
        self.feed(DevicesRead(self._clock.monotonic(), readings))
        return readings

    def loads(self) -> Mapping[str, tuple[int, Residency]]:
        """Model -> the epoch and state of its load."""
        there = self._scheduler.records.items()
        return MappingProxyType({name: (record.epoch, record.state) for name, record in there})

    def adopt(self, model: Model, spec: ModelSpec, worker: RunningWorker, in_use: Mapping[str, int]) -> None:
        """Take another node's model into the ledger, unless one of that name is there."""
        self._register(model, spec)
        self._arriving[model.name] = (model, worker)
        self.feed(Adopted(self._clock.monotonic(), spec, in_use, worker.slots))

    def arrived(self, effect: Adopt) -> None:
        """The scheduler took it in."""
        model, worker = self._arriving.pop(effect.model)
        self._hosting.adopt(model, effect, worker)

    def left(self, name: str, epoch: int) -> None:
        """Another node's model is gone, and nobody here had a hand in it."""
        self.feed(Left(self._clock.monotonic(), name, epoch))
        record = self._scheduler.records.get(name)
        if record is None or record.epoch != epoch:  # else it is being unloaded, and that ends it
            self._hosting.forget(epoch)

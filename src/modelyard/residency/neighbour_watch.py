"""Keeps the ledger true about what other nodes hold on our devices: looks now and then, and tells what it found.

What a node brought in is adopted: from then on it is a resident like any other, and leaves when its room is needed.
What it took out has left. A node that cannot be asked changes nothing: what it held stays in the ledger, so memory is
never promised twice. If in truth it is gone, the devices say less is in use, and that part is merely not handed out
until somebody needs it: then the unload fails, the model is struck off, and what the devices still report is foreign.
What it brings in meanwhile is foreign from the start. Being out of reach is told once, and so is being back.

Devices are read after the node was asked, and told first: what is adopted is then in that reading, and never in both
the model's account and nobody's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Protocol

import structlog

from modelyard.clock import Clock
from modelyard.errors import UpstreamError, YardError
from modelyard.events import EventBus
from modelyard.memory.holders import HolderReader
from modelyard.types.memory import DeviceReading, Holder
from modelyard.types.model import Model, ModelSpec
from modelyard.types.status import Residency

from .neighbours import Neighbour, SharedNodeStarter
from .ports import NodeResident, RunningWorker

FRESH_S = 2.0  # an older look is not good enough to place a model by
WAIT_S = 1.0  # how long a request waits for a fresh one: a node that hangs must not hold up everybody
UNREADABLE = "it could not be asked"

_log = structlog.get_logger()


class LedgerOwner(Protocol):
    """What the manager does for us."""

    @property
    def is_active(self) -> bool:
        """Whether anything is in memory or waits for it."""
        ...

    async def look(self) -> tuple[DeviceReading, ...]:
        """Read the devices, tell what they say, and answer it."""
        ...

    def loads(self) -> Mapping[str, tuple[int, Residency]]:
        """Model -> the epoch and state of its load."""
        ...

    def adopt(self, model: Model, spec: ModelSpec, worker: RunningWorker, in_use: Mapping[str, int]) -> None:
        """Take another node's model into the ledger, unless one of that name is there."""
        ...

    def left(self, name: str, epoch: int) -> None:
        """Another node's model is gone, and nobody here had a hand in it."""
        ...


class NeighbourWatch:
    """Looks at every neighbour: often while models are in memory or waited for, seldom otherwise, and when asked."""

    def __init__(
        self,
        starter: SharedNodeStarter,
        owner: LedgerOwner,
        events: EventBus,
        clock: Clock,
        *,
        every_s: float = 2.0,
        idle_every_s: float = 15.0,
    ) -> None:
        self._starter, self._owner, self._events, self._clock = starter, owner, events, clock
        self._every_s, self._idle_every_s = every_s, idle_every_s
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")

    async def run(self) -> None:
        """Until cancelled; without neighbours there is nothing to do."""
        while self._starter.neighbours:
            await self.look()
            await asyncio.sleep(self._every_s if self._owner.is_active else self._idle_every_s)

    async def fresh(self) -> None:
        """Before a model is placed: look, if the last look is old. Never for long, and never in vain."""
        if self._clock.monotonic() - self._looked_at <= FRESH_S:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                await self.look(older_than_s=FRESH_S)

    async def look(self, older_than_s: float = 0.0) -> None:
        """Ask every node, read the devices, and tell what changed. Those who come while one looks share its look."""
        async with self._looking:
            began_at = self._clock.monotonic()
            if began_at - self._looked_at < older_than_s:
                return
            neighbours = [*self._starter.neighbours.values()]
            asked = [(one, one.acts) for one in neighbours]
            answers = await asyncio.gather(*(self._ask(one) for one in neighbours))
            readings = await self._owner.look()
            self._looked_at = began_at
            counted = {reading.device: reading.used_bytes for reading in readings}
            for (one, since), residents in zip(asked, answers, strict=True):
                if residents is not None:
                    one.saw(residents, since, counted)
                    self._tell_changes(one, since)

    def _tell_changes(self, one: Neighbour, since: int) -> None:
        loads, stays = self._owner.loads(), one.stays()
        for name, (epoch, state) in loads.items():
            is_up = state in (Residency.RESIDENT, Residency.DRAINING)
            is_there = name in one.held and name not in stays
            if name.endswith(f"@{one.name}") and is_up and not is_there and one.is_certain(name, since):
                self._owner.left(name, epoch)
        for name, resident in one.held.items():
            if name not in loads and name not in stays and one.is_certain(name, since):
                model = one.model(resident.name)
                spec = self._starter.learn(one, model, resident)
                self._owner.adopt(model, spec, self._starter.adopted(model), resident.bytes)

    async def _ask(self, one: Neighbour) -> tuple[NodeResident, ...] | None:
        """None if it cannot be asked: then nothing has changed."""
        try:
            residents = await one.node.residents()
        except YardError as error:
            self._lost(one, error)
            return None
        except Exception:
            _log.exception("residency.neighbour_error", node=one.name)
            self._lost(one, UpstreamError(provider=one.name, problem=UNREADABLE))
            return None
        if not one.is_reachable:
            one.is_reachable = True
            self._tell("node.reachable", one)
        return residents

    def _lost(self, one: Neighbour, error: YardError) -> None:
        if one.is_reachable:
            one.is_reachable = False
            self._tell("node.unreachable", one, code=error.code, problem=str(error))

    def _tell(self, name: str, one: Neighbour, **fields: object) -> None:
        _log.warning(name, node=one.name, **fields)
        self._events.publish(name, self._clock.wall(), node=one.name, **fields)


class NeighbourHolders:
    """Who holds foreign memory: models that would not go when asked to, by name, then what the machine says."""

    def __init__(self, inner: HolderReader, starter: SharedNodeStarter) -> None:
        self._inner, self._starter = inner, starter

    def read(self, left_behind: Mapping[int, str], in_ledger: Collection[str]) -> tuple[Holder, ...]:
        """Processes of others, and those models; the latter have no process id that we know."""
        staying = [
            Holder(0, name, dict(resident.bytes))
            for one in self._starter.neighbours.values()
            for name, resident in one.stays().items()
        ]
        return (*staying, *self._inner.read(left_behind, in_ledger))

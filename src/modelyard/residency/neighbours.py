"""Other nodes that hold models on our devices: what each holds as last seen, and what we are doing there.

Promises: what a node said before we last acted on a model is not believed about that model; no node's word makes a
model larger than what the device itself says is in use. `SharedNodeStarter` turns such a node's models into workers of
the ledger: a load asks the node, an unload asks it and sees the model gone. It knows nothing of HTTP or of Ollama, and
decides nothing: neighbour_watch.py tells the scheduler what is found.

Sizes. The node's own numbers are the measurement. Main memory is counted as if all of it were the model's own, though
part may be file-backed: reservation and foreign use together then still come to what is really in use, or to more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from modelyard.clock import Clock
from modelyard.diagnosis import Evidence, Verdict, diagnose
from modelyard.errors import N_, LoadFailed, YardError
from modelyard.memory.measured import Measured
from modelyard.types.address import Address
from modelyard.types.memory import RAM, DeviceReading, Footprint, ProcessMemory
from modelyard.types.model import Model, ModelSpec, model_at

from .ports import NodeResident, RunningWorker, SharedNode, WorkerStarter

MEASURED_BAND_RATIO = 0.05
MEASURED_COUNT_MAX = 1024
LOAD_S_EXPECTED = 10.0  # until one was measured
STAYS_S = 60.0  # how long a model that would not go counts as somebody else's before we try again
CLEAR_S = 5.0  # to take back a load that was given up

_log = structlog.get_logger()


class Neighbour:
    """One node that shares devices with us. Written by whoever looks and by whoever acts, on one thread."""

    def __init__(self, name: str, node: SharedNode, devices: Iterable[str], clock: Clock, *, slots: int = 1) -> None:
        self.name, self.node, self.devices, self.slots = name, node, tuple(devices), slots
        self.held: dict[str, NodeResident] = {}  # by the name in our ledger, as last seen
        self.is_reachable = True
        self._clock = clock
        self._acts = 0  # begun and ended; what was asked before the last one on a model is old
        self._touched: dict[str, int] = {}
        self._acting: set[str] = set()
        self._stays: dict[str, float] = {}  # would not go when asked to -> when to try again

    def model(self, name: str) -> Model:
        return model_at(self.name, self.node.kind, name)

    @property
    def acts(self) -> int:
        """Remember it before asking the node, and hand it to `saw`."""
        return self._acts

    def saw(self, residents: Iterable[NodeResident], since: int, counted: Mapping[str, int]) -> None:
        """Take note of what the node holds. `counted` is what its devices say is in use by anybody."""
        found = {self.model(one.name).name: _within(one, counted) for one in residents}
        for name in [*self.held, *found]:
            if self.is_certain(name, since):
                if name in found:
                    self.held[name] = found[name]
                else:
                    self.held.pop(name, None)
        self._stays = {name: at for name, at in self._stays.items() if name in self.held}
        self._touched = {name: act for name, act in self._touched.items() if act > since or name in self.held}

    def is_certain(self, name: str, since: int) -> bool:
        """Whether what was asked then still says something about this model."""
        return name not in self._acting and self._touched.get(name, 0) <= since

    def stays(self) -> dict[str, NodeResident]:
        """What would not go when asked to: somebody else's, for a while. Called from other threads too."""
        now = self._clock.monotonic()
        there = ((name, self.held.get(name)) for name, at in self._stays.items() if now < at)
        return {name: resident for name, resident in there if resident is not None}

    def will_stay(self, name: str) -> None:
        self._stays = {**self._stays, name: self._clock.monotonic() + STAYS_S}  # others may be reading the old one

    @contextmanager
    def acting(self, name: str) -> Iterator[None]:
        """While we load or unload a model there, and for questions asked before that, looking says nothing about it."""
        self._acting.add(name)
        try:
            yield
        finally:
            self._acting.discard(name)
            self._acts += 1
            self._touched[name] = self._acts


class NodeWorker:
    """A model at another node, in the place of a worker process. Implements residency's `RunningWorker`."""

    pid = 0
    socket: Address = Path()
    has_progress = False
    context_length: int | None = None

    def __init__(self, starter: SharedNodeStarter, at: Neighbour, model: Model) -> None:
        self.slots = at.slots
        self.exited: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # a node tells nobody
        self._starter, self._at, self._model = starter, at, model

    def memory(self) -> ProcessMemory:
        """What the node said last; called from other threads too."""
        resident = self._at.held.get(self._model.name)
        if resident is None:
            return ProcessMemory()
        gpus = {device: count for device, count in resident.bytes.items() if device != RAM}
        return ProcessMemory(anonymous_bytes=resident.bytes.get(RAM, 0), gpu_bytes=gpus)

    def last_lines(self) -> tuple[str, ...]:
        return ()

    def verdict(self) -> Verdict:
        return diagnose(Evidence())

    async def stop(self) -> None:
        """Have it unloaded, and see it gone. Raises what kept it."""
        await self._starter.unload(self._at, self._model)


class Starters:
    """Models at other nodes are loaded there, all others here. Implements residency's `WorkerStarter`."""

    def __init__(self, here: WorkerStarter, there: SharedNodeStarter) -> None:
        self._here, self._there = here, there

    async def spec(self, model: Model, context_length: int | None = None) -> ModelSpec:
        return await self._for(model).spec(model, context_length)

    def remember(self, spec: ModelSpec, measured: Measured) -> None:
        if spec.kind == "local":
            self._here.remember(spec, measured)

    async def start(
        self, model: Model, epoch: int, on_progress: Callable[[str, float], None], spec: ModelSpec | None = None
    ) -> RunningWorker:
        return await self._for(model).start(model, epoch, on_progress, spec)

    def _for(self, model: Model) -> WorkerStarter:
        return self._there if model.node else self._here


class SharedNodeStarter:
    """Loads models at other nodes. Implements residency's `WorkerStarter`."""

    def __init__(
        self, neighbours: Iterable[Neighbour], read: Callable[[], tuple[DeviceReading, ...]], clock: Clock
    ) -> None:
        """`read` looks at the devices; it may be slow."""
        self.neighbours = {one.name: one for one in neighbours}
        self._read, self._clock = read, clock
        self._specs: dict[str, ModelSpec] = {}  # as measured, by model identity

    def remember(self, spec: ModelSpec, measured: Measured) -> None:
        """What its node says of its models is asked anew after a restart."""

    async def spec(self, model: Model, context_length: int | None = None) -> ModelSpec:
        """As measured before; else it gets the node's devices to itself, once."""
        at = self._of(model)
        unknown = Footprint(dict.fromkeys(at.devices, 0), "unknown")
        return self._specs.get(model.identity) or self._spec(at, model, unknown, LOAD_S_EXPECTED)

    async def start(
        self, model: Model, epoch: int, on_progress: Callable[[str, float], None], spec: ModelSpec | None = None
    ) -> NodeWorker:
        """Raises what the node says. One that is cancelled is taken back, as far as the node lets us."""
        at, began_at = self._of(model), self._clock.monotonic()
        with at.acting(model.name):
            try:
                resident = await at.node.load(model.node_model)
                at.held[model.name] = resident = _within(resident, await self.counted())
            except LoadFailed:
                raise
            except BaseException:  # it may come in all the same
                await self._take_back(at, model)
                raise
        self.learn(at, model, resident, self._clock.monotonic() - began_at)
        return NodeWorker(self, at, model)

    def adopted(self, model: Model) -> NodeWorker:
        """Stands for what the node brought in by itself."""
        return NodeWorker(self, self._of(model), model)

    def learn(self, at: Neighbour, model: Model, resident: NodeResident, load_s: float | None = None) -> ModelSpec:
        """The next load is planned with what this one took."""
        known = self._specs.get(model.identity)
        if load_s is None:
            load_s = known.load_s_expected if known is not None else LOAD_S_EXPECTED
        footprint = Footprint(dict(resident.bytes), "measured", MEASURED_BAND_RATIO)
        spec = self._specs[model.identity] = self._spec(at, model, footprint, load_s)
        while len(self._specs) > MEASURED_COUNT_MAX:
            del self._specs[next(iter(self._specs))]
        return spec

    async def unload(self, at: Neighbour, model: Model) -> None:
        """Raises if it stays: then it counts as somebody else's for a while, under its name."""
        with at.acting(model.name):
            try:
                await at.node.unload(model.node_model)
            except YardError as error:
                at.will_stay(model.name)
                _log.warning("residency.neighbour_keeps", model=model.name, code=error.code, problem=str(error))
                raise
            at.held.pop(model.name, None)

    async def counted(self) -> dict[str, int]:
        """What the devices say is in use, by anybody."""
        return {reading.device: reading.used_bytes for reading in await asyncio.to_thread(self._read)}

    async def _take_back(self, at: Neighbour, model: Model) -> None:
        """Whatever comes of it, the next look tells."""
        try:
            async with asyncio.timeout(CLEAR_S):
                await at.node.unload(model.node_model)
        except (YardError, TimeoutError) as error:
            _log.warning("residency.load_not_taken_back", model=model.name, problem=str(error))

    def _spec(self, at: Neighbour, model: Model, footprint: Footprint, load_s: float) -> ModelSpec:
        return ModelSpec(
            model.name, model.identity, footprint, slots=at.slots, load_s_expected=load_s, kind=at.node.kind,
            purpose=model.purpose,
        )  # fmt: skip

    def _of(self, model: Model) -> Neighbour:
        at = self.neighbours.get(model.node)
        if at is None:
            raise LoadFailed(model=model.name, problem=N_("the node it is at is not configured"))
        return at


def _within(resident: NodeResident, counted: Mapping[str, int]) -> NodeResident:
    """Nobody holds more of a device than is in use there; a device nobody can read is nothing to us."""
    kept = {device: min(count, counted[device]) for device, count in resident.bytes.items() if device in counted}
    return replace(resident, bytes=kept)

"""A simulated machine around the scheduler: devices, workers, clients, operators and other people's programs.

One seed is one schedule, and the same seed is always the same schedule. Each seed switches a random part of the
features and faults off, so that rare combinations come up.
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from modelyard.errors import LoadFailed, WorkerCrashed
from modelyard.residency import messages as say
from modelyard.residency.scheduler import Scheduler
from modelyard.residency.state import ResidencyLimits
from modelyard.types.memory import DeviceReading, Footprint
from modelyard.types.model import ModelSpec

READ_EVERY_S = 5.0
FEATURES = (
    "wrong_sizes", "foreign_use", "failing_loads", "crashes", "late_exits", "cancels", "short_deadlines", "operators",
    "pins", "two_devices", "stale_messages", "clock_jumps", "new_options", "keep_alive", "bursts", "growth",
    "tight_queue", "contexts", "kinds", "other_nodes", "groups", "priorities", "rungs", "unknown_sizes", "stalls",
    "recycling",
)  # fmt: skip
ALWAYS_ALONE = {
    "foreign_use",
    "pins",
    "wrong_sizes",
    "growth",
    "two_devices",
    "kinds",
    "other_nodes",
    "groups",
    "rungs",
    "unknown_sizes",
    "contexts",
    "priorities",
    "recycling",
}  # absent in worlds with room for one only


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process, as the machine sees it."""

    model: str
    epoch: int
    size: dict[str, int]  # what it takes once it is up
    began_at: float
    reserved: dict[str, int]
    phase: str = "loading"  # loading, up, ending
    is_adopted: bool = False  # brought in by another node
    share: float = 0.3  # of its size while it loads


@dataclass(slots=True, eq=False)
class Client:
    """One request, as whoever sent it sees it."""

    ticket: int
    model: str
    deadline: float
    place: str = "waiting"  # waiting, leased, done
    epoch: int = 0
    outcome: str = ""
    bypassed: int = 0
    takes_slot: bool = True
    spec: ModelSpec | None = None


@dataclass(eq=False)
class World:
    """Runs one schedule; `watch` is called after each step with the event and its effects."""

    seed: int
    watch: Callable[[World, say.Event, list[say.Effect]], None]
    make: Callable[[ResidencyLimits], Scheduler] = Scheduler
    skip: frozenset[int] = frozenset()  # planned acts that are left out
    planned: int = 0
    now: float = 0.0
    trace: int = 0
    steps: int = 0
    stepped_at: float = 0.0
    workers: dict[str, Worker] = field(default_factory=dict)
    clients: dict[int, Client] = field(default_factory=dict)  # those not done
    foreign: dict[str, int] = field(default_factory=dict)
    foreign_read: dict[str, int] = field(default_factory=dict)  # as it was at the last reading
    pinned: set[str] = field(default_factory=set)
    forced: set[str] = field(default_factory=set)  # models with a forced unload asked
    ways: dict[tuple[str, int], str] = field(default_factory=dict)  # how each load was made
    wishes: dict[tuple[str, int], ModelSpec] = field(default_factory=dict)  # by identity and context
    stale_event: say.Event | None = None  # the last one said again
    past: list[say.Event] = field(default_factory=list)  # messages of old epochs, to be said again
    is_healed: bool = False
    alarm: say.WakeAt | None = None
    late: list[Client] = field(default_factory=list)  # asked for once all was well

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        chance = self.random
        self.features = {name for name in FEATURES if chance.random() < 0.5}
        self.is_narrow = chance.random() < 0.3  # room for exactly one model
        if self.is_narrow:
            self.features -= ALWAYS_ALONE
        self.limits = ResidencyLimits(
            headroom_bytes=chance.choice((0, 5)),
            idle_ttl_s=chance.choice((5.0, 30.0, 300.0)),
            queue_max=chance.choice((5, 12)) if self.has("tight_queue") else 64,
            drain_after_s=chance.choice((3.0, 10.0, 1e6)),
            memory_wait_s=10.0,
            policy="exclusive" if self.has("kinds") and chance.random() < 0.5 else "fit",
            groups={"g": chance.choice((1, 2))} if self.has("groups") else {},
            growth_bytes_min=5,
        )
        self.devices = {"gpu0": 100, **({"gpu1": 60} if self.has("two_devices") else {})}
        self.foreign = dict.fromkeys(self.devices, 0)
        self.specs = [self._spec(f"m{n}") for n in range(chance.randint(2, 5))]
        self.scheduler = self.make(self.limits)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._tickets = 0

    def has(self, feature: str) -> bool:
        return feature in self.features

    def run(self) -> World:
        """Arrivals and faults for a while; then heal, and let everything come to rest."""
        self._read()
        self._again(READ_EVERY_S, self._read, until=120.0)
        end = self.random.choice((30.0, 60.0, 100.0))
        at = 0.0
        for _ in range(self.random.randint(30, 60)):
            at += self.random.expovariate(60 / end)
            burst = self.random.randint(2, 15) if self.has("bursts") and self.random.random() < 0.1 else 1
            for _ in range(burst):
                self._plan(at, self._arrive)
        for feature, fault in (
            ("foreign_use", self._foreign), ("crashes", self._crash), ("operators", self._operate), ("pins", self._pin),
            ("stale_messages", self._stale), ("growth", self._grow), ("other_nodes", self._appear),
            ("other_nodes", self._vanish), ("recycling", self._recycle),
        ):  # fmt: skip
            for _ in range(self.random.randint(1, 6) if self.has(feature) else 0):
                self._plan(self.random.uniform(0, end), fault)
        self.later(end + 20.0, self._heal)
        while self._heap:
            at, _number, act = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            act()
        return self

    def _plan(self, at: float, act: Callable[[], None]) -> None:
        """One thing that happens by itself, and may be left out to make a failing schedule shorter."""
        self.planned += 1
        if self.planned not in self.skip:
            self.later(at, act)

    def later(self, at: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, act))

    def feed(self, event: say.Event) -> list[say.Effect]:
        if self.has("clock_jumps") and self.random.random() < 0.02 and isinstance(event, say.Requested | say.Released):
            event = replace(event, now=event.now - 3.0)
        effects = self.scheduler.step(event)
        self.steps += 1
        self.stepped_at = self.now
        self.watch(self, event, effects)
        told = f"{event.now:.4f}{type(event).__name__}"
        for effect in effects:
            told += type(effect).__name__
            if type(effect) is say.Grant or type(effect) is say.Load or type(effect) is say.Unload:
                told += effect.model
        self.trace = zlib.crc32(told.encode(), self.trace)
        for effect in effects:
            self._carry_out(effect)
        return effects

    # What the scheduler asks for.

    def _carry_out(self, effect: say.Effect) -> None:
        match effect:
            case say.Load():
                self._load(effect)
            case say.Adopt():
                self._adopt(effect)
            case say.Unload():
                self._unload(effect)
            case say.Grant():
                client = self.clients[effect.ticket]
                client.place, client.epoch = "leased", effect.epoch
                hold_s = self.random.choice((0.05, 0.5, 2.0, 8.0))
                self.later(self.now + hold_s, lambda: self._release(effect.ticket))
            case say.Refuse():
                self._done(effect.ticket, type(effect.error).__name__)
            case say.WakeAt():
                self.alarm = effect  # the last one asked for counts
                self.later(effect.at, lambda: self._tick(effect))
            case say.Tell():
                pass

    def _load(self, effect: say.Load) -> None:
        wrong = self.random.uniform(0.7, 1.3) if self.has("wrong_sizes") else 1.0
        self.ways[effect.model, effect.epoch] = effect.spec.identity
        spec, reserved = effect.spec, dict(self.scheduler.records[effect.model].held)
        known = spec.footprint.bytes if spec.footprint.is_known else dict.fromkeys(spec.footprint.bytes, 20)
        size = {device: int(count * wrong) for device, count in known.items()}
        worker = Worker(effect.model, effect.epoch, size, self.now, reserved)
        self.workers[effect.model] = worker
        takes_s = self.random.choice((0.1, 1.0, 5.0, 15.0))
        fails = self.has("failing_loads") and not self.is_healed and self.random.random() < 0.2
        if self.has("stalls") and not self.is_healed and self.random.random() < 0.05:
            takes_s, fails = 40.0, True  # it never gets ready, and is ended for that
        self.later(self.now + takes_s, lambda: self._loaded(worker, fails))

    def _loaded(self, worker: Worker, fails: bool) -> None:
        if worker.phase != "loading":
            return
        if fails:
            del self.workers[worker.model]
            self._read()
            error = LoadFailed(model=worker.model, problem="planted")
            is_memory = self.random.random() < 0.5
            self._say(say.LoadBroke(self.now, worker.model, worker.epoch, error, is_memory))
            return
        worker.share = 1.0
        self._read()  # still loading, as far as the scheduler knows
        if worker.phase == "loading":
            worker.phase, worker.reserved = "up", dict(worker.size)
            took_s = self.now - worker.began_at
            slots = self.random.choice((1, 2, 4))
            self._say(say.Loaded(self.now, worker.model, worker.epoch, slots, worker.size, worker.size, took_s))

    def _unload(self, effect: say.Unload) -> None:
        worker = self.workers.get(effect.model)
        if worker is None or worker.epoch != effect.epoch:  # its node has just taken it out by itself
            return
        worker.phase = "ending"
        takes_s = self.random.choice((0.01, 0.1, 4.0, 20.0)) if self.has("late_exits") else 0.05
        self.later(self.now + takes_s, lambda: self._gone(worker))

    def _gone(self, worker: Worker) -> None:
        del self.workers[worker.model]
        self._read()
        self._say(say.Unloaded(self.now, worker.model, worker.epoch))
        for client in [one for one in self.clients.values() if one.epoch == worker.epoch and one.place == "leased"]:
            self._release(client.ticket)

    # What clients do.

    def _wish(self, spec: ModelSpec) -> ModelSpec:
        """What a request may want besides the model: a context, a priority."""
        if self.has("contexts"):
            length = self.random.choice((4, 4, 4, 8))
            known = self.wishes.get((spec.identity, length))
            spec = self.wishes[spec.identity, length] = known or replace(spec, context_length=length)
        return spec

    def _spec(self, name: str) -> ModelSpec:
        size = self.random.randint(55, 90) if self.is_narrow else self.random.randint(10, 70)
        band = self.random.choice((0.0, 0.1, 0.3))
        sizes = {"gpu0": size}
        if self.has("two_devices"):
            sizes = self.random.choice((sizes, {"gpu1": size // 2}, {"gpu0": size // 2, "gpu1": size // 2}))
        if self.random.random() < 0.05:
            sizes = {"gpu0": 500}
        expected_s = self.random.choice((0.5, 4.0))
        spec = ModelSpec(name, name, Footprint(sizes, band_ratio=band), load_s_expected=expected_s)
        return self._with_rules(spec)

    def _with_rules(self, spec: ModelSpec) -> ModelSpec:
        chance, sizes = self.random, spec.footprint.bytes
        if self.has("kinds"):
            spec = replace(spec, kind=chance.choice(("local", "ollama")))
        if self.has("groups"):
            spec = replace(spec, group=chance.choice(("", "g")), weight=chance.choice((0.5, 1.0, 10.0)))
        if self.has("rungs") and chance.random() < 0.5:
            smaller = [{device: count * share // 10 for device, count in sizes.items()} for share in (7, 4)]
            rungs = [
                replace(spec, identity=f"{spec.name}/{n}", footprint=Footprint(one), degraded=(f"step {n}",))
                for n, one in enumerate(smaller)
            ]
            spec = replace(spec, rungs=tuple(rungs))
        if self.has("unknown_sizes") and chance.random() < 0.3:
            spec = replace(spec, footprint=Footprint(dict.fromkeys(sizes, 0), "unknown"), rungs=())
        return spec

    def _arrive(self) -> None:
        index = self.random.randrange(len(self.specs))
        if self.has("new_options") and self.random.random() < 0.05:
            self.specs[index] = replace(self.specs[index], identity=f"{self.specs[index].name}/{self._count}")
        self.ask(self._wish(self.specs[index]))

    def ask(self, spec: ModelSpec) -> Client:
        self._tickets += 1
        wait_s = self.random.choice((0.5, 5.0, 20.0)) if self.has("short_deadlines") else 60.0
        wait_s = 600.0 if self.is_healed else wait_s
        client = self.clients[self._tickets] = Client(self._tickets, spec.name, self.now + wait_s)
        keep_alive_s = self.random.choice((None, 0.0, 5.0)) if self.has("keep_alive") else None
        caller = self.random.choice("aaab")
        if self.has("cancels") and self.random.random() < 0.3:
            ticket = client.ticket
            self.later(self.now + self.random.choice((0.0, 0.3, 3.0)), lambda: self._cancel(ticket))
        priority = self.random.choice((0, 0, 0, 5)) if self.has("priorities") else 0
        client.spec = spec
        self.feed(say.Requested(self.now, client.ticket, spec, caller, client.deadline, keep_alive_s, priority))
        return client

    def _cancel(self, ticket: int) -> None:
        if ticket in self.clients:
            self._done(ticket, "cancelled")
            self.feed(say.Cancelled(self.now, ticket))

    def _release(self, ticket: int) -> None:
        if ticket in self.clients:
            self._done(ticket, "served")
            self.feed(say.Released(self.now, ticket))

    def _done(self, ticket: int, outcome: str) -> None:
        client = self.clients.pop(ticket)
        client.place, client.outcome = "done", outcome

    # What goes wrong, and what operators do.

    def _read(self) -> None:
        """Look at the devices, as the manager does."""
        used = dict(self.foreign)
        for worker in self.workers.values():
            for device, count in worker.size.items():
                used[device] += int(count * worker.share)
        readings = tuple(
            DeviceReading(device, device, total, max(0, total - used[device]), "gpu")
            for device, total in self.devices.items()
        )
        self.foreign_read = {device: min(count, self.devices[device]) for device, count in self.foreign.items()}
        up = [one for one in self.workers.values() if one.phase == "up"]
        for worker in up:
            worker.reserved = {device: max(count, worker.size[device]) for device, count in worker.reserved.items()}
        self.feed(say.DevicesRead(self.now, readings, {one.model: (one.epoch, dict(one.size)) for one in up}))

    def _again(self, every_s: float, act: Callable[[], None], until: float) -> None:
        at = every_s
        while at < until:
            self.later(at, act)
            at += every_s

    def _tick(self, alarm: say.WakeAt) -> None:
        if alarm is self.alarm:
            self.alarm = None
            self.feed(say.Tick(max(alarm.at, self.now)))

    def _say(self, event: say.Loaded | say.LoadBroke | say.Unloaded | say.WorkerDied | say.Left) -> None:
        self.feed(event)
        self.past.append(event)

    def _foreign(self) -> None:
        device = self.random.choice(sorted(self.devices))
        self.foreign[device] = self.random.randint(0, self.devices[device] // 2)

    def _grow(self) -> None:
        up = [one for one in self.workers.values() if one.phase == "up"]
        if up:
            worker = self.random.choice(up)
            worker.size = {device: count + 10 for device, count in worker.size.items()}

    def _crash(self) -> None:
        up = [one for one in self.workers.values() if one.phase == "up"]
        if up and not self.is_healed:
            worker = self.random.choice(up)
            worker.share = 0.0
            error = WorkerCrashed(model=worker.model, exit="planted")
            self._say(say.WorkerDied(self.now, worker.model, worker.epoch, error))

    def _operate(self) -> None:
        spec = self.random.choice(self.specs)
        match self.random.choice(("unload", "force", "load")):
            case "load":
                self._tickets += 1
                self.clients[self._tickets] = Client(self._tickets, spec.name, self.now + 60.0, takes_slot=False)
                self.feed(say.LoadAsked(self.now, self._tickets, spec, self.now + 60.0))
            case "force":
                self.forced.add(spec.name)
                self.feed(say.UnloadAsked(self.now, spec.name, force=True))
                self.forced.discard(spec.name)
            case _:
                self.feed(say.UnloadAsked(self.now, spec.name))

    def _pin(self) -> None:
        name = self.random.choice(self.specs).name
        pinned = name not in self.pinned
        (self.pinned.add if pinned else self.pinned.discard)(name)
        self.feed(say.PinAsked(self.now, name, pinned))

    def _appear(self) -> None:
        """Another node on our device brings a model in without asking, if the device has the memory."""
        name, device = self.random.choice(("o1", "o2")), "gpu0"
        size = self.random.randint(5, 20)
        used = sum(one.size.get(device, 0) for one in self.workers.values()) + self.foreign[device]
        if name in self.workers or self.is_healed or used + size > self.devices[device]:
            return
        spec = ModelSpec(name, name, Footprint({device: size}, "measured"), kind="ollama")
        effects = self.feed(say.Adopted(self.now, spec, {device: size}))
        if not any(isinstance(effect, say.Adopt) for effect in effects):
            return
        self._read()

    def _adopt(self, effect: say.Adopt) -> None:
        size = effect.spec.footprint.bytes
        worker = Worker(effect.model, effect.epoch, dict(size), self.now, dict(size), phase="up", share=1.0)
        worker.is_adopted = True
        self.workers[effect.model] = worker

    def _vanish(self) -> None:
        """It takes one out by itself."""
        theirs = [one for one in self.workers.values() if one.is_adopted and one.phase == "up"]
        if theirs:
            worker = self.random.choice(theirs)
            del self.workers[worker.model]
            self._read()
            self._say(say.Left(self.now, worker.model, worker.epoch))
            for client in [one for one in self.clients.values() if one.epoch == worker.epoch and one.place == "leased"]:
                self._release(client.ticket)

    def _recycle(self) -> None:
        up = [one for one in self.workers.values() if one.phase == "up"]
        if up:
            worker = self.random.choice(up)
            self.feed(say.RecycleAsked(self.now, worker.model, worker.epoch, "planted"))

    def _stale(self) -> None:
        live = {(one.model, one.epoch) for one in self.workers.values()}
        old = [one for one in self.past if (getattr(one, "model", ""), getattr(one, "epoch", 0)) not in live]
        if old:
            self.stale_event = replace(self.random.choice(old), now=self.now)
            self.feed(self.stale_event)

    def _heal(self) -> None:
        """No more faults and no more others; every model must be served again in bounded time."""
        self.is_healed = True
        self.foreign = dict.fromkeys(self.devices, 0)
        self.features -= {
            "wrong_sizes", "failing_loads", "cancels", "short_deadlines", "new_options", "growth", "stalls", "contexts",
        }  # fmt: skip
        while any(one.is_adopted and one.phase == "up" for one in self.workers.values()):
            self._vanish()
        for name in sorted(self.pinned):
            self.pinned.discard(name)
            self.feed(say.PinAsked(self.now, name, False))
        self._read()
        self.later(self.now + 700.0, self._finish)

    def _finish(self) -> None:
        self.late = [self.ask(spec) for spec in self.specs if self._can_fit(spec)]

    def _can_fit(self, spec: ModelSpec) -> bool:
        budgets = {device: total - self.limits.headroom_bytes for device, total in self.devices.items()}
        return any(
            all(count <= budgets[device] for device, count in way.footprint.reserved_bytes.items()) for way in spec.ways
        )

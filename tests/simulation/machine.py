"""The simulated machine: devices, and workers that carry out what the scheduler asks for, well or badly.

Knows nothing of clients and operators; `World` adds those.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from modelyard.errors import LoadFailed, WorkerCrashed
from modelyard.residency import messages as say
from modelyard.residency.scheduler import Scheduler
from modelyard.residency.state import ResidencyLimits
from modelyard.types.memory import DeviceReading
from modelyard.types.model import ModelSpec

from .plan import Dice, Schedule, limits_of, specs_of

READ_EVERY_S = 5.0
STALL_S = 40.0  # a load without progress is ended then
UNKNOWN_SIZE = 20  # what a model of unknown size takes

_CODES: dict[type, int] = {
    kind: number for number, kind in enumerate((
        say.Requested, say.Adopted, say.Left, say.Released, say.Cancelled, say.Loaded, say.LoadBroke, say.WorkerDied,
        say.Unloaded, say.DevicesRead, say.LoadAsked, say.UnloadAsked, say.PinAsked, say.RecycleAsked, say.Tick,
        say.Shutdown, say.Load, say.Adopt, say.Unload, say.Grant, say.Refuse, say.WakeAt, say.Tell,
    ))
}  # fmt: skip

WorkerSays = say.Loaded | say.LoadBroke | say.WorkerDied | say.Unloaded | say.Left


@dataclass(slots=True, eq=False)
class Worker:
    """One worker process, as the machine sees it."""

    model: str
    epoch: int
    spec: ModelSpec
    size: dict[str, int]  # what it takes once it is up
    began_at: float
    reserved: dict[str, int]
    dice: Dice
    phase: str = "loading"  # loading, ready (not said yet), up, dead (not said yet), ending, gone (not said yet)
    is_adopted: bool = False  # brought in by another node
    share: float = 0.3  # of its size while it loads


@dataclass(slots=True, eq=False)
class Client:
    """One request, as whoever sent it sees it."""

    ticket: int
    model: str
    deadline: float
    dice: Dice = field(repr=False)
    spec: ModelSpec = field(repr=False)
    place: str = "waiting"  # waiting, leased, done
    epoch: int = 0
    outcome: str = ""
    bypassed: int = 0
    takes_slot: bool = True


@dataclass(eq=False)
class Machine:
    """Devices, workers and time. `watch` is called after each step with the event and its effects."""

    LOADS_S: ClassVar[tuple[float, ...]] = (0.1, 0.5, 2.0, 10.0)
    SLOTS: ClassVar[tuple[int, ...]] = (1, 2, 4)

    plan: Schedule
    watch: Callable[..., None]
    make: Callable[[ResidencyLimits], Scheduler] = Scheduler
    now: float = 0.0
    trace: int = 0
    steps: int = 0
    stepped_at: float = 0.0
    slept_s: float = 0.0
    workers: dict[str, Worker] = field(default_factory=dict)
    clients: dict[int, Client] = field(default_factory=dict)  # those not done
    foreign_read: dict[str, int] = field(default_factory=dict)  # what others held at the last reading
    pinned: set[str] = field(default_factory=set)
    forced: set[str] = field(default_factory=set)  # models with a forced unload asked
    past: list[WorkerSays] = field(default_factory=list)  # what workers said, to be said again
    repeated: say.Event | None = None  # said once more this very step: must change nothing
    is_healed: bool = False
    is_stopping: bool = False
    alarm: say.WakeAt | None = None
    newest_epoch: int = 0
    ways: dict[int, str] = field(default_factory=dict)  # epoch -> the identity it was started with
    roles_before: frozenset[str] = frozenset()  # of the model an operator lets go of

    def __post_init__(self) -> None:
        self.features = set(self.plan.features)
        self.is_narrow = self.plan.is_narrow
        self.limits = limits_of(self.plan)
        self.specs = specs_of(self.plan)
        self.devices = {"gpu0": 100, **({"gpu1": 60} if self.has("two_devices") else {})}
        self.foreign = dict.fromkeys(self.devices, 0)
        self.scheduler = self.make(self.limits)
        self._jumps = self.has("clock_jumps")
        self._dice = Dice(self.plan.seed * 4)
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    def has(self, feature: str) -> bool:
        return feature in self.features

    def later(self, at: float, act: Callable[[], object]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, act))

    def feed(self, event: say.Event) -> list[say.Effect]:
        """One step: watched, traced, carried out."""
        if type(event) is say.UnloadAsked:
            self.roles_before = frozenset(self.scheduler.roles.get(event.model, ()))
        effects = self.scheduler.step(event)
        self.steps += 1
        if effects or type(event) is not say.Tick:
            self.stepped_at = self.now
        self.watch(self, event, effects)
        trace = hash((self.trace, event.now, _CODES[type(event)]))  # of numbers only: the same in every process
        for effect in effects:
            kind = type(effect)
            if kind is say.Grant or kind is say.Refuse:
                trace = hash((trace, _CODES[kind], effect.ticket))  # type: ignore[union-attr]
            elif kind is say.Load or kind is say.Unload:
                trace = hash((trace, _CODES[kind], effect.epoch))  # type: ignore[union-attr]
        self.trace = trace
        for effect in effects:
            if type(effect) is not say.Tell:
                self._carry_out(effect)
        return effects

    def _carry_out(self, effect: say.Effect) -> None:
        if isinstance(effect, say.Refuse):
            self.done(effect.ticket, type(effect.error).__name__)
        elif isinstance(effect, say.WakeAt):
            self.alarm = effect  # the last one asked for counts
            self.later(effect.at, lambda: self._tick(effect))
        elif isinstance(effect, say.Grant):
            self.granted(effect)
        elif isinstance(effect, say.Load):
            self._load(effect)
        elif isinstance(effect, say.Unload):
            self._unload(effect)
        elif isinstance(effect, say.Adopt):
            self._adopt(effect)

    def granted(self, grant: say.Grant) -> None:
        raise NotImplementedError

    def release(self, ticket: int) -> None:
        raise NotImplementedError

    def done(self, ticket: int, outcome: str) -> None:
        raise NotImplementedError

    def _tick(self, alarm: say.WakeAt) -> None:
        if alarm is self.alarm:
            self.alarm = None
            self.feed(say.Tick(max(alarm.at, self.now)))

    # Workers: what they do, and what is said of it.

    def _load(self, effect: say.Load) -> None:
        model, spec = effect.model, effect.spec
        dice = Dice(self.plan.seed * 4099 + effect.epoch * 31 + len(model))
        wrong = dice.between(70, 130) if self.has("wrong_sizes") else 100
        known = spec.footprint.bytes if spec.footprint.is_known else dict.fromkeys(spec.footprint.bytes, UNKNOWN_SIZE)
        size = {device: count * wrong // 100 for device, count in known.items()}
        reserved = dict(self.scheduler.records[model].held)
        self.ways[effect.epoch] = spec.identity
        self.newest_epoch = effect.epoch
        worker = self.workers[model] = Worker(model, effect.epoch, spec, size, self.now, reserved, dice)
        takes_s = dice.pick(self.LOADS_S)
        fails = dice.percent(20) and self.has("failing_loads") and not self.is_healed
        if dice.percent(8) and self.has("stalls") and not self.is_healed:
            takes_s, fails = STALL_S, True
        self.later(self.now + takes_s, lambda: self._load_ends(worker, fails))

    def _load_ends(self, worker: Worker, fails: bool) -> None:
        if worker.phase != "loading":
            return
        if fails:
            worker.phase, worker.share = "gone", 0.0
            error = LoadFailed(model=worker.model, problem="planted")
            self.tell(worker, say.LoadBroke(self.now, worker.model, worker.epoch, error, worker.dice.percent(50)))
        else:
            worker.phase, worker.share = "ready", 1.0
            slots, took_s = worker.dice.pick(self.SLOTS), self.now - worker.began_at
            size = worker.size
            self.tell(worker, say.Loaded(self.now, worker.model, worker.epoch, slots, size, size, took_s))

    def crash(self, worker: Worker) -> None:
        """It ends by itself: while it serves, or on its way out, when that is no news any more."""
        worker.share = 0.0
        if worker.phase == "up":
            worker.phase = "dead"
        error = WorkerCrashed(model=worker.model, exit="planted")
        self.tell(worker, say.WorkerDied(self.now, worker.model, worker.epoch, error))

    def _unload(self, effect: say.Unload) -> None:
        worker = self.workers.get(effect.model)
        if worker is None or worker.epoch != effect.epoch or worker.phase == "gone":
            return  # it went by itself, and the word of that is under way
        worker.phase = "ending"
        takes_s = worker.dice.pick((0.01, 0.1, 4.0, 20.0)) if self.has("late_exits") else 0.05
        if worker.dice.percent(8) and self.has("deaf_workers"):
            takes_s = 60.0
        self.later(self.now + takes_s, lambda: self._exits(worker))

    def _exits(self, worker: Worker) -> None:
        leaked = 0
        if worker.dice.percent(20) and self.has("leaks"):
            for device, count in worker.size.items():
                leaked += int(count * worker.share) // 4
                self.foreign[device] += int(count * worker.share) // 4
        worker.phase, worker.share = "gone", 0.0
        self.tell(worker, say.Unloaded(self.now, worker.model, worker.epoch, leaked))

    def tell(self, worker: Worker, event: WorkerSays) -> None:
        """Pass on what happened to a worker: now or late, once or twice. Late words may come in another order."""
        if self.has("late_messages") and worker.dice.percent(30):
            self.later(self.now + worker.dice.pick((0.01, 0.5, 3.0)), lambda: self._pass_on(worker, event))
        else:
            self._pass_on(worker, event)

    def _pass_on(self, worker: Worker, event: WorkerSays) -> None:
        kind = type(event)
        is_end = kind is say.Unloaded or kind is say.LoadBroke or kind is say.Left
        self.read()  # as the manager does, just before
        if is_end and self.workers.get(worker.model) is worker:
            del self.workers[worker.model]
        elif kind is say.Loaded and worker.phase == "ready":
            worker.phase, worker.reserved = "up", dict(worker.size)
        object.__setattr__(event, "now", self.now)
        self.feed(event)
        self.past.append(event)
        if is_end:
            for client in [one for one in self.clients.values() if one.epoch == worker.epoch and one.place == "leased"]:
                self.release(client.ticket)
        if self.has("repeated_messages") and worker.dice.percent(30):
            self.later(self.now + worker.dice.pick((0.0, 1.0)), lambda: self.say_again(event))

    def say_again(self, event: WorkerSays) -> None:
        object.__setattr__(event, "now", self.now)
        self.repeated = event
        self.feed(event)
        self.repeated = None

    def _adopt(self, effect: say.Adopt) -> None:
        size = dict(effect.spec.footprint.bytes)
        dice = Dice(self.plan.seed * 4099 + effect.epoch)
        worker = Worker(effect.model, effect.epoch, effect.spec, size, self.now, dict(size), dice, "up", True, 1.0)
        self.workers[effect.model] = worker
        self.newest_epoch = effect.epoch

    # What the devices say.

    def used(self) -> dict[str, int]:
        used = dict(self.foreign)
        for worker in self.workers.values():
            for device, count in worker.size.items():
                used[device] += int(count * worker.share)
        return used

    def read(self) -> None:
        """Look at the devices, as the manager does."""
        used, devices = self.used(), self.devices
        readings = tuple(
            DeviceReading(device, device, total, max(0, total - used[device]), "gpu")
            for device, total in devices.items()
        )
        self.foreign_read = {device: min(count, devices[device]) for device, count in self.foreign.items()}
        in_use: dict[str, tuple[int, dict[str, int]]] = {}
        for worker in self.workers.values():
            if worker.phase == "up":
                size = worker.size
                worker.reserved = {device: max(count, size[device]) for device, count in worker.reserved.items()}
                in_use[worker.model] = worker.epoch, size
        self.feed(say.DevicesRead(self.now, readings, in_use))

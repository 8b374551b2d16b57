"""A scheduler on a stage: short words for events, and what came of them. For tests only."""

from __future__ import annotations

from typing import Any, TypeVar

from modelyard.errors import LoadFailed, WorkerCrashed, YardError
from modelyard.residency.messages import (
    Cancelled,
    DevicesRead,
    Effect,
    Event,
    Grant,
    Load,
    LoadAsked,
    LoadBroke,
    Loaded,
    PinAsked,
    Refuse,
    Released,
    Requested,
    Shutdown,
    Tell,
    Tick,
    Unload,
    UnloadAsked,
    Unloaded,
    WakeAt,
    WorkerDied,
)
from modelyard.residency.scheduler import Scheduler
from modelyard.residency.state import ResidencyLimits
from modelyard.types.memory import DeviceReading, Footprint
from modelyard.types.model import ModelSpec

E = TypeVar("E", bound=Effect)
FOREVER = 1e9


def spec(name: str, size: int, **more: object) -> ModelSpec:
    """A model that needs `size` bytes of gpu0."""
    return ModelSpec(name, str(more.pop("identity", name)), Footprint({"gpu0": size}), **more)  # type: ignore[arg-type]


class Stage:
    """One scheduler with one device of ten bytes."""

    def __init__(self, total: int = 10, **limits: object) -> None:
        self.scheduler = Scheduler(ResidencyLimits(headroom_bytes=0, **limits))  # type: ignore[arg-type]
        self.now = 0.0
        self.total = total
        self.last: list[Effect] = []
        self.read(used=0)

    def feed(self, event: Event) -> list[Effect]:
        self.last = self.scheduler.step(event)
        return self.last

    def all_of(self, kind: type[E]) -> list[E]:
        return [one for one in self.last if isinstance(one, kind)]

    def epoch(self, model: str) -> int:
        return self.scheduler.records[model].epoch

    def read(self, used: int, total: int | None = None, **in_use: int) -> Stage:
        self.total = total or self.total
        reading = DeviceReading("gpu0", "gpu", self.total, self.total - used, "gpu")
        own = {name: (self.epoch(name), {"gpu0": count}) for name, count in in_use.items()}
        self.feed(DevicesRead(self.now, (reading,), own))
        return self

    def ask(self, ticket: int, model: ModelSpec, caller: str = "me", **more: Any) -> Stage:
        deadline = more.pop("deadline", FOREVER)
        self.feed(Requested(self.now, ticket, model, caller, deadline, **more))
        return self

    def ask_load(self, ticket: int, model: ModelSpec, pinned: bool | None = None) -> Stage:
        self.feed(LoadAsked(self.now, ticket, model, FOREVER, pinned))
        return self

    def loaded(self, model: str, slots: int = 1, size: int | None = None, load_s: float = 0.0) -> Stage:
        record = self.scheduler.records[model]
        held = {"gpu0": size} if size is not None else dict(record.spec.footprint.bytes)
        self.feed(Loaded(self.now, model, record.epoch, slots, held, held, load_s))
        return self

    def load_broke(self, model: str, error: YardError | None = None) -> Stage:
        self.feed(LoadBroke(self.now, model, self.epoch(model), error or LoadFailed(model=model, problem="bad")))
        return self

    def died(self, model: str) -> Stage:
        error = WorkerCrashed(model=model, exit="signal 9")
        self.feed(WorkerDied(self.now, model, self.epoch(model), error))
        return self

    def unloaded(self, model: str) -> Stage:
        self.feed(Unloaded(self.now, model, self.epoch(model)))
        return self

    def release(self, ticket: int) -> Stage:
        self.feed(Released(self.now, ticket))
        return self

    def cancel(self, ticket: int) -> Stage:
        self.feed(Cancelled(self.now, ticket))
        return self

    def unload(self, model: str, force: bool = False) -> Stage:
        self.feed(UnloadAsked(self.now, model, force))
        return self

    def pin(self, model: str, pinned: bool = True) -> Stage:
        self.feed(PinAsked(self.now, model, pinned))
        return self

    def shut_down(self, force: bool = False) -> Stage:
        self.feed(Shutdown(self.now, force))
        return self

    def at(self, now: float) -> Stage:
        """Let time pass and the alarm ring."""
        self.now = now
        self.feed(Tick(now))
        return self

    def resident(self, model: ModelSpec, slots: int = 1, load_s: float = 0.0) -> Stage:
        """Bring a model in and leave it idle."""
        self.ask(-1, model).loaded(model.name, slots, load_s=load_s).release(-1)
        return self

    @property
    def granted(self) -> list[int]:
        return [one.ticket for one in self.all_of(Grant)]

    @property
    def refused(self) -> list[int]:
        return [one.ticket for one in self.all_of(Refuse)]

    @property
    def error(self) -> YardError:
        return self.all_of(Refuse)[0].error

    @property
    def loads(self) -> list[str]:
        return [one.model for one in self.all_of(Load)]

    @property
    def unloads(self) -> list[tuple[str, str]]:
        return [(one.model, one.reason) for one in self.all_of(Unload)]

    @property
    def sent_away(self) -> list[str]:
        return [one.model for one in self.all_of(Unload)]

    @property
    def told(self) -> list[str]:
        return [one.name for one in self.all_of(Tell)]

    @property
    def wake_at(self) -> list[float]:
        return [one.at for one in self.all_of(WakeAt)]

    def state(self, model: str) -> str:
        record = self.scheduler.records.get(model)
        return record.state.value if record else "absent"

"""What the manager tells of the residency: snapshots for status pages, metrics and who waits. Reads only, advisory."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.clock import Clock
from modelyard.types.model import Model, ModelSpec
from modelyard.types.status import DeviceStatus, Residency, ResidentStatus, WaitStatus

from . import report
from .hosting import Hosting
from .outlook import Outlook, outlook
from .scheduler import Scheduler
from .waiting import all_waiting, wait_status
from .watch import DeviceWatch

LOAD_S = 5.0  # of a model that was never asked for


@dataclass(frozen=True, slots=True)
class Glance:
    """How it stands with one model, as cheaply as it can be told."""

    is_resident: bool  # or being loaded
    in_flight: int  # leases, and who waits for one
    slots: int  # 0: nobody knows before its first load
    load_s: float  # until it could answer


class Standing:
    """The reading half of the manager."""

    _clock: Clock
    _scheduler: Scheduler
    _hosting: Hosting
    _watch: DeviceWatch
    _models: dict[str, Model]
    _specs: dict[tuple[str, int | None], ModelSpec]
    _numbers: dict[str, int]  # by request: the number under which it waits

    def residents(self) -> tuple[ResidentStatus, ...]:
        engines = {name: model.engine for name, model in self._models.items()}
        return report.residents(self._scheduler, self._hosting.by_epoch, engines, self._clock.monotonic())

    def devices(self) -> tuple[DeviceStatus, ...]:
        return report.devices(self._scheduler, self._watch.holders_on)

    async def refresh(self) -> None:
        """Bring what `devices` says up to date."""
        await self._watch.fresh()

    def waiting(self) -> tuple[WaitStatus, ...]:
        """Everybody who waits for memory or a slot, in the order in which models get memory."""
        told = all_waiting(self._scheduler, self._clock.monotonic())
        return tuple(report.with_progress(one, self._hosting.current(one.model), self._clock) for one in told)

    def waiting_of(self, request: str) -> WaitStatus | None:
        """How it stands with one request, by the id its lease was asked for with; None if it does not wait."""
        number = self._numbers.get(request)
        told = None if number is None else wait_status(self._scheduler, number, self._clock.monotonic())
        return None if told is None else report.with_progress(told, self._hosting.current(told.model), self._clock)

    def outlook(self, spec: ModelSpec) -> Outlook:
        """Whether a load would fit now, after evictions, or never. Advisory."""
        scheduler = self._scheduler
        pinned = frozenset(one.spec.name for one in scheduler.records.values() if scheduler.is_pinned(one.spec))
        return outlook(spec, scheduler.records, scheduler.books.ledgers, pinned, self._clock.monotonic())

    def glance(self, model: Model) -> Glance:
        """How soon a model could answer one more, for whoever compares it with copies elsewhere."""
        scheduler = self._scheduler
        record, line = scheduler.records.get(model.name), scheduler.queue.lines.get(model.name)
        waiting = 0 if line is None else sum(len(turn) for turn in line.turns.values())
        if record is not None and record.is_staying:
            ready_at = 0.0 if record.is_open else record.started_at + record.spec.load_s_expected
            load_s = max(0.0, ready_at - self._clock.monotonic())
            return Glance(True, record.leases + waiting, record.slots or record.spec.slots, load_s)
        spec = self._specs.get((model.identity, None))
        if spec is None:
            return Glance(False, waiting, 0, LOAD_S)
        return Glance(False, waiting, spec.slots, spec.load_s_expected)

    def failures(self) -> dict[str, str]:
        """Per model why its last load or worker failed, if nothing went well since."""
        return self._scheduler.failures.reasons()

    def residency_of(self, name: str) -> Residency:
        """Advisory: it may change the next moment."""
        record = self._scheduler.records.get(name)
        if record is not None:
            return record.state
        return Residency.WAITING if name in self._scheduler.promised else Residency.ABSENT

    @property
    def queue_length(self) -> int:
        return len(self._scheduler.queue)

    @property
    def lease_count(self) -> int:
        return len(self._scheduler.leases)

"""Historical bugs of other servers, planted one at a time. The simulation must find every one of them."""

from __future__ import annotations

from dataclasses import replace

from modelyard.errors import YardError
from modelyard.residency import messages as say
from modelyard.residency.queue import Ticket
from modelyard.residency.scheduler import Scheduler
from modelyard.residency.state import Failures, MemoryBooks, Record, ResidencyLimits
from modelyard.types.model import ModelSpec
from modelyard.types.status import Residency


class LostDecrementOnCancel(Scheduler):
    """A cancelled lease stays counted."""

    def step(self, event: say.Event) -> list[say.Effect]:
        if isinstance(event, say.Cancelled) and event.ticket in self.leases:
            return []
        return super().step(event)


class ReleaseBeforeExit(Scheduler):
    """Memory counts as free when the order to unload is given."""

    def _send_away(self, record: Record, reason: str) -> None:
        super()._send_away(record, reason)
        record.held = dict.fromkeys(record.held, 0)


class FailedLoadKeepsReservation(Scheduler):
    """A load that failed still holds its bytes."""

    def _worker_changed(self, event: say.Loaded | say.LoadBroke | say.WorkerDied | say.Unloaded) -> bool:
        record = self.records.get(event.model)
        done = super()._worker_changed(event)
        if isinstance(event, say.LoadBroke) and record is not None and record.state is Residency.LOADING:
            self.records.setdefault(event.model, record)
        return done


class DoubleUnload(Scheduler):
    """A model on its way out can be sent out again."""

    def _unload_asked(self, model: str, *, force: bool, role: str = "") -> bool:
        record = self.records.get(model)
        done = super()._unload_asked(model, force=force, role=role)
        if record is not None and record.state is Residency.LEAVING:
            self._effects.append(say.Unload(model, record.epoch, "operator"))
        return done


class EarlyEndOfSharedLoad(Scheduler):
    """Whoever began a load takes it along when leaving."""

    def step(self, event: say.Event) -> list[say.Effect]:
        waiting = [line for line in self.queue.lines.values() if line.head.number == getattr(event, "ticket", 0)]
        effects = super().step(event)
        for line in waiting:
            record = self.records.get(line.spec.name)
            if isinstance(event, say.Cancelled) and record is not None and record.state is Residency.LOADING:
                self._send_away(record, "abandoned")
        return effects


class StickyFailure(Scheduler):
    """A failure is never forgotten."""

    def __init__(self, limits: ResidencyLimits) -> None:
        super().__init__(limits)
        failures = self.failures

        class Sticky(Failures):
            def load_broke(self, model: str, now: float, error: YardError) -> None:
                super().load_broke(model, now + 1e9, error)

        self.failures = Sticky(limits)
        assert failures is not self.failures


class OneWayEjection(Scheduler):
    """Whoever crashed once is never tried again."""

    def __init__(self, limits: ResidencyLimits) -> None:
        super().__init__(limits)

        class Ejecting(Failures):
            def died(self, model: str, now: float, error: YardError) -> None:
                super().died(model, now, error)
                self.load_broke(model, now + 1e9, error)

        self.failures = Ejecting(limits)


class ShortenedCooldown(Scheduler):
    """A second failure makes the wait shorter instead of longer."""

    def __init__(self, limits: ResidencyLimits) -> None:
        super().__init__(limits)

        class Shortening(Failures):
            def refusal(self, model: str, now: float) -> YardError | None:
                is_first = self.delay_s(model) <= limits.backoff_s
                return super().refusal(model, now) if is_first else None

        self.failures = Shortening(limits)


class LockHeldOnException(Scheduler):
    """A load that fails leaves the door to memory closed."""

    is_locked = False

    def _worker_changed(self, event: say.Loaded | say.LoadBroke | say.WorkerDied | say.Unloaded) -> bool:
        self.is_locked = self.is_locked or isinstance(event, say.LoadBroke)
        return super()._worker_changed(event)

    def _propose(self) -> list[float]:
        return [] if self.is_locked else super()._propose()


class UnboundedBypass(Scheduler):
    """Residents overtake for ever."""

    def __init__(self, limits: ResidencyLimits) -> None:
        super().__init__(replace(limits, bypass_count_max=10**9, drain_after_s=1e9))


class ExpiryUnderUse(Scheduler):
    """The idle timer does not look at leases."""

    def expires_at(self, record: Record) -> float | None:
        if not record.is_open or self.is_pinned(record.spec):
            return None
        return record.idle_since + self.stays_s(record)

    def _send_away(self, record: Record, reason: str) -> None:
        record.leave(reason)
        self._effects.append(say.Unload(record.spec.name, record.epoch, reason))


class ReloadForNothing(Scheduler):
    """Another wish for how long to stay counts as another model."""

    def _requested(self, event: say.Requested) -> bool:
        record = self.records.get(event.spec.name)
        if record is not None and record.is_open and event.keep_alive_s == 5.0:
            self._order_out(record, "change", force=False)
        return super()._requested(event)


class ResurrectedVictim(Scheduler):
    """A model on its way out is given to a newcomer."""

    def _requested(self, event: say.Requested) -> bool:
        record = self.records.get(event.spec.name)
        if record is not None and record.state is Residency.LEAVING and record.slots:
            self.leases[event.ticket] = record
            self._effects.append(say.Grant(event.ticket, event.spec.name, record.epoch))
            return True
        return super()._requested(event)


class BlindToOthers(Scheduler):
    """Memory held by others is not seen."""

    def __init__(self, limits: ResidencyLimits) -> None:
        super().__init__(limits)
        self.books = _BlindBooks(limits.headroom_bytes)


class _BlindBooks(MemoryBooks):
    def update(self, records: object) -> None:
        super().update(())
        for device, ledger in self.ledgers.items():
            self.ledgers[device] = type(ledger)(device, ledger.total_bytes, ledger.headroom_bytes, 0)


class LateGrant(Scheduler):
    """Deadlines are looked at only on arrival."""

    def _wait(self, ticket: Ticket) -> bool:
        ticket.deadline += 50.0
        return super()._wait(ticket)


class SecondLoadByReload(Scheduler):
    """New launch options start another worker beside the old one."""

    def _requested(self, event: say.Requested) -> bool:
        record = self.records.get(event.spec.name)
        if record is not None and record.is_open and record.spec.identity != event.spec.identity:
            del self.records[event.spec.name]
            self._start(event.spec, event.spec.footprint.reserved_bytes)
        return super()._requested(event)


class SecondLoad(Scheduler):
    """A request for a model that leaves starts another worker beside it."""

    def _requested(self, event: say.Requested) -> bool:
        record = self.records.get(event.spec.name)
        if record is not None and record.state is Residency.LEAVING:
            del self.records[event.spec.name]
            self._start(event.spec, event.spec.footprint.reserved_bytes)
        return super()._requested(event)


class PinsForgotten(Scheduler):
    """A pin keeps nobody."""

    def is_pinned(self, spec: ModelSpec) -> bool:
        return False


HISTORICAL = (
    ResurrectedVictim, LockHeldOnException, LostDecrementOnCancel, ExpiryUnderUse, DoubleUnload, ReleaseBeforeExit,
    FailedLoadKeepsReservation, SecondLoadByReload, EarlyEndOfSharedLoad, StickyFailure, OneWayEjection,
    ShortenedCooldown, ReloadForNothing, UnboundedBypass,
)  # fmt: skip
FURTHER = (SecondLoad, BlindToOthers, LateGrant, PinsForgotten)

"""Who is in memory, and who may use it: one state machine. Pure: events in, effects out.

    absent ──Load──▶ loading ──Loaded──▶ resident ◀──▶ draining ──▶ leaving ──Unloaded──▶ absent
                        └──LoadBroke──▶ absent            (any of them may be sent to leaving)

Promises, at every step: reservations and foreign use together stay within each device's budget when a load starts;
a leased or pinned model never leaves for another's need; each load has one epoch and one end; each ticket gets one
answer. It is told the time and never asks for it. Owned by the manager, which alone calls `step`.
"""

from __future__ import annotations

from modelyard.errors import ModelUnloaded, ShuttingDown
from modelyard.memory.planner import NoFit, never_fits
from modelyard.types.model import ModelSpec
from modelyard.types.status import Residency

from .lifecycle import Lifecycle
from .messages import (
    Adopted,
    Cancelled,
    DevicesRead,
    Effect,
    Event,
    Left,
    LimitsChanged,
    LoadAsked,
    LoadBroke,
    Loaded,
    PinAsked,
    RecycleAsked,
    Released,
    Requested,
    Shutdown,
    Tell,
    Tick,
    UnloadAsked,
    Unloaded,
    WorkerDied,
)
from .queue import Ticket
from .refusals import no_room, queue_full, waited_too_long
from .state import ResidencyLimits

OPERATOR = "operator"  # the caller under whose name operators' loads wait


class Scheduler(Lifecycle):
    """Takes what happened, returns what to do."""

    def step(self, event: Event) -> list[Effect]:
        """Take one event. Most requests and releases need no second look at everybody else."""
        self._now = now = max(self._now, event.now)
        effects: list[Effect] = []
        self._effects = effects
        match event:
            case Requested():
                is_done = self._requested(event)
            case Released():
                is_done = self._released(event.ticket)
            case Cancelled():
                is_done = self.queue.remove(event.ticket) is None and self._released(event.ticket)
            case Tick():
                self._wake_at = None
                is_done = False
            case DevicesRead():
                is_done = self._devices_read(event)
            case LoadAsked():
                is_done = self._load_asked(event)
            case Loaded() | LoadBroke() | WorkerDied() | Unloaded():
                is_done = self._worker_changed(event)
            case UnloadAsked():
                is_done = self._unload_asked(event.model, force=event.force, role=event.role)
            case PinAsked():
                self._pins[event.model] = event.pinned
                self._has_pins = self._is_room_stale = True
                is_done = False
            case LimitsChanged():
                self._take_limits(event.limits)
                is_done = False
            case Shutdown():
                is_done = self._shutdown(force=event.force)
            case Adopted():
                is_done = self._adopted(event)
            case Left():
                is_done = self._left(event)
            case RecycleAsked():
                is_done = self._recycle_asked(event)
        if not is_done:
            self._settle(now)
        return effects

    def _take_limits(self, limits: ResidencyLimits) -> None:
        """Bounds that got tighter evict nobody by themselves: they count when room is looked for next."""
        self.limits = self.failures.limits = limits
        self.queue.skip_count_max = limits.bypass_count_max
        self.books.keep_free(limits.headroom_bytes, limits.headroom_by_device)
        self._are_books_stale = self._is_room_stale = True

    # Events. Each answers whether that is all: whether nobody else can be affected.

    def _requested(self, event: Requested) -> bool:
        """(1) Stopping: refuse. (2) Too late: refuse. (3) In memory with a free slot and nobody in front: grant.

        (4) Failed lately: refuse with the cause. (5) Can never fit: refuse. (6) Queue full: refuse, or displace who
        waits most. (7) Wait; settling joins a load under way or finds room for a new one.
        """
        self._arrivals += 1
        spec, now = event.spec, self._now
        ticket = Ticket(event.ticket, self._arrivals, spec, event.caller, now, event.deadline, event.keep_alive_s)
        ticket.priority = spec.priority + event.priority
        if event.role:
            self.roles.setdefault(spec.name, set()).add(event.role)
        record = self.records.get(spec.name)
        if self.is_shutting_down:  # (1)
            return self._refuse(event.ticket, ShuttingDown())
        if event.deadline <= now:  # (2)
            return self._refuse(event.ticket, waited_too_long(ticket, now))
        is_free = record is not None and record.has_room(ticket.order) and spec.name not in self.queue.lines
        if record is not None and is_free and record.spec.serves(spec):  # (3)
            return not self._grant(ticket, record)
        if record is None or not record.is_staying:
            failed = self.failures.refusal(spec.name, now)
            if failed is not None:  # (4)
                return self._refuse(event.ticket, failed)
        return self._wait(ticket)

    def _load_asked(self, event: LoadAsked) -> bool:
        """Like a request, but without a slot, and an operator may try again at once what has failed."""
        self._arrivals += 1
        spec, now = event.spec, self._now
        if self.is_shutting_down:
            return self._refuse(event.ticket, ShuttingDown())
        if event.pinned is not None:
            self._pins[spec.name] = event.pinned
            self._has_pins = self._is_room_stale = True
        if event.role:
            self.roles.setdefault(spec.name, set()).add(event.role)
        return self._wait(Ticket(event.ticket, self._arrivals, spec, OPERATOR, now, event.deadline, takes_slot=False))

    def _wait(self, ticket: Ticket) -> bool:
        hopeless = self._hopeless(ticket.spec)
        if hopeless is not None:  # (5)
            return self._refuse(ticket.number, no_room(ticket.spec, hopeless))
        if len(self.queue) >= self.limits.queue_max:  # (6)
            full = queue_full(len(self.queue), self.grant_gap_s)
            displaced = self.queue.to_displace(ticket.caller)
            if displaced is None:
                return self._refuse(ticket.number, full)
            self.queue.remove(displaced.number)
            self._refuse(displaced.number, full)
        setback = self.setbacks.get(ticket.spec.name)
        is_old = setback is not None and self._now > setback.at + self.limits.backoff_s
        if is_old and ticket.spec.name not in self.records:
            del self.setbacks[ticket.spec.name]  # long ago: memory may suffice again
        self._has_pins = self._has_pins or ticket.spec.pinned
        self.queue.push(ticket)  # (7)
        return False

    def _hopeless(self, spec: ModelSpec) -> NoFit | None:
        """Why no way to start it fits even on an empty machine; None if one does, or if it is in memory already."""
        record = self.records.get(spec.name)
        if (record is not None and record.is_staying) or not spec.footprint.is_known:
            return None
        first = never_fits(spec.footprint.reserved_bytes, self.books.ledgers)
        if first is None or any(
            never_fits(rung.footprint.reserved_bytes, self.books.ledgers) is None for rung in spec.rungs
        ):
            return None
        return first

    def _released(self, number: int) -> bool:
        record = self.leases.pop(number, None)
        if record is None:
            return True  # its load is gone, or it never had one
        record.leases -= 1
        assert record.leases >= 0, f"{record.spec.name} has fewer than no leases"
        if not record.leases:
            record.idle_since = self._now
            self._is_room_stale = True
        if self.queue.lines or self._is_overcommitted or record.state is not Residency.RESIDENT:
            return False
        if record.recycle_by is not None:
            return False
        expires_at = self.expires_at(record)
        if expires_at is None:
            return True
        self._wake(expires_at)
        return expires_at > self._now

    def _devices_read(self, event: DevicesRead) -> bool:
        for model, (epoch, in_use) in event.in_use.items():
            record = self._of_epoch(model, epoch)
            if record is not None and record.measure(in_use):
                self._are_books_stale = True
                if record.recycle_by is None and record.is_open and record.has_outgrown(self.limits):
                    self._recycle(record, "it outgrew its reservation")
        readings = {reading.device: reading for reading in event.readings}
        if readings != self.books.readings:
            self.books.readings = readings
            self._are_books_stale = True
        return not self._are_books_stale

    def _unload_asked(self, model: str, *, force: bool, role: str = "") -> bool:
        """Who waits for it gets a clear answer; leases are waited for unless forced. Its last role lets it go."""
        roles = self.roles.get(model, set())
        roles.discard(role)
        if role and roles:
            self._effects.append(Tell("model.role_released", {"model": model, "role": role, "roles": sorted(roles)}))
            return True
        self._refuse_line(model, ModelUnloaded(model=model))
        record = self.records.get(model)
        if record is not None:
            self._order_out(record, OPERATOR, force=force)
        return False

    def _shutdown(self, *, force: bool) -> bool:
        self.is_shutting_down = True
        for model in list(self.queue.lines):
            self._refuse_line(model, ShuttingDown())
        for record in list(self.records.values()):
            self._order_out(record, "shutdown", force=force)
        return False

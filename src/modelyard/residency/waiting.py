"""How it stands with whoever waits: place, reason, and a guess how long. Pure; asked on demand, and advisory.

The guess adds up what has to happen first: the rest of a load under way, else the load itself and, if busy models must
leave for it, the time after which they drain; then the requests in front, at the pace at which slots were given.
"""

from __future__ import annotations

from modelyard.types.model import ModelSpec
from modelyard.types.status import Residency, WaitStatus

from .outlook import outlook
from .queue import Line, Ticket
from .scheduler import Scheduler
from .state import Record


def all_waiting(scheduler: Scheduler, now: float) -> tuple[WaitStatus, ...]:
    """Everybody, in the order in which their models get memory."""
    return tuple(
        _status(scheduler, line, ticket, place, now)
        for _model, line in scheduler.queue.in_order()
        for place, ticket in enumerate(line.tickets(), 1)
    )


def wait_status(scheduler: Scheduler, number: int, now: float) -> WaitStatus | None:
    """One ticket; None if it does not wait."""
    ticket = scheduler.queue.ticket(number)
    if ticket is None:
        return None
    line = scheduler.queue.lines[ticket.spec.name]
    place = 1 + sum(one.order < ticket.order for one in line.tickets())
    return _status(scheduler, line, ticket, place, now)


def _status(scheduler: Scheduler, line: Line, ticket: Ticket, place: int, now: float) -> WaitStatus:
    name = ticket.spec.name
    record = scheduler.records.get(name)
    reason, detail, memory_s = _memory(scheduler, line, record, now)
    slots = record.slots if record is not None and record.slots else ticket.spec.slots
    behind = max(0, place - 1 - (0 if reason == "slot" else max(0, slots - 1)))
    slots_s = behind * scheduler.grant_gap_s if reason != "slot" else place * scheduler.grant_gap_s
    return WaitStatus(
        model=name,
        position=place,
        reason=reason,
        waited_s=max(0.0, now - ticket.arrived_at),
        eta_s=None if memory_s is None else memory_s + slots_s,
        detail=detail,
    )


def _memory(scheduler: Scheduler, line: Line, record: Record | None, now: float) -> tuple[str, str, float | None]:
    """Why there is no slot yet, who is in the way, and how long until the model is in memory."""
    if record is not None and record.is_open:
        return "slot", "", 0.0
    if record is not None and record.state is Residency.LOADING:
        return "loading", "", max(0.0, record.spec.load_s_expected - (now - record.started_at))
    load_s = line.spec.load_s_expected
    if record is not None or line.spec.name in scheduler.promised:
        leaving = sorted(one.spec.name for one in scheduler.records.values() if not one.is_staying)
        draining = sorted(
            one.spec.name for one in scheduler.records.values() if one.state is Residency.DRAINING and one.leases
        )
        return "memory", ", ".join(draining or leaving), load_s
    pinned = frozenset(one.spec.name for one in scheduler.records.values() if scheduler.is_pinned(one.spec))
    seen = outlook(_smallest(line.spec), scheduler.records, scheduler.books.ledgers, pinned, now)
    if seen.fit in ("blocked", "never"):
        ledger = scheduler.books.ledgers.get(seen.device)
        is_foreign = ledger is not None and ledger.foreign_bytes >= seen.short_bytes
        return "foreign" if is_foreign else "memory", seen.device, None
    drain_s = max(0.0, line.head.arrived_at + scheduler.limits.drain_after_s - now)
    return "busy", ", ".join(seen.leave), drain_s + load_s


def _smallest(spec: ModelSpec) -> ModelSpec:
    return spec.ways[-1]

"""The scheduler's state, and each act on it in one place, with what must be true when it is done. Pure."""

from __future__ import annotations

from modelyard.errors import YardError
from modelyard.memory.planner import Ledger
from modelyard.types.model import ModelSpec
from modelyard.types.status import Residency

from .messages import Effect, Grant, Load, Refuse, Tell, Unload, WakeAt
from .queue import Ticket, WaitingQueue
from .refusals import QUEUE_RETRY_S_MAX
from .state import Failures, MemoryBooks, Record, ResidencyLimits, Setback

_PACE_WEIGHT = 0.1  # of the newest gap between two grants in the running average


class Acts:
    """Grant, refuse, load, send away: the vocabulary in which decisions are carried out."""

    def __init__(self, limits: ResidencyLimits) -> None:
        self.limits = limits
        self.records: dict[str, Record] = {}
        self.queue = WaitingQueue(limits.bypass_count_max)
        self.leases: dict[int, Record] = {}  # ticket -> the load it uses; forgotten when that load is gone
        self.books = MemoryBooks(limits.headroom_bytes, limits.headroom_by_device)
        self.failures = Failures(limits)
        self.setbacks: dict[str, Setback] = {}
        self.promised: dict[str, dict[str, int]] = {}  # of the last proposal
        self.roles: dict[str, set[str]] = {}  # model -> the roles it was asked for by, while it is in memory
        self.is_shutting_down = False
        self._pins: dict[str, bool] = {}  # what operators said; over what the configuration says
        self._kind_in_use = ""  # of the last model that came in because somebody here wanted it
        self._has_pins = False  # somebody was ever pinned: else nobody has to be asked
        self._now = 0.0
        self._wake_at: float | None = None
        self._arrivals = 0
        self._epochs = 0
        self._is_overcommitted = False
        self._is_room_stale = True  # what a proposal looks at has changed: lines, who is idle, what is held
        self._room_times: list[float] = []  # when time alone may change the last proposal
        self._are_books_stale = False  # a worker came, went, or uses another amount than it did
        self._balance: tuple[dict[str, int], dict[str, Ledger]] = ({}, {})  # what staying models held, and the ledgers
        self._granted_at = 0.0
        self.grant_gap_s = 1.0
        self._effects: list[Effect] = []

    def is_pinned(self, spec: ModelSpec) -> bool:
        """Never evicted, never expired."""
        return self._pins.get(spec.name, spec.pinned)

    def expires_at(self, record: Record) -> float | None:
        """When an idle resident leaves by itself; None while it does not."""
        if not record.is_open or record.leases or record.spec.name in self.queue.lines:
            return None
        stays_s = self.stays_s(record)
        if stays_s < 0 or self.is_pinned(record.spec):
            return None
        return record.idle_since + stays_s

    def stays_s(self, record: Record) -> float:
        """How long it stays when it is idle, by the limits of now; negative: for ever."""
        if record.keep_alive_s is not None:
            return record.keep_alive_s
        if not self.limits.expires:
            return -1.0
        return self.limits.idle_ttl_of(record.spec) if record.idle_ttl_s is None else record.idle_ttl_s

    def _grant(self, ticket: Ticket, record: Record) -> bool:
        """Give a slot. True if somebody else has now been overtaken as often as may be."""
        assert record.has_room(ticket.order), f"{record.spec.name} has no slot to give"
        assert ticket.number not in self.leases, f"ticket {ticket.number} has its lease already"
        if not record.leases:
            self._is_room_stale = True
        record.leases += 1
        self.leases[ticket.number] = record
        record.idle_ttl_s = ticket.spec.idle_ttl_s
        if ticket.keep_alive_s is not None:
            record.keep_alive_s = ticket.keep_alive_s
        self._effects.append(Grant(ticket.number, record.spec.name, record.epoch))
        is_enough = False
        if self.queue.lines:
            gap_s = min(self._now - self._granted_at, QUEUE_RETRY_S_MAX)
            self.grant_gap_s += _PACE_WEIGHT * (gap_s - self.grant_gap_s)
            for line in self.queue.lines.values():
                if line.needs_memory and line.head.order < ticket.order:
                    line.passed.append(ticket.order)
                    is_enough |= line.bypassed == self.limits.bypass_count_max
            self._is_room_stale |= is_enough
        self._granted_at = self._now
        return is_enough

    def _start(self, spec: ModelSpec, reserved: dict[str, int]) -> None:
        assert spec.name not in self.records, f"{spec.name} has a worker already"
        self._epochs += 1
        record = Record(spec, self._epochs, Residency.LOADING, self._now, held=reserved)
        self._is_room_stale = True
        self.records[spec.name] = record
        self._tell("model.loading", record, reserved_bytes=reserved)
        self._effects.append(Load(spec.name, record.epoch, spec))

    def _order_out(self, record: Record, reason: str, *, force: bool) -> None:
        """Somebody decided that it leaves: now, or when its last lease ends. Nothing takes that back."""
        if record.state is Residency.LEAVING:
            return
        if force or not record.leases:
            self._send_away(record, reason)
        elif not record.leave_reason:
            record.state = Residency.DRAINING
            record.leave_reason = reason
            self._is_room_stale = True
            self._tell("model.draining", record, reason=reason, leases=record.leases)

    def _send_away(self, record: Record, reason: str) -> None:
        assert not (record.leases and reason in ("eviction", "expiry")), f"{record.spec.name} leaves while in use"
        record.leave(reason)
        self._are_books_stale = True
        self._is_room_stale = True
        self._tell("model.unloading", record, reason=reason)
        self._effects.append(Unload(record.spec.name, record.epoch, reason))

    def _recycle(self, record: Record, why: str) -> None:
        """Replace it at its next idle moment; if there is none, it drains after a while."""
        record.recycle_by = self._now + self.limits.drain_after_s
        self._tell("model.recycling", record, why=why, in_use=dict(record.in_use or {}), reserved_bytes=record.base)

    def _remove(self, record: Record) -> None:
        """Its processes are gone, and so is its reservation; leases of it are void."""
        self._is_room_stale = True
        self._are_books_stale = True
        removed = self.records.pop(record.spec.name)
        assert removed is record, f"{record.spec.name} was removed behind our back"
        if record.spec.kind != "local":
            self.books.doubt(record.held)
        if record.spec.name not in self.queue.lines:
            self.roles.pop(record.spec.name, None)
        if record.leases:
            self.leases = {number: one for number, one in self.leases.items() if one is not record}

    def _refuse(self, number: int, error: YardError) -> bool:
        self._effects.append(Refuse(number, error))
        return True

    def _refuse_line(self, model: str, error: YardError) -> None:
        line = self.queue.lines.get(model)
        for ticket in line.tickets() if line is not None else ():
            self.queue.remove(ticket.number)
            self._refuse(ticket.number, error)

    def _of_epoch(self, model: str, epoch: int) -> Record | None:
        record = self.records.get(model)
        return record if record is not None and record.epoch == epoch else None

    def _tell(self, name: str, record: Record, **fields: object) -> None:
        self._effects.append(Tell(name, {"model": record.spec.name, "epoch": record.epoch, **fields}))

    def _wake(self, at: float | None) -> None:
        """Ask for a look then, unless an earlier one is asked for already."""
        if at is not None and (self._wake_at is None or at < self._wake_at):
            self._wake_at = at
            self._effects.append(WakeAt(at))

"""Everything that follows from a new state: who is late, who gets memory, who gets a slot, who expires. Pure."""

from __future__ import annotations

from modelyard.memory.planner import NoFit, add, overcommit
from modelyard.types.status import Residency

from .acts import Acts
from .messages import Grant
from .refusals import no_room, waited_too_long
from .room import propose
from .rules import Proposal
from .state import LOADING


class Settling(Acts):
    """What is done after each event that might matter to somebody else."""

    def _settle(self, now: float) -> None:
        """(1) Overdue tickets. (2) Ends that were waited for. (3) Room, then grants, until neither changes the other.

        (4) Expiry. (5) When to look again.
        """
        for ticket in self.queue.overdue(now):  # (1)
            line = self.queue.lines.get(ticket.spec.name)
            ahead_s = self.grant_gap_s * len(line.tickets()) if line is not None else 0.0
            self._refuse(ticket.number, waited_too_long(ticket, now, ahead_s))
        self._end_what_is_over()  # (2)
        if self._are_books_stale:
            self._balance_books()
        times = self._make_room()
        while self.queue.lines and self._grant_waiting():  # (3)
            times = self._make_room()
        for record in list(self.records.values()):
            if record.recycle_by is not None and record.is_open:
                times.append(record.recycle_by)
            expires_at = self.expires_at(record)
            if expires_at is None:
                continue
            if expires_at <= now:  # (4)
                self._tell("model.expired", record, idle_s=now - record.idle_since)
                self._send_away(record, "expiry")
            else:
                times.append(expires_at)
        deadline = self.queue.next_deadline()
        if deadline is not None:
            times.append(deadline)
        self._wake(min((at for at in times if at > now), default=None))  # (5)

    def _balance_books(self) -> None:
        self.books.update(self.records.values())
        staying = add(*(record.held for record in self.records.values() if record.is_staying))
        self._is_overcommitted = bool(overcommit(staying, self.books.ledgers))
        if self._is_overcommitted or (staying, self.books.ledgers) != self._balance:
            self._is_room_stale = True
        self._balance = (staying, self.books.ledgers)
        self._are_books_stale = False

    def _end_what_is_over(self) -> None:
        """Firm drains without leases leave; a load nobody waits for any more is given up while that saves much."""
        for record in list(self.records.values()):
            if record.leave_reason and not record.leases and record.state is Residency.DRAINING:
                self._send_away(record, record.leave_reason)
            elif record.recycle_by is not None and record.is_open:
                is_idle = not record.leases and record.spec.name not in self.queue.lines
                if (is_idle or self._now >= record.recycle_by) and not self.is_pinned(record.spec):
                    self._order_out(record, "recycle", force=False)
            elif record.state is LOADING and record.spec.name not in self.queue.lines:
                expected_s = record.spec.load_s_expected * self.limits.abandon_load_ratio
                if self._now - record.started_at < max(expected_s, self.limits.abandon_s_min):
                    self._send_away(record, "abandoned")

    def _make_room(self) -> list[float]:
        """Carry out a proposal for memory. Answers when time alone may change it.

        A proposal depends on nothing but what `_is_room_stale` stands for, and on the time at those moments.
        """
        is_stale = self._is_room_stale or self.queue.has_changed
        if not is_stale and not any(at <= self._now for at in self._room_times):
            return self._room_times.copy()
        self._is_room_stale = self.queue.has_changed = False
        self._room_times = self._propose()
        return self._room_times.copy()

    def _propose(self) -> list[float]:
        if not self.queue.lines and not self._is_overcommitted:
            self._reopen({})
            self.promised = {}
            return []
        lines = self.queue.in_order()
        pinned: frozenset[str] = frozenset()
        if self._has_pins:
            specs = [*(record.spec for record in self.records.values()), *(line.spec for _name, line in lines)]
            pinned = frozenset(spec.name for spec in specs if self.is_pinned(spec))
        proposal = propose(self._now, lines, self.records, self.books.ledgers, self.limits, pinned, self.setbacks)
        for name, wanted_by in proposal.evict:
            self._tell("model.evicted", self.records[name], wanted_by=wanted_by)
            self._send_away(self.records[name], "eviction")
        for name in proposal.replace:
            self._order_out(self.records[name], "change", force=False)
        self._reopen(proposal.close)
        for spec, reserved in proposal.load:
            self._start(spec, reserved)
        self.promised = proposal.promised
        for name, line in lines:
            has_record = name in self.records and self.records[name].is_staying
            line.needs_memory = not has_record and name not in proposal.promised
        for name, answer in proposal.refuse:
            self._refuse_line(name, no_room(self.queue.lines[name].spec, answer))
        for name, answer in proposal.refuse_old:
            self._refuse_old(name, answer, proposal)
        return proposal.wake_at

    def _reopen(self, close: dict[str, int]) -> None:
        """Who is to make room drains; who was, and need not any more, is spared."""
        for name, record in self.records.items():
            if record.is_open and (name in close or record.closed_from is not None):
                record.closed_from = close.get(name)
                record.state = Residency.RESIDENT if record.closed_from is None else Residency.DRAINING

    def _grant_waiting(self) -> bool:
        """Hand out free slots, longest waiting models first. True if that calls for another look at memory."""
        records = {name: one for name, one in self.records.items() if name in self.queue.lines and one.is_open}
        for model, line in self.queue.in_order() if records else ():
            record = records.get(model)
            if record is None:
                continue
            if record.closed_from is None and not record.spec.serves(line.spec):
                continue
            watchers = list(line.watchers.values())
            for watcher in watchers:
                self.queue.take(watcher)
                self._effects.append(Grant(watcher.number, model, record.epoch))
            while record.leases < record.slots:
                ticket = self.queue.next_in(line, record.closed_from)
                if ticket is None:
                    break
                self.queue.take(ticket)
                if self._grant(ticket, record):
                    return True
            if watchers:
                return True
        return False

    def _refuse_old(self, model: str, answer: NoFit, proposal: Proposal) -> None:
        """Others hold the memory: those who waited long enough for it are told so."""
        line = self.queue.lines[model]
        for ticket in line.tickets():
            give_up_at = ticket.arrived_at + self.limits.memory_wait_s
            if give_up_at > self._now:
                proposal.wake_at.append(give_up_at)
                break
            self.queue.remove(ticket.number)
            self._refuse(ticket.number, no_room(ticket.spec, answer))

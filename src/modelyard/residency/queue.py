"""Who waits, for what, since when. Pure.

One line per model, oldest first between models; within a line callers take turns, so that nobody who asks a hundred
times as often is served a hundred times as often. It knows nothing of memory.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace

from modelyard.types.model import ModelSpec


@dataclass(slots=True, eq=False)
class Ticket:
    """One request, or one operator's wish, that waits."""

    number: int  # the asker's name for it
    order: int  # age: lower came earlier
    spec: ModelSpec
    caller: str
    arrived_at: float
    deadline: float
    keep_alive_s: float | None = None
    takes_slot: bool = True  # False: content as soon as the model is in memory
    priority: int = 0  # its caller's and its model's together


@dataclass(slots=True, eq=False)
class Line:
    """Everybody who waits for one model."""

    spec: ModelSpec  # as the latest of them knows it, with the largest context any of them wants
    watchers: dict[int, Ticket] = field(default_factory=dict)  # those that take no slot
    turns: dict[str, dict[int, Ticket]] = field(default_factory=dict)  # caller -> its tickets; the first is next
    passed: list[int] = field(default_factory=list)  # the orders of other models' tickets that overtook its head
    needs_memory: bool = True  # False: its model is loading, in memory, or promised its memory
    priority: int = 0  # the highest of those who wait
    is_ranked: bool = False  # some have a priority of their own
    is_mixed: bool = False  # they want different contexts or launch options
    skips: dict[str, int] = field(default_factory=dict)  # caller -> how often a higher priority went first
    head: Ticket = field(init=False)  # the oldest

    @property
    def bypassed(self) -> int:
        """How often the oldest was overtaken while it waited for memory; nobody in the line was more often."""
        return len(self.passed)

    def look_again(self) -> None:
        """Somebody left: whose wish and whose priority count now?"""
        waiting = self.tickets()
        self.priority = max(one.priority for one in waiting)
        if self.is_mixed:  # the newest launch options stay, also when whoever brought them has left
            alike = [one.spec for one in waiting if one.spec.identity == self.spec.identity]
            nobodys = replace(self.spec, context_length=0)  # any context will do
            self.spec = max(alike, key=lambda spec: spec.context_length, default=nobodys)
            self.is_mixed = any(one.spec is not self.spec for one in waiting)

    def tickets(self) -> list[Ticket]:
        """All of them, oldest first."""
        waiting = [*self.watchers.values(), *(ticket for turn in self.turns.values() for ticket in turn.values())]
        return sorted(waiting, key=lambda ticket: ticket.order)


class WaitingQueue:
    """All lines. Bounded by whoever pushes."""

    def __init__(self, skip_count_max: int = 8) -> None:
        self.skip_count_max = skip_count_max
        self.lines: dict[str, Line] = {}
        self.has_changed = False  # a line came, went, or has another head, wish or priority
        self._tickets: dict[int, Ticket] = {}
        self._counts: dict[str, int] = {}  # per caller
        self._deadlines: list[tuple[float, int]] = []  # a heap; what is no longer waiting is skipped

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, number: int) -> bool:
        return number in self._tickets

    def ticket(self, number: int) -> Ticket | None:
        """Who waits under this number."""
        return self._tickets.get(number)

    def push(self, ticket: Ticket) -> None:
        assert ticket.number not in self._tickets, f"ticket {ticket.number} waits twice"
        line = self.lines.get(ticket.spec.name)
        if line is None:
            line = self.lines[ticket.spec.name] = Line(ticket.spec)
            line.head = ticket
            self.has_changed = True
        had = line.spec, line.priority
        if ticket.spec is not line.spec:
            line.is_mixed = True
            line.spec = _wanted(line.spec, ticket.spec)
        if ticket.priority:
            line.is_ranked = True
        line.priority = max(line.priority, ticket.priority) if line.head is not ticket else ticket.priority
        if had != (line.spec, line.priority):
            self.has_changed = True
        group = line.turns.setdefault(ticket.caller, {}) if ticket.takes_slot else line.watchers
        group[ticket.number] = ticket
        self._tickets[ticket.number] = ticket
        self._counts[ticket.caller] = self._counts.get(ticket.caller, 0) + 1
        heapq.heappush(self._deadlines, (ticket.deadline, ticket.number))

    def remove(self, number: int) -> Ticket | None:
        """Take a ticket out, wherever it stands; None if it does not wait."""
        ticket = self._tickets.pop(number, None)
        if ticket is None:
            return None
        self._counts[ticket.caller] -= 1
        if not self._counts[ticket.caller]:
            del self._counts[ticket.caller]
        line = self.lines[ticket.spec.name]
        if ticket.takes_slot:
            turn = line.turns[ticket.caller]
            del turn[number]
            if not turn:
                del line.turns[ticket.caller]
        else:
            del line.watchers[number]
        if not line.turns and not line.watchers:
            del self.lines[ticket.spec.name]
            self.has_changed = True
        else:
            if line.head is ticket:
                self.has_changed = True
                firsts = [next(iter(group.values())) for group in (line.watchers, *line.turns.values()) if group]
                line.head = min(firsts, key=lambda first: first.order)
                if line.passed:  # who overtook the old head may have been before the new one
                    line.passed = [order for order in line.passed if order > line.head.order]
            if line.is_mixed or line.is_ranked:
                had = line.spec, line.priority
                line.look_again()
                self.has_changed |= had != (line.spec, line.priority)
        self._tidy_deadlines()
        return ticket

    def next_in(self, line: Line, before: int | None) -> Ticket | None:
        """Whose turn it is in a line, among tickets older than `before`. Priority goes first, but not for ever."""
        best: Ticket | None = None
        for caller, turn in line.turns.items():
            first = next(iter(turn.values()))
            if before is not None and first.order >= before:
                continue
            if not line.is_ranked or line.skips.get(caller, 0) >= self.skip_count_max:
                return first
            if best is None or first.priority > best.priority:
                best = first
        return best

    def take(self, ticket: Ticket) -> None:
        """Take out a ticket whose turn it was; its caller goes to the end of the line."""
        self.remove(ticket.number)
        line = self.lines.get(ticket.spec.name)
        if line is None:
            return
        if ticket.caller in line.turns:
            line.turns[ticket.caller] = line.turns.pop(ticket.caller)
        if line.is_ranked:
            line.skips.pop(ticket.caller, None)
            for caller, turn in line.turns.items():
                if caller != ticket.caller and next(iter(turn.values())).priority < ticket.priority:
                    line.skips[caller] = line.skips.get(caller, 0) + 1

    def in_order(self) -> list[tuple[str, Line]]:
        """Models waited for: the highest priority first, then the longest waited for.

        Who was overtaken as often as may be comes before everybody, and of those whoever waits longest.
        """
        if len(self.lines) < 2:
            return list(self.lines.items())
        if any(line.is_ranked for line in self.lines.values()):
            return sorted(self.lines.items(), key=self._rank)
        return sorted(self.lines.items(), key=_age)

    def _rank(self, item: tuple[str, Line]) -> tuple[bool, int, int]:
        line = item[1]
        is_overtaken = line.bypassed >= self.skip_count_max
        return not is_overtaken, 0 if is_overtaken else -line.priority, line.head.order

    def overdue(self, now: float) -> list[Ticket]:
        """Take out and return every ticket whose deadline has come."""
        late: list[Ticket] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _deadline, number = heapq.heappop(self._deadlines)
            ticket = self.remove(number)
            if ticket is not None:
                late.append(ticket)
        return late

    def next_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][1] not in self._tickets:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def to_displace(self, newcomer: str) -> Ticket | None:
        """In a full queue, the newest ticket of who waits most often, if clearly more often than the newcomer."""
        caller = max(sorted(self._counts), key=lambda name: self._counts[name])
        if self._counts[caller] <= self._counts.get(newcomer, 0) + 1:
            return None
        return max((one for one in self._tickets.values() if one.caller == caller), key=lambda one: one.order)

    def _tidy_deadlines(self) -> None:
        if len(self._deadlines) > 2 * len(self._tickets) + 64:
            self._deadlines = [(ticket.deadline, ticket.number) for ticket in self._tickets.values()]
            heapq.heapify(self._deadlines)


def _age(item: tuple[str, Line]) -> int:
    return item[1].head.order


def _wanted(old: ModelSpec, new: ModelSpec) -> ModelSpec:
    """Of two wishes the newer launch options; of two contexts the larger."""
    return old if old.identity == new.identity and old.context_length > new.context_length else new

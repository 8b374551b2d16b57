"""Who waits, for what, since when. Pure.

One line per model, oldest first between models; within a line callers take turns, so that nobody who asks a hundred
times as often is served a hundred times as often. It knows nothing of memory.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

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
    passes_before: int = 0  # its line's `passes` when it came


@dataclass(slots=True, eq=False)
class Line:
    """Everybody who waits for one model."""

    spec: ModelSpec  # as the latest of them knows it
    watchers: dict[int, Ticket] = field(default_factory=dict)  # those that take no slot
    turns: dict[str, dict[int, Ticket]] = field(default_factory=dict)  # caller -> its tickets; the first is next
    passes: int = 0  # how often a later ticket of another model was served while this line waited for memory
    needs_memory: bool = True  # False: its model is loading, in memory, or promised its memory
    head: Ticket = field(init=False)  # the oldest

    @property
    def bypassed(self) -> int:
        """How often the oldest was overtaken; nobody in the line was more often."""
        return self.passes - self.head.passes_before

    def tickets(self) -> list[Ticket]:
        """All of them, oldest first."""
        waiting = [*self.watchers.values(), *(ticket for turn in self.turns.values() for ticket in turn.values())]
        return sorted(waiting, key=lambda ticket: ticket.order)


class WaitingQueue:
    """All lines. Bounded by whoever pushes."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self._tickets: dict[int, Ticket] = {}
        self._counts: dict[str, int] = {}  # per caller
        self._deadlines: list[tuple[float, int]] = []  # a heap; what is no longer waiting is skipped

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, number: int) -> bool:
        return number in self._tickets

    def push(self, ticket: Ticket) -> None:
        assert ticket.number not in self._tickets, f"ticket {ticket.number} waits twice"
        line = self.lines.get(ticket.spec.name)
        if line is None:
            line = self.lines[ticket.spec.name] = Line(ticket.spec)
            line.head = ticket
        line.spec = ticket.spec
        ticket.passes_before = line.passes
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
        elif line.head is ticket:
            firsts = [next(iter(group.values())) for group in (line.watchers, *line.turns.values()) if group]
            line.head = min(firsts, key=lambda first: first.order)
        self._tidy_deadlines()
        return ticket

    def next_in(self, line: Line, before: int | None) -> Ticket | None:
        """Whose turn it is in a line, among tickets older than `before`."""
        for turn in line.turns.values():
            first = next(iter(turn.values()))
            if before is None or first.order < before:
                return first
        return None

    def take(self, ticket: Ticket) -> None:
        """Take out a ticket whose turn it was; its caller goes to the end of the line."""
        self.remove(ticket.number)
        line = self.lines.get(ticket.spec.name)
        if line is not None and ticket.caller in line.turns:
            line.turns[ticket.caller] = line.turns.pop(ticket.caller)

    def by_age(self) -> list[tuple[str, Line]]:
        """Models waited for, the longest waited for first."""
        return sorted(self.lines.items(), key=lambda item: item[1].head.order)

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

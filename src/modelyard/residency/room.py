"""Who gets memory next, and who must leave for it. Pure: a proposal, worked out anew each time; the scheduler acts.

Nothing is remembered between two proposals but what is in the records. So a model that drains for a request that has
gone away is simply not named the next time, and is spared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelyard.memory.eviction import Candidate, cost_of_return, relief
from modelyard.memory.planner import Ledger, NoFit, Plan, add, never_fits, overcommit, plan, shortage
from modelyard.types.model import ModelSpec
from modelyard.types.status import Residency

from .queue import Line
from .state import Record, ResidencyLimits

Bytes = dict[str, int]


@dataclass(slots=True)
class Proposal:
    """What should happen to memory now."""

    load: list[ModelSpec] = field(default_factory=list)  # fits this very moment
    evict: list[tuple[str, str]] = field(default_factory=list)  # idle model, and the model it leaves for
    close: dict[str, int] = field(default_factory=dict)  # busy model -> the order of the ticket it must make room for
    replace: list[str] = field(default_factory=list)  # in memory with launch options nobody wants any more
    promised: dict[str, Bytes] = field(default_factory=dict)  # will fit once those who leave have left
    refuse: list[tuple[str, NoFit]] = field(default_factory=list)  # hopeless; its whole line
    refuse_old: list[tuple[str, NoFit]] = field(default_factory=list)  # others hold the memory; who waited long enough
    wake_at: list[float] = field(default_factory=list)  # when the answer may change by time alone


def propose(
    now: float,
    lines: list[tuple[str, Line]],
    records: Mapping[str, Record],
    ledgers: Mapping[str, Ledger],
    limits: ResidencyLimits,
    pinned: frozenset[str],
) -> Proposal:
    """Go through the models waited for, the oldest first."""
    return _Round(now, dict(lines), records, ledgers, limits, pinned).run()


class _Round:
    """One proposal in the making."""

    def __init__(
        self,
        now: float,
        lines: Mapping[str, Line],
        records: Mapping[str, Record],
        ledgers: Mapping[str, Ledger],
        limits: ResidencyLimits,
        pinned: frozenset[str],
    ) -> None:
        self.now, self.lines, self.records, self.ledgers, self.limits = now, lines, records, ledgers, limits
        self.proposal = Proposal()
        self.movable = {name: one for name, one in records.items() if one.is_staying and name not in pinned}
        self.fixed = add(*(one.held for name, one in records.items() if one.is_staying and name in pinned))
        # What is held this moment, and what will be once all who are leaving have left and all promised have come.
        self.held_now = add(*(one.held for one in records.values()))
        self.held_later = add(*(one.held for one in records.values() if one.is_staying))
        self.coming: dict[str, Bytes] = {}  # loads and promises of this round that may be told to make room again
        self.pinned = pinned

    def run(self) -> Proposal:
        self._relieve()
        for model, line in self.lines.items():
            record = self.records.get(model)
            if record is not None and record.is_staying:
                if record.spec.identity == line.spec.identity or record.state is Residency.LOADING:
                    continue  # it only waits for a slot, or for the load to end
                self.proposal.replace.append(model)
                self._forget(model)
            self._place(model, line)
        return self.proposal

    def _relieve(self) -> None:
        """Others have grown, or a worker has: who is idle gives way at once."""
        over = overcommit(self.held_later, self.ledgers)
        if over:
            idle = [self._candidate(name) for name in sorted(self.movable) if self._is_idle(name)]
            for name in relief(over, idle):
                self._evict(name, "")

    def _place(self, model: str, line: Line) -> None:
        """Find memory for one model.

        (1) Larger than the budget: hopeless. (2) Fits now: load. (3) Fits once those already leaving have left, or
        once idle ones have: send those away; the memory is promised. (4) Only busy ones are in the way: when it has
        been overtaken or has waited long enough, they drain. (5) Not even that helps: pins and others hold the memory.
        """
        need = line.spec.footprint.reserved_bytes
        hopeless = never_fits(need, self.ledgers)
        if hopeless is not None:  # (1)
            self.proposal.refuse.append((model, hopeless))
            return
        idle = [self._candidate(name) for name in sorted(self.movable) if self._may_go(name)]
        answer = plan(need, self.held_later, self.ledgers, idle)
        if isinstance(answer, Plan):
            if (
                not answer.evict and model not in self.records and not shortage(need, self.held_now, self.ledgers)
            ):  # (2)
                self.proposal.load.append(line.spec)
                self.held_now = add(self.held_now, need)
                self._expect(model, need)
                return
            self._promise(model, line, need, answer)  # (3)
            return
        everybody = [self._candidate(name) for name in sorted(self.movable)] + self._newcomers()
        answer = plan(need, self.held_later, self.ledgers, everybody)
        if isinstance(answer, Plan):
            drain_at = line.head.arrived_at + self.limits.drain_after_s
            if line.bypassed >= self.limits.bypass_count_max or self.now >= drain_at:  # (4)
                self._promise(model, line, need, answer)
            else:
                self.proposal.wake_at.append(drain_at)
        else:
            self._blocked(model, line, need, answer)  # (5)

    def _promise(self, model: str, line: Line, need: Bytes, answer: Plan) -> None:
        """Send the victims on their way and keep their memory for this model."""
        for name in answer.evict:
            if name in self.coming:  # not even loading yet: it is told to drain once it is there
                self._close(name, line.head.order)
                self._give_back(self.coming.pop(name))
            elif self._is_idle(name, before=line.head.order):
                self._evict(name, model)
            else:
                self._close(name, line.head.order)
                self._forget(name)
        self.proposal.promised[model] = need
        self._expect(model, need)

    def _expect(self, model: str, need: Bytes) -> None:
        self.held_later = add(self.held_later, need)
        if model in self.pinned:
            self.fixed = add(self.fixed, need)
        else:
            self.coming[model] = need

    def _blocked(self, model: str, line: Line, need: Bytes, answer: NoFit) -> None:
        """Only pinned models and others are in the way; the first will not go, the second might."""
        pins_alone = {
            device: Ledger(device, ledger.total_bytes, ledger.headroom_bytes) for device, ledger in self.ledgers.items()
        }
        if shortage(need, self.fixed, pins_alone):
            self.proposal.refuse.append((model, answer))
            return
        self.proposal.refuse_old.append((model, answer))
        self.proposal.wake_at.append(line.head.arrived_at + self.limits.memory_wait_s)

    def _candidate(self, name: str) -> Candidate:
        record = self.records[name]
        idle_s = self.now - record.idle_since if record.state is not Residency.LOADING and not record.leases else 0.0
        cost = cost_of_return(
            record.load_s or record.spec.load_s_expected, max(0.0, idle_s), self._weight(name, record)
        )
        if record.closed_from is not None:
            cost = 0.0  # it drains already: do not start draining another
        return Candidate(name, record.held, cost)

    def _weight(self, name: str, record: Record) -> int:
        """How many have to be served first."""
        return record.leases + (1 if name in self.lines or record.state is Residency.LOADING else 0)

    def _newcomers(self) -> list[Candidate]:
        """What is only coming counts as busy: it may be told beforehand to make room again."""
        cost = cost_of_return(1, 0, leases=1)
        return [Candidate(name, need, cost) for name, need in sorted(self.coming.items())]

    def _is_idle(self, name: str, before: int | None = None) -> bool:
        """Nobody uses it, and nobody waits to; with `before`, nobody who came earlier than that waits to."""
        record = self.records[name]
        if record.state is Residency.LOADING or record.leases:
            return False
        line = self.lines.get(name)
        return line is None or (before is not None and line.head.order > before)

    def _may_go(self, name: str) -> bool:
        """Idle, and in memory long enough for its load to have been worth it."""
        record = self.records[name]
        if not self._is_idle(name):
            return False
        stays_s = min(record.load_s * self.limits.residence_load_ratio, self.limits.residence_s_max)
        if record.closed_from is None and self.now < record.loaded_at + stays_s:
            self.proposal.wake_at.append(record.loaded_at + stays_s)
            return False
        return True

    def _evict(self, name: str, wanted_by: str) -> None:
        self.proposal.evict.append((name, wanted_by))
        self._forget(name)

    def _close(self, name: str, order: int) -> None:
        self.proposal.close[name] = order

    def _forget(self, name: str) -> None:
        """From here on it is as good as gone."""
        record = self.movable.pop(name, None) or self.records[name]
        self._give_back(record.held)

    def _give_back(self, held: Mapping[str, int]) -> None:
        self.held_later = add(self.held_later, {device: -count for device, count in held.items()})

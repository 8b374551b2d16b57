"""Who gets memory next, and who must leave for it. Pure: a proposal, worked out anew each time; the scheduler acts.

Nothing is remembered between two proposals but what is in the records. So a model that drains for a request that has
gone away is simply not named the next time, and is spared.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelyard.memory.eviction import Candidate, cost_of_return, relief
from modelyard.memory.planner import Ledger, NoFit, add, evictions, never_fits, overcommit, plan, shortage
from modelyard.types.model import ModelSpec

from .queue import Line
from .rules import Bytes, Proposal, Rules, share_device
from .state import LOADING, Record, ResidencyLimits, Setback


def propose(
    now: float,
    lines: list[tuple[str, Line]],
    records: Mapping[str, Record],
    ledgers: Mapping[str, Ledger],
    limits: ResidencyLimits,
    pinned: frozenset[str],
    setbacks: Mapping[str, Setback],
) -> Proposal:
    """Go through the models waited for, the oldest first."""
    return Round(now, dict(lines), records, ledgers, limits, pinned, setbacks).run()


class Round(Rules):
    """One proposal in the making."""

    def run(self) -> Proposal:
        self._relieve()
        for model, line in self.lines.items():
            record = self.records.get(model)
            if record is not None and record.is_staying:
                if record.state is LOADING or record.spec.serves(line.spec):
                    continue  # it only waits for a slot, or for the load to end
                if self._finishes_first(model, line, record):
                    continue
                self.proposal.replace.append(model)
                self._forget(model)
            self._place(model, line)
        return self.proposal

    def _finishes_first(self, model: str, line: Line, record: Record) -> bool:
        """A larger context is wanted: who came before that wish is served, and the answers under way end.

        Should the wish go away meanwhile, the next proposal no longer closes the model for later tickets.
        """
        if record.spec.identity != line.spec.identity:
            return False
        order = min(ticket.order for ticket in line.tickets() if not record.spec.serves(ticket.spec))
        if not record.leases and line.head.order == order:
            return False
        self._close(model, order)
        return True

    def _relieve(self) -> None:
        """Others have grown, or a worker has: who is idle gives way at once."""
        over = overcommit(self.held_later, self.ledgers)
        if over:
            idle = [self._candidate(name) for name in self.movable if self._is_idle(name)]
            for name in relief(over, idle):
                self._evict(name, "")

    def _place(self, model: str, line: Line) -> None:
        """Find memory for one model: in full, else in the first smaller way that can have it.

        A way that only has to wait for busy models is waited for; the next is tried where waiting does not help.
        """
        answers: list[tuple[ModelSpec, NoFit]] = []
        setback = self.setbacks.get(model)
        ways = line.spec.ways
        if setback is not None and setback.identity == line.spec.identity:
            ways = ways[min(setback.ways_broken, len(ways) - 1) :]
        for way in ways:
            answer = self._try(model, line, way)
            if answer is None:
                return
            answers.append((way, answer))
        way, answer = next((one for one in answers if not one[1].never), answers[0])
        if answer.never:
            self.proposal.refuse.append((model, answer))
        else:
            self._blocked(model, line, way, answer)

    def _try(self, model: str, line: Line, way: ModelSpec) -> NoFit | None:
        """One way to start one model; the numbers if there is no room for it, however long it waits.

        (1) Larger than the budget: hopeless. (2) Fits now: load. (3) Fits once those already leaving have left, or
        once idle ones have: send those away; the memory is promised. (4) Only busy ones are in the way: when it has
        been overtaken or has waited long enough, they drain. (5) Not even that helps: pins and others hold the memory.
        """
        must = self._in_the_way(model, way) if self._has_rules(model, way) else ()
        need = way.footprint.reserved_bytes if way.footprint.is_known else self._everything(way)
        hopeless = never_fits(need, self.ledgers) or self._nothing_left(way, need)
        if hopeless is not None:  # (1)
            return hopeless
        held = self._without(must)
        idle = [self._candidate(name) for name in self.movable if name not in must and self._may_go(name)]
        chosen = evictions(need, held, self.ledgers, idle)
        if chosen is not None and all(name in self.movable and self._may_go(name) for name in must):
            leave = (*must, *chosen)
            if not leave and self._is_clear(model, way) and self._is_free(need):  # (2)
                self.proposal.load.append((way, need))
                self.held_now = add(self.held_now, need)
                self._expect(model, way, need)
            else:
                self._promise(model, line, way, need, leave)  # (3)
            return None
        everybody = [self._candidate(name) for name in self.movable if name not in must]
        answer = plan(need, held, self.ledgers, everybody + [one for one in self._newcomers() if one.model not in must])
        if isinstance(answer, NoFit):
            return answer  # (5)
        if any(self._is_ahead(name, line) for name in (*must, *answer.evict)):
            return None  # its own line has priority: whoever is overtaken too often comes first then
        drain_at = line.head.arrived_at + self.limits.drain_after_s
        if line.bypassed >= self.limits.bypass_count_max or self.now >= drain_at:  # (4)
            self._promise(model, line, way, need, (*must, *answer.evict))
        else:
            self.proposal.wake_at.append(drain_at)
        return None

    def _is_ahead(self, name: str, line: Line) -> bool:
        """Whether somebody waits for that model who goes before this line; its slots are theirs."""
        other = self.lines.get(name)
        is_overtaken = line.bypassed >= self.limits.bypass_count_max
        return other is not None and other.priority > line.priority and not is_overtaken

    def _is_free(self, need: Bytes) -> bool:
        """Whether the memory is there now, and nobody before this line in the round counts on it.

        Else a line could take, again and again, what an older one waits for together with something more.
        """
        if shortage(need, self.held_now, self.ledgers):
            return False
        return not self._overbooked or not shortage(need, add(self.held_later, self._overbooked), self.ledgers)

    def _promise(self, model: str, line: Line, way: ModelSpec, need: Bytes, leave: tuple[str, ...]) -> None:
        """Send the victims on their way and keep their memory for this model."""
        for name in leave:
            if name in self.coming:  # not even loading yet: it is told to drain once it is there
                self._close(name, line.head.order)
                self._overbooked = add(self._overbooked, self.coming[name])
                self._give_back(self.coming.pop(name))
                del self.expected[name]
            elif self._is_idle(name, before=line.head.order):
                self._evict(name, model)
            else:
                self._close(name, line.head.order)
                self._forget(name)
        self.proposal.promised[model] = need
        self._expect(model, way, need)

    def _expect(self, model: str, way: ModelSpec, need: Bytes) -> None:
        self.held_later = add(self.held_later, need)
        self.expected[model] = way
        self._kinds.add(way.kind)
        if model in self.pinned:
            self.fixed = add(self.fixed, need)
        else:
            self.coming[model] = need

    def _blocked(self, model: str, line: Line, way: ModelSpec, answer: NoFit) -> None:
        """Only pinned models and others are in the way; the first will not go, the second might."""
        pins_alone = {
            device: Ledger(device, ledger.total_bytes, ledger.headroom_bytes) for device, ledger in self.ledgers.items()
        }
        if shortage(way.footprint.reserved_bytes, self.fixed, pins_alone):
            self.proposal.refuse.append((model, answer))
            return
        if any(one.in_use is None and share_device(one.spec, way) for one in self.records.values()):
            return  # while one loads or leaves, its memory may pass for others': that is seen when it is done
        self.proposal.refuse_old.append((model, answer))
        self.proposal.wake_at.append(line.head.arrived_at + self.limits.memory_wait_s)

    def _newcomers(self) -> list[Candidate]:
        """What is only coming counts as busy: it may be told beforehand to make room again."""
        cost = cost_of_return(1, 0, leases=1)
        return [Candidate(name, need, cost) for name, need in self.coming.items()]

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
        self.proposal.close[name] = min(order, self.proposal.close.get(name, order))

    def _forget(self, name: str) -> None:
        """From here on it is as good as gone."""
        record = self.movable.pop(name, None) or self.records[name]
        self._give_back(record.held)

    def _give_back(self, held: Mapping[str, int]) -> None:
        self.held_later = add(self.held_later, {device: -count for device, count in held.items()})

"""Who is in whose way for other reasons than bytes: kinds under the policy `exclusive`, groups, unknown sizes. Pure.

Also what one round of proposing looks at. Rules cost nothing where there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelyard.memory.eviction import Candidate, cost_of_return
from modelyard.memory.planner import Ledger, NoFit, add
from modelyard.types.model import ModelSpec

from .queue import Line
from .state import LOADING, Record, ResidencyLimits, Setback

Bytes = dict[str, int]


@dataclass(slots=True)
class Proposal:
    """What should happen to memory now."""

    load: list[tuple[ModelSpec, Bytes]] = field(default_factory=list)  # fits this very moment: how, and its reservation
    evict: list[tuple[str, str]] = field(default_factory=list)  # idle model, and the model it leaves for
    close: dict[str, int] = field(default_factory=dict)  # busy model -> the order of the ticket it must make room for
    replace: list[str] = field(default_factory=list)  # in memory with launch options nobody wants any more
    promised: dict[str, Bytes] = field(default_factory=dict)  # will fit once those who leave have left
    refuse: list[tuple[str, NoFit]] = field(default_factory=list)  # hopeless; its whole line
    refuse_old: list[tuple[str, NoFit]] = field(default_factory=list)  # others hold the memory; who waited long enough
    wake_at: list[float] = field(default_factory=list)  # when the answer may change by time alone


class Rules:
    """What one round of proposing looks at, and the questions it asks."""

    def __init__(
        self,
        now: float,
        lines: Mapping[str, Line],
        records: Mapping[str, Record],
        ledgers: Mapping[str, Ledger],
        limits: ResidencyLimits,
        pinned: frozenset[str],
        setbacks: Mapping[str, Setback],
    ) -> None:
        self.now, self.lines, self.records, self.ledgers, self.limits = now, lines, records, ledgers, limits
        self.proposal = Proposal()
        self.movable: dict[str, Record] = {}  # staying, and not pinned
        # What is held this moment, what will be once all who are leaving have left and all promised have come, and
        # what of that is pinned.
        self.held_now: Bytes = {}
        self.held_later: Bytes = {}
        self.fixed: Bytes = {}
        for name, one in records.items():
            _add_to(self.held_now, one.held)
            if not one.is_staying:
                continue
            _add_to(self.held_later, one.held)
            if name in pinned:
                _add_to(self.fixed, one.held)
            else:
                self.movable[name] = one
        self.coming: dict[str, Bytes] = {}  # loads and promises of this round that may be told to make room again
        self.expected: dict[str, ModelSpec] = {}  # every load and promise of this round
        self._overbooked: Bytes = {}  # what was promised, and promised once more for the time after that
        self._kinds: set[str] = set()  # of every load and promise of this round
        self.pinned = pinned
        self.setbacks = setbacks

    def _candidate(self, name: str) -> Candidate:
        record = self.records[name]
        idle_s = self.now - record.idle_since if not record.leases and record.state is not LOADING else 0.0
        cost = cost_of_return(
            (record.load_s or record.spec.load_s_expected) * record.spec.weight,
            max(0.0, idle_s),
            self._users(name, record),
        )
        if record.closed_from is not None:
            cost = 0.0  # it drains already: do not start draining another
        return Candidate(name, record.held, cost)

    def _users(self, name: str, record: Record) -> int:
        """How many have to be served first."""
        return record.leases + (1 if name in self.lines or record.state is LOADING else 0)

    def _is_idle(self, name: str, before: int | None = None) -> bool:
        """Nobody uses it, and nobody waits to; with `before`, nobody who came earlier than that waits to."""
        record = self.records[name]
        if record.leases or record.state is LOADING:
            return False
        line = self.lines.get(name)
        return line is None or (before is not None and line.head.order > before)

    def _has_rules(self, model: str, way: ModelSpec) -> bool:
        return self.limits.has_rules(way) or model in self.setbacks or not way.footprint.is_known

    def _in_the_way(self, model: str, way: ModelSpec) -> tuple[str, ...]:
        """Who must leave whatever the bytes: other kinds, those over the group's number, and who shares its devices
        with a model of unknown size, or with one whose load broke for memory. Pinned ones are never in the way.
        """
        others = {**{name: self.records[name].spec for name in self.movable}, **self.expected}
        others.pop(model, None)
        names: set[str] = set()
        if self.limits.policy == "exclusive":
            names |= {name for name, spec in others.items() if spec.kind != way.kind and name not in self.pinned}
        if not way.footprint.is_known:
            names |= {name for name, spec in others.items() if share_device(spec, way)}
        if model in self.setbacks and self.setbacks[model].is_alone:
            names |= {name for name, one in self.movable.items() if self._is_idle(name) and share_device(one.spec, way)}
        names |= set(self._over_the_group(way, others, names))
        return tuple(sorted(names - self.pinned))

    def _over_the_group(self, way: ModelSpec, others: Mapping[str, ModelSpec], going: set[str]) -> list[str]:
        allowed = self.limits.groups.get(way.group) if way.group else None
        if allowed is None:
            return []
        there = sum(one.is_staying and one.spec.group == way.group for one in self.records.values())
        there += sum(spec.group == way.group for name, spec in self.expected.items() if name not in self.records)
        members = [name for name, spec in others.items() if spec.group == way.group and name not in self.pinned]
        too_many = there + 1 - allowed - sum(name in going for name in members)
        order = self._use if way.group in self.limits.oldest_first else self._cost
        first = sorted((name for name in members if name not in going), key=order)
        return first[: max(0, too_many)]

    def _use(self, name: str) -> tuple[bool, float, str]:
        if name in self.expected:
            return True, 0.0, name
        return not self._is_idle(name), self.records[name].idle_since, name

    def _cost(self, name: str) -> tuple[bool, float, str]:
        if name in self.expected:
            return True, 0.0, name
        return not self._is_idle(name), self._candidate(name).cost, name

    def _is_clear(self, model: str, way: ModelSpec) -> bool:
        """Whether everybody who had to leave has really gone: seen gone, then loaded."""
        if model in self.records:
            return False
        if not self.limits.has_rules(way) and way.footprint.is_known:
            return True
        there = [one.spec for one in self.records.values()] + [spec for spec, _need in self.proposal.load]
        others = [spec for spec in there if spec.name not in self.pinned]
        is_mixed = any(spec.kind != way.kind for spec in others)
        if self.limits.policy == "exclusive" and (is_mixed or self._kinds - {way.kind}):
            return False  # also while an earlier line waits for another kind's turn
        if not way.footprint.is_known and any(share_device(spec, way) for spec in others):
            return False
        allowed = self.limits.groups.get(way.group) if way.group else None
        if allowed is None or sum(spec.group == way.group for spec in there) < allowed:
            return True
        return not any(spec.group == way.group for spec in others)  # all of them are pinned: waiting would not help

    def _everything(self, way: ModelSpec) -> Bytes:
        """What is left of its devices beside pinned models and others."""
        return {
            device: max(0, ledger.budget_bytes - ledger.foreign_bytes - self.fixed.get(device, 0))
            for device, ledger in self.ledgers.items()
            if device in way.footprint.bytes
        }

    def _nothing_left(self, way: ModelSpec, need: Bytes) -> NoFit | None:
        """A model of unknown size whose device pinned models and others have filled."""
        if way.footprint.is_known:
            return None
        full = next((device for device, count in need.items() if not count), None)
        if full is None:
            return None
        ledger = self.ledgers[full]
        return NoFit(full, 0, ledger.budget_bytes, 0, ledger.foreign_bytes, never=False)

    def _without(self, names: tuple[str, ...]) -> Bytes:
        if not names:
            return self.held_later
        gone = [self.coming[name] if name in self.coming else self.records[name].held for name in names]
        return add(self.held_later, *({device: -count for device, count in one.items()} for one in gone))


def share_device(one: ModelSpec, other: ModelSpec) -> bool:
    return not one.footprint.bytes.keys().isdisjoint(other.footprint.bytes)


def _add_to(total: Bytes, part: Mapping[str, int]) -> None:
    for device, count in part.items():
        total[device] = total.get(device, 0) + count

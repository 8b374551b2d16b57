"""Ways to choose a node, for the routing simulator: ours and what it is compared with. All see the same.

What they see is what a gateway sees: its own requests, the pace of answers it relayed, and which models were in a
node's memory when it looked last. None sees the nodes themselves.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from modelyard.routing.affinity import Affinities, affinity_key
from modelyard.routing.ranking import Standing, Turns, rank, work_tokens
from modelyard.routing.room import NodeMemory, has_room, load_seconds

from .routing_traces import GB, Ask, Machine

NEW_RATIO = 0.2
LOAD_GB_PER_S = 0.5  # until one was measured
LOAD_S_LEAST = 2.0
ANSWER_TOKENS_ASSUMED = 256


@dataclass(slots=True)
class View:
    """One node as a gateway sees it."""

    machine: Machine
    residents: set[str] = field(default_factory=set)  # at the last look, and those that answered since
    free_gb: float | None = None  # at the last look, if it tells
    most_bytes: int = 0  # it was seen to hold at once
    in_flight: Counter[str] = field(default_factory=Counter)
    work: Counter[str] = field(default_factory=Counter)
    tokens_per_s: dict[str, float] = field(default_factory=dict)
    load_gb_per_s: float = LOAD_GB_PER_S

    @property
    def name(self) -> str:
        return self.machine.name

    @property
    def busy(self) -> int:
        return sum(self.in_flight.values())

    def spoke(self, model: str, tokens_per_s: float) -> None:
        known = self.tokens_per_s.get(model, tokens_per_s)
        self.tokens_per_s[model] = known + NEW_RATIO * (tokens_per_s - known)

    def loaded(self, model: str, size_gb: float, took_s: float) -> None:
        self.residents.add(model)
        if took_s > LOAD_S_LEAST:
            self.load_gb_per_s += NEW_RATIO * (size_gb / took_s - self.load_gb_per_s)


class Policy(Protocol):
    """One way to choose."""

    def choose(self, ask: Ask, views: Sequence[View], now: float) -> View: ...


class Random:
    """Anybody."""

    def __init__(self, seed: int, sizes_gb: Mapping[str, float]) -> None:
        self._rng = random.Random(seed)

    def choose(self, ask: Ask, views: Sequence[View], now: float) -> View:
        return self._rng.choice(views)


class RoundRobin:
    """One after the other."""

    def __init__(self, seed: int, sizes_gb: Mapping[str, float]) -> None:
        self._next = seed

    def choose(self, ask: Ask, views: Sequence[View], now: float) -> View:
        self._next += 1
        return views[self._next % len(views)]


class LeastConnections:
    """Whoever has fewest requests of ours; of several anybody."""

    def __init__(self, seed: int, sizes_gb: Mapping[str, float]) -> None:
        self._rng = random.Random(seed)

    def choose(self, ask: Ask, views: Sequence[View], now: float) -> View:
        least = min(view.busy for view in views)
        return self._rng.choice([view for view in views if view.busy == least])


class ResidencyOnly(LeastConnections):
    """Whoever had the model in memory at the last look or has answered since, the least busy of them; else as above."""

    def choose(self, ask: Ask, views: Sequence[View], now: float) -> View:
        warm = [view for view in views if ask.model in view.residents]
        return super().choose(ask, warm or views, now)


class ResidencyRemembered(LeastConnections):
    """As before, and it remembers where it has just sent a request, so it never has one model loaded at two nodes.

    Each model has one copy however many ask for it, so loads are few and lines are long. Stricter than the four.
    """

    def choose(self, ask: Ask, views: Sequence[View], now: float) -> View:
        warm = [view for view in views if ask.model in view.residents or view.in_flight[ask.model]]
        return super().choose(ask, warm or views, now)


class Ours:
    """As the router asks `rank`."""

    def __init__(self, seed: int, sizes_gb: Mapping[str, float]) -> None:
        self._sizes = {model: round(size * GB) for model, size in sizes_gb.items()}
        self._turns, self._affinities = Turns(), Affinities()

    def choose(self, ask: Ask, views: Sequence[View], now: float) -> View:
        key = affinity_key("tenant", ask.model, ask.session, "")
        favoured = self._affinities.node_for(key, now)
        standings = [self._standing(ask.model, view, favoured) for view in views]
        first = rank(standings, group=ask.model, turns=self._turns, prompt_tokens=ask.prompt_tokens)[0].standing
        self._affinities.remember(key, first.node, now)
        return next(view for view in views if view.name == first.node)

    def _standing(self, model: str, view: View, favoured: str | None) -> Standing:
        sizes = self._sizes
        coming = {one for one, count in view.in_flight.items() if count and one not in view.residents} - {model}
        memory = NodeMemory(
            resident_bytes=sum(sizes[one] for one in view.residents),
            most_bytes=view.most_bytes,
            free_bytes=None if view.free_gb is None else round(view.free_gb * GB),
            coming_bytes=tuple(sizes[one] for one in coming),
        )
        return Standing(
            f"{model}@{view.name}",
            view.name,
            is_resident=model in view.residents,
            load_s=load_seconds(sizes[model], view.load_gb_per_s * GB, memory.coming_bytes),
            has_room=has_room(sizes[model], memory),
            in_flight=view.in_flight[model],
            slots=view.machine.slots if view.machine.tells_room else 0,
            queued_tokens=view.work[model],
            tokens_per_s=view.tokens_per_s.get(model),
            is_favoured=view.name == favoured,
        )


POLICIES: dict[str, Callable[[int, Mapping[str, float]], Policy]] = {
    "random": Random,
    "round robin": RoundRobin,
    "least connections": LeastConnections,
    "residency only": ResidencyOnly,
    "residency, remembered": ResidencyRemembered,
    "ours": Ours,
}


def work_of(ask: Ask) -> int:
    """What a gateway thinks a request is, before it is answered."""
    return work_tokens(ask.prompt_tokens, ANSWER_TOKENS_ASSUMED)

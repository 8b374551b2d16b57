"""Two models, room for one, a random mix: swaps are few, and little is lost against somebody who knew every arrival."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import ClassVar

from modelyard.residency import messages as say
from modelyard.residency.scheduler import Scheduler
from modelyard.residency.state import ResidencyLimits
from modelyard.types.memory import Footprint
from modelyard.types.model import ModelSpec
from tests.guarantees.test_swap_economy import best_s
from tests.support.counts import count, tell

from .invariants import Watcher
from .plan import Act, Schedule
from .world import World

SEEDS = count(100, 1_000)
REQUESTS = 60
ANSWER_S, LOAD_S, EXIT_S = 0.2, 0.5, 0.05
GAP_S = 0.15  # between two arrivals, on average
THROUGHPUT_RATIO_MIN = 0.7


@dataclass(eq=False)
class Shop(World):
    """Nothing goes wrong here; there is only too little room."""

    LOADS_S: ClassVar[tuple[float, ...]] = (LOAD_S,)
    HOLDS_S: ClassVar[tuple[float, ...]] = (ANSWER_S,)
    SLOTS: ClassVar[tuple[int, ...]] = (1,)
    PATIENCE_S: ClassVar[float] = 1e6

    loads: list[float] = field(default_factory=list)
    asked: dict[int, tuple[float, str, int]] = field(default_factory=dict)  # when, for what, how many were in front
    waits_s: list[float] = field(default_factory=list)
    most_s: list[float] = field(default_factory=list)  # what each of them may wait at most
    last_s: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.limits = ResidencyLimits(headroom_bytes=0)
        self.scheduler = Scheduler(self.limits)
        sizes = Footprint({"gpu0": 60})
        self.specs = [ModelSpec(name, name, sizes, load_s_expected=LOAD_S) for name in ("red", "blue")]

    def feed(self, event: say.Event) -> list[say.Effect]:
        if isinstance(event, say.Requested) and not self.is_healed:
            self.asked[event.ticket] = self.now, event.spec.name, len(self.clients) - 1
        effects = super().feed(event)
        if not self.is_healed:
            self.loads += [self.now for effect in effects if isinstance(effect, say.Load)]
        return effects

    def granted(self, grant: say.Grant) -> None:
        super().granted(grant)
        if grant.ticket in self.asked:
            at, _model, in_front = self.asked[grant.ticket]
            swap_s = LOAD_S * (1 + self.limits.residence_load_ratio) + EXIT_S
            turns = in_front + self.limits.bypass_count_max + 1
            self.waits_s.append(self.now - at)
            self.most_s.append(self.limits.drain_after_s + 2 * swap_s + turns * ANSWER_S)
            self.last_s = self.now + ANSWER_S


def mix(seed: int) -> Schedule:
    chance, at, acts = random.Random(seed), 0.0, []
    for _ in range(REQUESTS):
        at += chance.expovariate(1 / GAP_S)
        acts.append(Act(at, "arrive", chance.getrandbits(32)))
    return Schedule(seed, frozenset(), tuple(acts), heal_at=at + 120.0, is_narrow=True)


def test_swaps_are_few_and_cost_little() -> None:
    served_s = best_total_s = 0.0
    swaps = 0
    for seed in range(SEEDS):
        watcher = Watcher()
        world = Shop(mix(seed), watcher)
        world.run()
        watcher.at_rest(world)
        stay_s = LOAD_S * (1 + world.limits.residence_load_ratio)
        gaps_s = [after - before for before, after in zip(world.loads, world.loads[1:], strict=False)]

        assert len(world.waits_s) == REQUESTS, "everybody is served"
        assert min(gaps_s, default=stay_s) >= stay_s, "no more than one swap within a newcomer's least stay"
        assert all(waited <= most for waited, most in zip(world.waits_s, world.most_s, strict=True))
        served_s += world.last_s
        best_total_s += best_s([(at, model) for at, model, _ in world.asked.values()], ANSWER_S, LOAD_S + EXIT_S)
        swaps += len(world.loads) - 1

    tell(
        f"{swaps / SEEDS:.1f} swaps for {REQUESTS} requests; throughput {best_total_s / served_s:.0%} of the best order"
    )
    assert best_total_s / served_s >= THROUGHPUT_RATIO_MIN

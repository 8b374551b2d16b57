"""One seed is one schedule: which features a world has, and what happens from outside, when.

A schedule is a plain list of acts. Each act and each worker throws its own dice, so that an act can be left out without
changing what the others do: a failing schedule can be made smaller, and what is left can be kept and run again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from modelyard.residency.state import ResidencyLimits
from modelyard.types.memory import Footprint
from modelyard.types.model import ModelSpec

T = TypeVar("T")

FEATURES = (
    "wrong_sizes", "foreign_use", "failing_loads", "stalls", "crashes", "late_exits", "deaf_workers", "leaks", "growth",
    "late_messages", "repeated_messages", "stale_messages", "cancels", "short_deadlines", "bursts", "keep_alive",
    "tight_queue", "operators", "pins", "roles", "new_options", "clock_jumps", "sleeps", "two_devices", "contexts",
    "kinds", "other_nodes", "groups", "priorities", "rungs", "unknown_sizes", "recycling",
)  # fmt: skip
# A narrow world has room for one model, and nothing but other models is in anybody's way: there, overtaking is counted.
NOT_WHERE_NARROW = frozenset((
    "foreign_use", "pins", "wrong_sizes", "growth", "leaks", "two_devices", "kinds", "other_nodes", "groups", "rungs",
    "unknown_sizes", "contexts", "recycling",
))  # fmt: skip
OUTSIDE = (  # what happens from outside, the feature it belongs to, and how often at most
    ("foreign_use", "foreign", 6), ("crashes", "crash", 6), ("operators", "operate", 6), ("pins", "pin", 6),
    ("roles", "role", 6), ("stale_messages", "stale", 6), ("growth", "grow", 6), ("other_nodes", "appear", 6),
    ("other_nodes", "vanish", 6), ("recycling", "recycle", 6), ("new_options", "change", 5), ("sleeps", "sleep", 1),
)  # fmt: skip
_MASK = (1 << 64) - 1


class Dice:
    """Numbers that follow from one number, and from nothing else. Much cheaper than a generator of their own."""

    __slots__ = ("_state",)

    def __init__(self, number: int) -> None:
        mixed = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & _MASK
        self._state = mixed ^ (mixed >> 31)

    def below(self, count: int) -> int:
        self._state = state = (self._state * 6364136223846793005 + 1442695040888963407) & _MASK
        return (state >> 33) % count

    def pick(self, options: Sequence[T]) -> T:
        self._state = state = (self._state * 6364136223846793005 + 1442695040888963407) & _MASK
        return options[(state >> 33) % len(options)]

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def percent(self, share: int) -> bool:
        return self.below(100) < share


class Act(NamedTuple):
    """Something that happens from outside."""

    at: float
    name: str
    dice: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """A world and everything that happens to it from outside. The seed says what the world is like."""

    seed: int
    features: frozenset[str]
    acts: tuple[Act, ...]
    heal_at: float
    is_narrow: bool = False


def schedule(seed: int) -> Schedule:
    """The schedule of a seed: about two hundred events, once the world has answered."""
    chance = random.Random(seed)
    features = {name for name in FEATURES if chance.random() < 0.5}
    is_narrow = chance.random() < 0.3
    if is_narrow:
        features -= NOT_WHERE_NARROW
    end = chance.choice((30.0, 60.0, 100.0))
    acts: list[Act] = []
    at = 0.0
    for _ in range(chance.randint(38, 70)):
        at += chance.expovariate(60 / end)
        burst = chance.randint(2, 12) if "bursts" in features and chance.random() < 0.08 else 1
        acts.extend(Act(round(at, 3), "arrive", chance.getrandbits(32)) for _ in range(burst))
    for feature, name, most in OUTSIDE:
        for _ in range(chance.randint(1, most) if feature in features else 0):
            acts.append(Act(round(chance.uniform(0, end), 3), name, chance.getrandbits(32)))
    if chance.random() < 0.1:
        acts.append(Act(round(chance.uniform(end / 2, end + 20.0), 3), "shutdown", chance.getrandbits(32)))
    acts.sort()
    return Schedule(seed, frozenset(features), tuple(acts), end + 20.0, is_narrow)


def limits_of(plan: Schedule) -> ResidencyLimits:
    """The bounds of one world."""
    dice, has = Dice(plan.seed * 4 + 1), plan.features.__contains__
    return ResidencyLimits(
        headroom_bytes=dice.pick((0, 5)),
        idle_ttl_s=dice.pick((5.0, 30.0, 300.0)),
        drain_after_s=dice.pick((3.0, 10.0, 1e6)),
        queue_max=dice.pick((5, 12, 24)) if has("tight_queue") else 64,
        memory_wait_s=10.0,
        policy="exclusive" if dice.percent(50) and has("kinds") else "fit",
        groups={"g": dice.pick((1, 2))} if has("groups") else {},
        growth_bytes_min=5,
    )


def specs_of(plan: Schedule) -> list[ModelSpec]:
    """The models of one world."""
    count = Dice(plan.seed * 4 + 2).between(2, 5)
    return [_spec(plan, f"m{n}", Dice((plan.seed * 8 + n) * 4 + 3)) for n in range(count)]


def _spec(plan: Schedule, name: str, dice: Dice) -> ModelSpec:
    has = plan.features.__contains__
    size = dice.between(55, 90) if plan.is_narrow else dice.between(10, 70)
    band, load_s, where = dice.pick((0.0, 0.1, 0.3)), dice.pick((0.5, 4.0)), dice.below(3)
    sizes = {"gpu0": size}
    if where and has("two_devices"):
        sizes = {"gpu1": size // 2} if where == 1 else {"gpu0": size // 2, "gpu1": size // 2}
    if dice.percent(5):
        sizes = {"gpu0": 500}
    kind, group, weight, has_rungs, is_unknown = (
        dice.below(2), dice.below(2), dice.pick((0.5, 1.0, 10.0)), dice.percent(80), dice.percent(30),
    )  # fmt: skip
    footprint = Footprint(sizes, band_ratio=band)
    if has("unknown_sizes") and is_unknown:
        footprint, has_rungs = Footprint(dict.fromkeys(sizes, 0), "unknown"), False

    def way(identity: str, footprint: Footprint, rungs: tuple[ModelSpec, ...], *degraded: str) -> ModelSpec:
        return ModelSpec(
            name, identity, footprint, load_s_expected=load_s, rungs=rungs, degraded=degraded,
            kind="ollama" if kind and has("kinds") else "local",
            group="g" if group and has("groups") else "",
            weight=weight if has("groups") else 1.0,
        )  # fmt: skip

    rungs: tuple[ModelSpec, ...] = ()
    if has("rungs") and has_rungs:
        smaller = [{device: count * share // 10 for device, count in sizes.items()} for share in (7, 4)]
        rungs = tuple(way(f"{name}/rung{n}", Footprint(one), (), f"step {n}") for n, one in enumerate(smaller))
    return way(name, footprint, rungs)

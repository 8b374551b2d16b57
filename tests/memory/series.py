"""Memory over two hours, generated: of workers that are well, and of workers that leak. A sample every ten seconds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from modelyard.units import MIB

STEP_S = 10.0
COUNT = 720

Samples = list[tuple[float, int]]
Shape = Callable[[float], float]  # seconds -> MiB above the base


def noise(chance: random.Random) -> Shape:
    width = chance.uniform(0.1, 20)
    return lambda _at: chance.gauss(0, width)


def wander(chance: random.Random) -> Shape:
    """An allocator that comes and goes around a level."""
    level, width, pull = 0.0, chance.uniform(0.5, 6), chance.uniform(0.1, 0.5)

    def at(_at: float) -> float:
        nonlocal level
        level += chance.gauss(0, width) - pull * level
        return level

    return at


def sawtooth(chance: random.Random) -> Shape:
    """A cache that fills and is dropped."""
    period_s, height, begin = chance.uniform(20, 400), chance.uniform(5, 400), chance.uniform(0, 400)
    return lambda at: height * (((at + begin) / period_s) % 1)


def ragged(chance: random.Random) -> Shape:
    """A cache that fills for some time, up to seven minutes, and is dropped to almost nothing."""
    level, rate, mean_s = 0.0, chance.uniform(0.1, 2), chance.uniform(40, 240)
    until = 0.0

    def at(now: float) -> float:
        nonlocal level, until
        level += rate * STEP_S
        if now >= until:
            level, until = chance.uniform(0, 5), now + mean_s * chance.uniform(0.3, 1.7)
        return level

    return at


def steps(chance: random.Random) -> Shape:
    """A larger batch than ever, once or a few times."""
    times = [(chance.uniform(0, 7200), chance.uniform(5, 300)) for _ in range(chance.randint(1, 4))]
    if chance.random() < 0.5:  # all of them while it is looked at first
        times = [(chance.uniform(0, 900), height) for _at, height in times]
    return lambda at: sum(height for when, height in times if at >= when)


def saturating(chance: random.Random) -> Shape:
    """A pool that grows towards its limit."""
    height, slow_s = chance.uniform(10, 2000), chance.uniform(30, 420)
    return lambda at: height * (1 - math.exp(-at / slow_s))


def filling(chance: random.Random) -> Shape:
    """A cache that fills steadily up to its limit."""
    height, full_s = chance.uniform(10, 2000), chance.uniform(60, 600)
    return lambda at: height * min(1.0, at / full_s)


def shrinking(chance: random.Random) -> Shape:
    rate = chance.uniform(1, 100) / 3600
    return lambda at: -rate * at


INNOCENT = (noise, wander, sawtooth, ragged, steps, saturating, filling, shrinking)


def steady(chance: random.Random) -> Shape:
    rate = math.exp(chance.uniform(math.log(80), math.log(4000))) / 3600
    return lambda at: rate * at


def by_requests(chance: random.Random) -> Shape:
    """Each request leaves something behind."""
    per_h, each = chance.uniform(100, 2000), chance.uniform(0.1, 2.5)
    level = 0.0

    def at(_at: float) -> float:
        nonlocal level
        expected = per_h / 3600 * STEP_S / each
        level += each * sum(chance.random() < expected / 40 for _ in range(40))
        return level

    return at


def under_a_cache(chance: random.Random) -> Shape:
    rate = chance.uniform(300, 4000) / 3600
    period_s, height = chance.uniform(20, 60), chance.uniform(5, 40)
    return lambda at: rate * at + height * ((at / period_s) % 1)


LEAKING = (steady, by_requests, under_a_cache)


def innocent(seed: int) -> tuple[str, Samples]:
    return _series(seed, INNOCENT, noise_mib=2.0)


def leaking(seed: int) -> tuple[str, Samples]:
    return _series(seed, LEAKING, noise_mib=0.5)


def _series(seed: int, shapes: tuple[Callable[[random.Random], Shape], ...], noise_mib: float) -> tuple[str, Samples]:
    chance = random.Random(seed)
    kind = shapes[seed % len(shapes)]
    base, shape, width = chance.uniform(50, 8000), kind(chance), chance.uniform(0, noise_mib)
    return kind.__name__, [
        (n * STEP_S, int((base + shape(n * STEP_S) + chance.gauss(0, width)) * MIB)) for n in range(COUNT)
    ]

"""Memory over time: bounded, honest about what it does not know, and able to see a leak."""

from __future__ import annotations

import random

from modelyard.gateway.memory_history import SAMPLES_MAX, WARM_UP_S, MemoryHistory, trend_of
from modelyard.types.model import Model
from modelyard.units import MIB
from tests.api.surface import FakeResidency

from .manual_clock import ManualClock

Samples = list[tuple[float, int]]


def samples(count: int, growth_bytes_per_h: float, noise_bytes: int = 0) -> Samples:
    chance = random.Random(7)
    return [
        (n * 10.0, int(100 * MIB + n * 10 * growth_bytes_per_h / 3600 + chance.uniform(-1, 1) * noise_bytes))
        for n in range(count)
    ]


def test_steady_growth_is_suspected() -> None:
    trend = trend_of("node", samples(360, 64 * MIB, noise_bytes=MIB))

    assert trend.is_leak_suspected
    assert 60 * MIB < trend.bytes_per_h < 68 * MIB
    assert trend.confidence_ratio > 0.9


def test_noise_slow_drift_short_looks_and_shrinking_are_not() -> None:
    for seen in (
        samples(360, 0, noise_bytes=8 * MIB),
        samples(360, 4 * MIB),
        samples(60, 500 * MIB),
        samples(360, -64 * MIB),
        [],
        samples(1, 0),
        samples(360, 0),
    ):
        assert not trend_of("node", seen).is_leak_suspected


def test_growth_that_ends_with_the_warm_up_is_no_leak() -> None:
    grown: Samples = [(n * 10.0, min(n * 10, int(WARM_UP_S)) * MIB) for n in range(360)]

    assert not trend_of("node", grown).is_leak_suspected


async def test_history_is_bounded_and_forgets_residents_that_left() -> None:
    clock, residency = ManualClock(), FakeResidency()
    history = MemoryHistory(clock, node_bytes=lambda: 5, devices=residency.devices, residents=residency.residents)
    await residency.load(Model("tiny", "echo"))
    for _ in range(SAMPLES_MAX + 10):
        history.sample()
        clock.now += 10

    series = history.series()
    assert set(series) == {"node", "device:ram", "model:tiny#1"}
    assert len(series["node"]) == SAMPLES_MAX
    assert series["node"][-1] == (10.0, 5)
    assert {trend.series for trend in history.trends()} == {"node", "model:tiny#1"}
    await residency.unload("tiny")
    history.sample()
    assert set(history.series()) == {"node", "device:ram"}

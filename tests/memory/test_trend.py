"""Leaks are found, and what only looks like one is not: on generated series, and on the edges."""

from __future__ import annotations

from collections import Counter

import pytest

from modelyard.memory.trend import SPAN_S_MAX, WARM_UP_S, Sample, trend_of
from modelyard.units import MIB

from .series import COUNT, STEP_S, innocent, leaking

SERIES = 500
QUARTER_HOUR = 90  # samples
LOOKS = (QUARTER_HOUR, 120, 180, 270, 360, 540, COUNT)


def test_of_innocent_series_at_most_one_in_a_hundred_is_ever_suspected() -> None:
    suspected: Counter[str] = Counter()
    for seed in range(SERIES):
        kind, samples = innocent(seed)
        suspected[kind] += any(trend_of("one", samples[:count]).is_leak_suspected for count in LOOKS)

    assert suspected.total() <= SERIES // 100, suspected


def test_of_leaks_nineteen_in_twenty_are_found_within_a_quarter_of_an_hour() -> None:
    found: Counter[str] = Counter()
    for seed in range(SERIES):
        kind, samples = leaking(seed)
        found[kind] += trend_of("one", samples[:QUARTER_HOUR]).is_leak_suspected

    assert found.total() >= SERIES * 95 // 100, found


def straight(per_h_mib: float, count: int = COUNT) -> list[Sample]:
    return [(n * STEP_S, int((500 + per_h_mib * n * STEP_S / 3600) * MIB)) for n in range(count)]


def test_a_straight_line_is_told_with_its_slope_and_full_confidence() -> None:
    trend = trend_of("node", straight(64))

    assert trend.is_leak_suspected
    assert trend.series == "node"
    assert trend.bytes_per_h == pytest.approx(64 * MIB, rel=0.01)
    assert trend.confidence_ratio == pytest.approx(1, abs=0.001)
    assert trend.span_s == SPAN_S_MAX


@pytest.mark.parametrize(
    "samples",
    [
        [],
        straight(500, 1),
        straight(500, int(WARM_UP_S / STEP_S)),
        straight(500, 60),  # steep, and not looked at for long enough
        straight(4),  # too slow to matter
        straight(0),
        straight(-64),
        [(n * STEP_S, 500 * MIB if n < 200 else 900 * MIB) for n in range(COUNT)],  # once
        [(n * STEP_S, 500 * MIB + min(n, 35) * MIB) for n in range(COUNT)],  # as long as it warms up
        [(0.0, 5), (9000.0, 900 * MIB)],  # a gap: nothing was seen
    ],
)  # fmt: skip
def test_edges_are_no_leaks(samples: list[Sample]) -> None:
    assert not trend_of("one", samples).is_leak_suspected


def test_a_leak_that_begins_late_is_found_and_what_is_long_past_is_forgotten() -> None:
    quiet, leak = straight(0, 360), straight(200, 360)
    begins = quiet + [(at + 360 * STEP_S, count) for at, count in leak]
    ends = leak + [(at + 360 * STEP_S, leak[-1][1]) for at, _count in quiet]

    assert trend_of("one", begins).is_leak_suspected
    assert trend_of("one", ends[:360]).is_leak_suspected
    assert not trend_of("one", ends).is_leak_suspected


def test_one_odd_stretch_does_not_move_the_slope() -> None:
    samples = [(at, count + (300 * MIB if 3000 <= at < 3300 else 0)) for at, count in straight(64)]

    trend = trend_of("one", samples[:540])

    assert trend.bytes_per_h == pytest.approx(64 * MIB, rel=0.1)

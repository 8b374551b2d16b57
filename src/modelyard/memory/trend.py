"""Whether a series of memory samples is a leak. Pure.

A leak raises the floor: what is left each time caches have been dropped. So the samples after a warm-up are cut into
equal stretches of time, and the lowest sample of each is looked at. It is called a leak if the floors rise fast enough,
nearly always, in many stretches rather than in a few steps, and without flattening out: pools grow once, and stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from modelyard.units import MIB

WARM_UP_S = 300.0  # caches fill and pools grow: that is no leak
SPAN_S_MIN = 560.0  # looked at for less than this, nothing is called a leak
SPAN_S_MAX = 3600.0  # older samples say what was, not what is
STRETCH_COUNT = 9
SLOPE_BYTES_PER_H_MIN = 16 * MIB
ORDER_RATIO_MIN = 0.8  # of the pairs of floors, rising less falling; by chance in one of 2,000 noises
RISE_COUNT_MIN = 5  # of eight: so many stretches must each have
RISE_SHARE_MIN = 0.25  # this much of the average rise
LATE_RATIO_MIN = 0.5  # at the end it still grows at least half as fast as at the start

Sample = tuple[float, int]  # (monotonic seconds, bytes)


@dataclass(frozen=True, slots=True)
class Trend:
    """How one series grows."""

    series: str
    bytes_per_h: float  # the median of the slopes between all pairs of floors: one odd stretch does not move it
    fit_ratio: float  # how well a straight line fits the floors (r squared)
    confidence_ratio: float  # that it rises steadily: order or fit, whichever says less; 0 while nothing can be said
    span_s: float
    is_leak_suspected: bool


def trend_of(series: str, samples: Sequence[Sample]) -> Trend:
    """The trend after the warm-up.

    >>> grows = [(t * 10.0, t * 1_000_000) for t in range(200)]
    >>> trend = trend_of("node", grows)
    >>> round(trend.bytes_per_h / 1e6), round(trend.confidence_ratio, 3), trend.is_leak_suspected
    (360, 1.0, True)
    """
    settled = _settled(samples)
    span_s = settled[-1][0] - settled[0][0] if settled else 0.0
    floors = _floors(settled, span_s) if span_s > 0 else []
    if len(floors) < STRETCH_COUNT:
        return Trend(series, 0.0, 0.0, 0.0, span_s, False)
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for n, earlier in enumerate(floors) for later in floors[n + 1 :]
    ]  # fmt: skip
    per_h = median(slopes) * 3600
    order = sum((slope > 0) - (slope < 0) for slope in slopes) / len(slopes)
    fit, late = _shape(floors)
    suspected = (
        span_s >= SPAN_S_MIN
        and per_h >= SLOPE_BYTES_PER_H_MIN
        and order >= ORDER_RATIO_MIN
        and late >= LATE_RATIO_MIN
        and _rises_often(floors)
    )
    return Trend(series, per_h, fit, max(0.0, min(order, fit)), span_s, suspected)


def _settled(samples: Sequence[Sample]) -> Sequence[Sample]:
    if not samples:
        return samples
    begin = max(samples[0][0] + WARM_UP_S, samples[-1][0] - SPAN_S_MAX)
    first = next((n for n, sample in enumerate(samples) if sample[0] >= begin), len(samples))
    return samples[first:]


def _floors(samples: Sequence[Sample], span_s: float) -> list[Sample]:
    """The lowest sample of each stretch, placed in its middle."""
    began_at, stretch_s = samples[0][0], span_s / STRETCH_COUNT
    lowest: dict[int, int] = {}
    for at, count in samples:
        number = min(int((at - began_at) / stretch_s), STRETCH_COUNT - 1)
        lowest[number] = min(count, lowest.get(number, count))
    return [(began_at + (number + 0.5) * stretch_s, count) for number, count in sorted(lowest.items())]


def _rises_often(floors: Sequence[Sample]) -> bool:
    """Whether growth is spread over time. A few steps, however high, are not."""
    rises = [later[1] - earlier[1] for earlier, later in pairwise(floors)]
    least = (floors[-1][1] - floors[0][1]) / len(rises) * RISE_SHARE_MIN
    return least > 0 and sum(rise >= least for rise in rises) >= RISE_COUNT_MIN


def _shape(floors: Sequence[Sample]) -> tuple[float, float]:
    """How well a straight line fits, and the growth at the end as a share of that at the start, by a fitted parabola.

    Places are taken from -1 to 1, where the parabola's parts (1, x, x² less its mean) do not disturb each other.
    """
    count = len(floors)
    places = [2 * n / (count - 1) - 1 for n in range(count)]
    mean = sum(value for _, value in floors) / count
    square = sum(x * x for x in places) / count
    values = [value - mean for _, value in floors]
    spread = sum(x * x for x in places)
    slope = sum(x * value for x, value in zip(places, values, strict=True)) / spread
    bends = [x * x - square for x in places]
    bend = sum(b * value for b, value in zip(bends, values, strict=True)) / sum(b * b for b in bends)
    total = sum(value * value for value in values)
    fit = slope * slope * spread / total if total else 0.0
    start, end = slope - 2 * bend, slope + 2 * bend
    if start <= 0:
        return fit, 1.0 if end > 0 else 0.0  # it only began to grow
    return fit, end / start

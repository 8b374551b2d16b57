"""How memory went over time: a bounded history of this process, the devices and each resident, and whether one leaks.

The leak heuristic is a straight line through the samples after a warm-up, with how well it fits as its confidence.
Knows nothing about HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelyard.clock import Clock
from modelyard.types.status import DeviceStatus, ResidentStatus
from modelyard.units import MIB

SAMPLES_MAX = 720
INTERVAL_S = 10.0
SERIES_MAX = 64
WARM_UP_S = 300.0  # caches fill and pools grow: that is no leak
SPAN_S_MIN = 600.0
SLOPE_BYTES_PER_H_MIN = 16 * MIB
CONFIDENCE_RATIO_MIN = 0.7
NODE = "node"

Sample = tuple[float, int]  # (monotonic seconds, bytes)


@dataclass(frozen=True, slots=True)
class Trend:
    """The straight line through one series."""

    series: str
    bytes_per_h: float
    confidence_ratio: float  # how well the line fits (r squared)
    span_s: float
    is_leak_suspected: bool


class MemoryHistory:
    """Samples memory every `INTERVAL_S`. One task runs `run`; everybody may read."""

    def __init__(
        self,
        clock: Clock,
        *,
        node_bytes: Callable[[], int],
        devices: Callable[[], Sequence[DeviceStatus]],
        residents: Callable[[], Sequence[ResidentStatus]],
    ) -> None:
        self._clock = clock
        self._node_bytes = node_bytes
        self._devices = devices
        self._residents = residents
        self._series: dict[str, deque[Sample]] = {}

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(INTERVAL_S)

    def sample(self) -> None:
        """Take one sample of everything; forget residents that have left."""
        now = self._clock.monotonic()
        values = {NODE: self._node_bytes()}
        for device in self._devices():
            reading = device.reading
            values[f"device:{reading.device}"] = reading.used_bytes
        for resident in self._residents():
            if resident.measured_bytes:
                values[f"model:{resident.model}#{resident.epoch}"] = sum(resident.measured_bytes.values())
        for gone in self._series.keys() - values.keys():
            del self._series[gone]
        for name, count in list(values.items())[:SERIES_MAX]:
            self._series.setdefault(name, deque(maxlen=SAMPLES_MAX)).append((now, count))

    def series(self) -> dict[str, list[tuple[float, int]]]:
        """Every series as (age in seconds, bytes), oldest first."""
        now = self._clock.monotonic()
        return {name: [(round(now - at, 1), count) for at, count in samples] for name, samples in self._series.items()}

    def trends(self) -> tuple[Trend, ...]:
        """The trend of this process and of each resident. Devices have other users, so theirs says nothing."""
        return tuple(
            trend_of(name, tuple(samples)) for name, samples in self._series.items() if not name.startswith("device:")
        )


def trend_of(series: str, samples: Sequence[Sample]) -> Trend:
    """Least squares over the samples after the warm-up.

    >>> grows = [(t * 10.0, t * 1_000_000) for t in range(200)]
    >>> trend = trend_of("node", grows)
    >>> round(trend.bytes_per_h / 1e6), round(trend.confidence_ratio, 3), trend.is_leak_suspected
    (360, 1.0, True)
    """
    settled = [sample for sample in samples if sample[0] - samples[0][0] >= WARM_UP_S]
    span_s = settled[-1][0] - settled[0][0] if settled else 0.0
    if span_s <= 0:
        return Trend(series, 0.0, 0.0, span_s, False)
    mean_at = sum(at for at, _ in settled) / len(settled)
    mean_count = sum(count for _, count in settled) / len(settled)
    spread_at = sum((at - mean_at) ** 2 for at, _ in settled)
    spread_count = sum((count - mean_count) ** 2 for _, count in settled)
    together = sum((at - mean_at) * (count - mean_count) for at, count in settled)
    slope = together / spread_at
    fit = together**2 / (spread_at * spread_count) if spread_count else 0.0
    per_h = slope * 3600
    suspected = span_s >= SPAN_S_MIN and per_h >= SLOPE_BYTES_PER_H_MIN and fit >= CONFIDENCE_RATIO_MIN
    return Trend(series, per_h, fit, span_s, suspected)

"""How memory went over time: a bounded history of this process, the devices and each resident, and whether one leaks.

Each kind of memory is a series of its own: `ram` what only we can give back, `file` what is mapped and the system may
drop, and one per GPU. Trends are worked out when a sample is taken, off the loop's thread, so asking costs nothing.
A leak is told once; growth into what was predicted for a model is none. Knows nothing about HTTP.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from modelyard.clock import Clock
from modelyard.events import EventBus
from modelyard.memory.trend import Sample, Trend, trend_of
from modelyard.types.memory import RAM, ProcessMemory
from modelyard.types.status import DeviceStatus, ResidentStatus

SAMPLES_MAX = 720
INTERVAL_S = 10.0
SERIES_MAX = 96
POINTS_MAX = 240  # of a series, when it is shown
NODE = "node"
FILE = "file"

log = structlog.get_logger()

OnLeak = Callable[[str, int, str], None]  # model, epoch, why


@dataclass(frozen=True, slots=True)
class _Key:
    """What a series is about, and how it is called."""

    name: str
    model: str = ""
    epoch: int = 0
    may_leak: bool = False
    predicted_bytes: int = 0


class MemoryHistory:
    """Samples memory every `INTERVAL_S`. One task runs `run`; everybody may read."""

    def __init__(
        self,
        clock: Clock,
        events: EventBus,
        *,
        node_memory: Callable[[], ProcessMemory],
        devices: Callable[[], Sequence[DeviceStatus]],
        residents: Callable[[], Sequence[ResidentStatus]],
        on_leak: OnLeak = lambda _model, _epoch, _why: None,
    ) -> None:
        self._clock, self._events, self._on_leak = clock, events, on_leak
        self._node_memory, self._devices, self._residents = node_memory, devices, residents
        self._series: dict[str, deque[Sample]] = {}
        self._keys: dict[str, _Key] = {}
        self._trends: tuple[Trend, ...] = ()
        self._told: set[tuple[str, int]] = set()  # (model or node, epoch) whose leak was told
        self.node = ProcessMemory()  # this process, as last sampled

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self._take(await asyncio.to_thread(self._node_memory))
            self._draw(await asyncio.to_thread(_trends, self._growing()))
            await asyncio.sleep(INTERVAL_S)

    def sample(self) -> None:
        """Take one sample of everything, and see what it says."""
        self._take(self._node_memory())
        self._draw(_trends(self._growing()))

    def series(self) -> dict[str, list[tuple[float, int]]]:
        """Every series as (age in seconds, bytes), oldest first, at most `POINTS_MAX` evenly spread."""
        now = self._clock.monotonic()
        return {
            name: [(round(now - at, 1), count) for at, count in _thinned(samples)]
            for name, samples in self._series.items()
        }

    def trends(self) -> tuple[Trend, ...]:
        """Of this process and of each resident, as of the last sample. Devices have other users, so not theirs."""
        return self._trends

    def _take(self, node: ProcessMemory) -> None:
        """One sample of everything; residents that have left are forgotten."""
        now, values = self._clock.monotonic(), dict[_Key, int]()
        self.node = node
        values[_Key(f"{NODE}:{RAM}", NODE, may_leak=True)] = node.anonymous_bytes
        values[_Key(f"{NODE}:{FILE}")] = node.file_bytes
        for device in self._devices():
            values[_Key(f"device:{device.reading.device}")] = device.reading.used_bytes
        for one in self._residents():
            name = f"model:{one.model}#{one.epoch}"
            for where, count in one.measured_bytes.items():
                predicted = one.predicted_bytes.get(where, 0)
                values[_Key(f"{name}:{where}", one.model, one.epoch, True, predicted)] = count
            if one.measured_bytes and one.file_bytes:
                values[_Key(f"{name}:{FILE}")] = one.file_bytes
        kept = dict(list(values.items())[:SERIES_MAX])
        self._keys = {key.name: key for key in kept}
        for gone in self._series.keys() - self._keys.keys():
            del self._series[gone]
        for key, count in kept.items():
            self._series.setdefault(key.name, deque(maxlen=SAMPLES_MAX)).append((now, count))

    def _growing(self) -> dict[str, tuple[Sample, ...]]:
        return {name: tuple(self._series[name]) for name, key in self._keys.items() if key.may_leak}

    def _draw(self, trends: Sequence[Trend]) -> None:
        """Keep the trends of what is still there, and tell of each leak once."""
        kept: list[Trend] = []
        for trend in trends:
            key = self._keys[trend.series]
            is_expected = self._series[trend.series][-1][1] <= key.predicted_bytes
            kept.append(replace(trend, is_leak_suspected=trend.is_leak_suspected and not is_expected))
        self._trends = tuple(kept)
        there = {(key.model, key.epoch) for key in self._keys.values()}
        self._told &= there
        for trend in kept:
            key = self._keys[trend.series]
            if trend.is_leak_suspected and (key.model, key.epoch) not in self._told:
                self._told.add((key.model, key.epoch))
                self._tell(key, trend)

    def _tell(self, key: _Key, trend: Trend) -> None:
        fields: dict[str, object] = {
            "model": key.model if key.epoch else "",
            "epoch": key.epoch,
            "series": key.name,
            "bytes_per_h": round(trend.bytes_per_h),
            "confidence_ratio": round(trend.confidence_ratio, 3),
            "span_s": round(trend.span_s),
        }
        log.warning("memory.leak_suspected", **fields)
        self._events.publish("memory.leak_suspected", self._clock.wall(), **fields)
        if key.epoch:
            self._on_leak(key.model, key.epoch, "leak")


def _trends(series: Mapping[str, Sequence[Sample]]) -> list[Trend]:
    return [trend_of(name, samples) for name, samples in series.items()]


def _thinned(samples: Sequence[Sample]) -> list[Sample]:
    """Every n-th sample, counted from the newest."""
    step = -(-len(samples) // POINTS_MAX) or 1
    return list(samples)[::-1][::step][::-1]

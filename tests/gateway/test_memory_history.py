"""Memory over time: bounded, each kind apart, and a leak is told once for each load of a model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from modelyard.events import EventBus
from modelyard.gateway import memory_history
from modelyard.gateway.memory_history import POINTS_MAX, SAMPLES_MAX, SERIES_MAX, MemoryHistory
from modelyard.memory.trend import Sample, Trend, trend_of
from modelyard.types.memory import ProcessMemory
from modelyard.types.status import Residency, ResidentStatus
from modelyard.units import MIB
from tests.api.surface import FakeResidency

from .manual_clock import ManualClock

QUARTER_HOUR = 90  # samples


def resident(model: str = "tiny", epoch: int = 1, **more: object) -> ResidentStatus:
    there = ResidentStatus(
        model, "echo", Residency.RESIDENT, epoch, False, 1, 0, 0, 4096, {"ram": 10}, {"ram": 500 * MIB}, "declared",
        1.0, 0.1, None,
    )  # fmt: skip
    return replace(there, **more)  # type: ignore[arg-type]


class World:
    """A history whose figures are set by hand."""

    def __init__(self) -> None:
        self.clock, self.events = ManualClock(), EventBus()
        self.node = ProcessMemory(100 * MIB, 30 * MIB)
        self.residents: list[ResidentStatus] = []
        self.recycled: list[tuple[str, int, str]] = []
        self.history = MemoryHistory(
            self.clock, self.events, node_memory=lambda: self.node, devices=FakeResidency().devices,
            residents=lambda: self.residents, on_leak=lambda *leak: self.recycled.append(leak),
        )  # fmt: skip

    def live(self, samples: int, *, model_mib: float = 0.0, node_mib: float = 0.0) -> None:
        """So many samples, ten seconds apart, in each of which somebody grows."""
        for _ in range(samples):
            self.residents = [
                replace(one, measured_bytes={"ram": one.measured_bytes["ram"] + int(model_mib * MIB)})
                for one in self.residents
            ]
            self.node = ProcessMemory(self.node.anonymous_bytes + int(node_mib * MIB), self.node.file_bytes)
            self.history.sample()
            self.clock.now += 10

    def told(self) -> list[dict[str, object]]:
        return [event.fields for event in self.events.recent() if event.name == "memory.leak_suspected"]


def test_each_kind_of_memory_is_a_series_of_its_own() -> None:
    world = World()
    world.residents = [
        resident(measured_bytes={"ram": 7, "gpu0": 8}, file_bytes=9),
        resident("new", 2, measured_bytes={}),
    ]
    world.history.sample()

    assert {name: samples[-1][1] for name, samples in world.history.series().items()} == {
        "node:ram": 100 * MIB, "node:file": 30 * MIB, "device:ram": 40,
        "model:tiny#1:ram": 7, "model:tiny#1:gpu0": 8, "model:tiny#1:file": 9,
    }  # fmt: skip
    assert {trend.series for trend in world.history.trends()} == {"node:ram", "model:tiny#1:ram", "model:tiny#1:gpu0"}
    assert world.history.node == world.node


def test_history_is_bounded_and_forgets_residents_that_left() -> None:
    world = World()
    world.residents = [resident()]
    world.live(SAMPLES_MAX + 10)

    shown = world.history.series()["node:ram"]
    assert len(world.history._series["node:ram"]) == SAMPLES_MAX
    assert SAMPLES_MAX // 3 - 1 <= len(shown) <= POINTS_MAX
    assert (shown[0][0] > 7000, shown[-1][0]) == (True, 10.0)
    world.residents = [resident(f"m{n}", n) for n in range(3 * SERIES_MAX)]
    world.history.sample()
    assert len(world.history.series()) == SERIES_MAX
    world.residents = []
    world.history.sample()
    assert set(world.history.series()) == {"node:ram", "node:file", "device:ram"}
    assert [trend.series for trend in world.history.trends()] == ["node:ram"]


def test_a_worker_that_leaks_is_told_and_handed_on_once_for_each_load() -> None:
    world = World()
    world.residents = [resident()]
    world.live(QUARTER_HOUR, model_mib=1)

    assert world.recycled == [("tiny", 1, "leak")]
    assert world.history.trends()[1].is_leak_suspected
    world.live(QUARTER_HOUR, model_mib=1)
    assert len(world.told()) == 1
    told = world.told()[0]
    assert (told["model"], told["epoch"], told["series"]) == ("tiny", 1, "model:tiny#1:ram")
    assert abs(float(str(told["bytes_per_h"])) - 360 * MIB) < MIB
    assert float(str(told["confidence_ratio"])) > 0.99

    world.residents = [resident(epoch=2)]
    world.live(QUARTER_HOUR, model_mib=1)
    assert world.recycled == [("tiny", 1, "leak"), ("tiny", 2, "leak")]


def test_growth_into_what_was_predicted_is_no_leak() -> None:
    world = World()
    world.residents = [resident(predicted_bytes={"ram": 700 * MIB})]
    world.live(QUARTER_HOUR, model_mib=1)

    assert world.history.trends()[1].bytes_per_h > 300 * MIB
    assert not world.history.trends()[1].is_leak_suspected
    world.live(2 * QUARTER_HOUR, model_mib=1)
    assert world.recycled == [("tiny", 1, "leak")]


def test_this_process_itself_is_only_told() -> None:
    world = World()
    world.live(QUARTER_HOUR, node_mib=1)

    assert [(told["model"], told["series"]) for told in world.told()] == [("", "node:ram")]
    assert world.recycled == []


def test_mapped_files_cannot_leak() -> None:
    world = World()
    for n in range(2 * QUARTER_HOUR):
        world.residents = [resident(file_bytes=n * MIB)]
        world.live(1)

    assert world.told() == []


async def test_it_samples_by_itself_and_asking_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world, looks = World(), []

    def counting(series: str, samples: Sequence[Sample]) -> Trend:
        looks.append(series)
        return trend_of(series, samples)

    monkeypatch.setattr(memory_history, "trend_of", counting)
    task = asyncio.create_task(world.history.run())
    async with asyncio.timeout(20):
        while not world.history.trends():  # noqa: ASYNC110 - told by nobody
            await asyncio.sleep(0.001)
    for _ in range(100):
        world.history.trends()
    task.cancel()

    assert looks == ["node:ram"]

"""The wall clock is set, or the machine sleeps: nobody is unloaded for it, nothing stays shut, history is in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from modelyard.errors import LoadFailed
from modelyard.events import EventBus
from modelyard.gateway.memory_history import MemoryHistory
from modelyard.memory.devices import FakeDevices
from modelyard.residency.manager import ResidencyManager
from modelyard.residency.messages import Tick
from modelyard.residency.state import ResidencyLimits
from modelyard.types.memory import ProcessMemory
from modelyard.types.status import Residency
from tests.residency.fakes import MIB, FakeStarter, model, until

HOUR_S = 3600.0
IDLE_S, BACKOFF_S = 300.0, 10.0
# A machine that slept wakes up with a wall clock hours ahead, while the other did not move.
JUMPS = {"an hour ahead": HOUR_S, "an hour back": -HOUR_S, "asleep for a week": 168 * HOUR_S}


class TwoClocks:
    """A wall clock that jumps, and one that never does."""

    def __init__(self) -> None:
        self.steady, self.shown = 1000.0, 1.7e9

    def monotonic(self) -> float:
        return self.steady

    def wall(self) -> float:
        return self.shown

    def pass_time(self, seconds: float) -> None:
        self.steady += seconds
        self.shown += seconds


class Yard:
    def __init__(self) -> None:
        self.clock = TwoClocks()
        self.devices = FakeDevices({"gpu0": 1000 * MIB})
        self.starter = FakeStarter(self.devices, dict.fromkeys("abcd", 100 * MIB))
        limits = ResidencyLimits(headroom_bytes=0, idle_ttl_s=IDLE_S, backoff_s=BACKOFF_S)
        self.manager = ResidencyManager(
            self.clock, EventBus(), self.devices, self.starter, limits, read_every_s=0.01, memory_back_s=0.1
        )
        self.history = MemoryHistory(
            self.clock, EventBus(), node_memory=lambda: ProcessMemory(100 * MIB), devices=self.manager.devices,
            residents=self.manager.residents,
        )  # fmt: skip

    async def use(self, name: str) -> None:
        deadline = self.clock.monotonic() + 100
        async with self.manager.lease(model(name), ticket="t", caller="me", deadline=deadline):
            await asyncio.sleep(0)

    def look(self) -> None:
        """What a timer that has come would do."""
        self.manager.feed(Tick(self.clock.monotonic()))

    def there(self) -> list[str]:
        return [one.model for one in self.manager.residents() if one.state is Residency.RESIDENT]


@asynccontextmanager
async def running() -> AsyncIterator[Yard]:
    yard = Yard()
    task = asyncio.create_task(yard.manager.run())
    try:
        yield yard
    finally:
        await yard.manager.close()
        await task


@pytest.mark.parametrize("jump", JUMPS)
async def test_idle_models_stay_and_leave_when_their_time_has_really_passed(jump: str) -> None:
    async with running() as yard:
        for name in "abc":
            await yard.use(name)
        yard.clock.pass_time(IDLE_S / 2)

        yard.clock.shown += JUMPS[jump]
        yard.look()

        assert yard.there() == ["a", "b", "c"]
        assert [one.expires_in_s for one in yard.manager.residents()] == [IDLE_S / 2] * 3
        yard.clock.pass_time(IDLE_S / 2)
        yard.look()
        await until(lambda: not yard.manager.residents())


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_cooldown_neither_ends_early_nor_lasts(jump: str) -> None:
    async with running() as yard:

        async def fail(_name: str) -> None:
            raise LoadFailed(model="d", problem="the file is damaged")

        yard.starter.on_start = fail
        with pytest.raises(LoadFailed):
            await yard.use("d")
        yard.starter.on_start = None

        yard.clock.shown += JUMPS[jump]
        with pytest.raises(LoadFailed) as refused:
            await yard.use("d")
        assert refused.value.retry_after_s == BACKOFF_S

        yard.clock.pass_time(BACKOFF_S)
        await yard.use("d")
        assert yard.starter.starts == ["d", "d"]


@pytest.mark.parametrize("jump", JUMPS)
async def test_history_is_in_order_and_no_leak_is_seen_in_a_jump(jump: str) -> None:
    async with running() as yard:
        await yard.use("a")
        for sample in range(120):
            yard.history.sample()
            yard.clock.pass_time(10)
            if sample == 60:
                yard.clock.shown += JUMPS[jump]

        ages = [age for age, _count in yard.history.series()["model:a#1:gpu0"]]
        assert ages == [10.0 * (120 - n) for n in range(120)]
        assert not any(trend.is_leak_suspected for trend in yard.history.trends())

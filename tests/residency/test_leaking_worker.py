"""A worker that leaks: seen over time, and replaced once nobody uses it."""

from __future__ import annotations

import asyncio

from modelyard.events import EventBus
from modelyard.memory.devices import FakeDevices, SystemDevices
from modelyard.residency.manager import ResidencyManager
from modelyard.residency.state import ResidencyLimits
from modelyard.showing import memory_history
from modelyard.types.status import Residency
from modelyard.units import GIB, MIB
from tests.residency.fakes import FakeStarter, model, until
from tests.residency.test_clock_jumps import TwoClocks

QUARTER_HOUR = 90  # samples


async def test_a_worker_that_leaks_is_replaced_after_its_last_lease_and_not_before() -> None:
    clock, events, devices = TwoClocks(), EventBus(), FakeDevices({"gpu0": 8 * GIB})
    starter = FakeStarter(devices, {"a": 500 * MIB})
    limits = ResidencyLimits(headroom_bytes=0, idle_ttl_s=-1.0, growth_bytes_min=8 * GIB)
    manager = ResidencyManager(clock, events, devices, starter, limits, read_every_s=0.01, memory_back_s=0.1)
    history = memory_history(clock, events, SystemDevices(gpus=False), manager)
    running = asyncio.create_task(manager.run())
    async with manager.lease(model("a"), ticket="t", caller="me", deadline=clock.monotonic() + 9) as lease:
        for _ in range(QUARTER_HOUR):
            starter.sizes["a"] += 2 * MIB
            devices.used_bytes["gpu0"] += 2 * MIB
            await manager._hosting.look()
            history.sample()
            clock.pass_time(10)

        told = [event.name for event in events.recent()]
        assert told.count("memory.leak_suspected") == told.count("model.recycling") == 1
        assert manager.residency_of("a") in (Residency.RESIDENT, Residency.DRAINING)
        assert starter.live == ["a"]

    await until(lambda: manager.residency_of("a") is Residency.ABSENT)
    (unloaded,) = [event for event in events.recent() if event.name == "model.unloaded"]
    assert unloaded.fields["reason"] == "recycle"
    async with manager.lease(model("a"), ticket="t", caller="me", deadline=clock.monotonic() + 9) as again:
        assert again.epoch == lease.epoch + 1
    await manager.close()
    await running

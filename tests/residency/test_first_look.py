"""A request that comes while the very first look at the devices is under way is not refused for want of devices."""

from __future__ import annotations

import asyncio
import threading

from modelyard.clock import SystemClock
from modelyard.events import EventBus
from modelyard.memory.devices import FakeDevices
from modelyard.residency.manager import ResidencyManager
from modelyard.residency.state import ResidencyLimits
from modelyard.types.memory import DeviceReading
from tests.residency.fakes import MIB, FakeStarter, model, until


class SlowFirstLook(FakeDevices):
    """Its first look ends when a test lets it."""

    def __init__(self, totals: dict[str, int]) -> None:
        super().__init__(totals)
        self.begun, self.may_end = threading.Event(), threading.Event()

    def read(self) -> tuple[DeviceReading, ...]:
        if not self.begun.is_set():
            self.begun.set()
            assert self.may_end.wait(20)
        return super().read()


async def test_a_request_during_the_first_look_is_served() -> None:
    devices = SlowFirstLook({"gpu0": 1000 * MIB})
    clock = SystemClock()
    limits = ResidencyLimits(headroom_bytes=0)
    manager = ResidencyManager(clock, EventBus(), devices, FakeStarter(devices, {"a": MIB}), limits)
    running = asyncio.create_task(manager.run())
    looking = asyncio.create_task(manager.guests.look())
    await until(devices.begun.is_set)

    try:
        async with manager.lease(model("a"), ticket="t", caller="me", deadline=clock.monotonic() + 20) as lease:
            assert lease.model.name == "a"
    finally:
        devices.may_end.set()
        await looking
        await manager.close()
        await running

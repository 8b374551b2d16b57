"""Residency over real processes: scripted workers are started, killed, stopped by a signal, and replaced."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from modelyard.clock import SystemClock
from modelyard.engines.echo import Echo, echo_model
from modelyard.errors import LoadFailed, UpstreamStalled
from modelyard.events import EventBus
from modelyard.memory.devices import SystemDevices
from modelyard.residency.lease import Lease
from modelyard.residency.manager import ResidencyManager
from modelyard.residency.state import ResidencyLimits
from modelyard.types.model import Model
from modelyard.types.status import Residency
from modelyard.units import GIB
from modelyard.workers.run_folder import RunFolder
from modelyard.workers.start import Starter

from .fakes import until

CLOCK = SystemClock()
BIG = int(0.6 * GIB)  # declared, not really taken


@asynccontextmanager
async def node() -> AsyncIterator[ResidencyManager]:
    """A node that believes it has one GiB for models."""
    devices = SystemDevices(ram_limit_bytes=GIB, gpus=False)
    with RunFolder() as run:
        starter = Starter([Echo(os.environ)], run, devices.process)
        limits = ResidencyLimits(headroom_bytes=0, residence_load_ratio=0.0)
        manager = ResidencyManager(CLOCK, EventBus(), devices, starter, limits, read_every_s=0.2)
        task = asyncio.create_task(manager.run())
        try:
            yield manager
        finally:
            await manager.close()
            await task


@asynccontextmanager
async def lease(manager: ResidencyManager, model: Model) -> AsyncIterator[Lease]:
    deadline = CLOCK.monotonic() + 60.0
    async with manager.lease(model, ticket="t", caller="me", deadline=deadline) as granted:
        yield granted


async def test_two_models_take_turns_and_no_process_is_left() -> None:
    a, b = echo_model("a", footprint_bytes=BIG), echo_model("b", footprint_bytes=BIG)
    pids: list[int] = []
    async with node() as manager:
        for model in (a, b, a):
            async with lease(manager, model) as granted:
                pids.append(granted.worker.pid)
                assert psutil.pid_exists(pids[-1])
        assert not psutil.pid_exists(pids[0])

    assert len(set(pids)) == 3
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_a_killed_worker_is_noticed_and_replaced() -> None:
    model = echo_model("a")
    async with node() as manager:
        async with lease(manager, model) as granted:
            os.kill(granted.worker.pid, signal.SIGKILL)
            await until(lambda: manager.residency_of("a") is not Residency.RESIDENT)
            assert granted.worker.exited.done()
        async with lease(manager, model) as again:
            assert again.epoch == granted.epoch + 1


async def test_a_stopped_process_that_is_reported_is_killed_and_replaced() -> None:
    model = echo_model("a")
    async with node() as manager:
        async with lease(manager, model) as granted:
            os.kill(granted.worker.pid, signal.SIGSTOP)
            await granted.fail(UpstreamStalled(model="a", stalled_s=1))
        async with lease(manager, model) as again:
            assert again.worker.pid != granted.worker.pid
        assert not psutil.pid_exists(granted.worker.pid)


async def test_a_load_that_fails_says_why() -> None:
    async with node() as manager:
        with pytest.raises(LoadFailed, match="out of paper"):
            async with lease(manager, echo_model("a", fail_load="out of paper")):
                pass

        assert "a" in manager.failures()

"""A model is unloaded when its processes are gone and their memory is back, not before; else it is told as leaked."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import psutil

from modelyard.engines.base import LaunchOptions, WorkerCommand
from modelyard.engines.echo import Echo, echo_model
from modelyard.types.model import Model
from modelyard.types.status import Residency
from modelyard.units import MIB
from modelyard.workers.start import StartLimits
from tests.residency.fakes import until
from tests.support.corner import cornered, use

HELD = 300 * MIB
TOLERANCE = max(64 * MIB, HELD // 20)

# Deaf to TERM, and what it starts is deaf too and in a session of its own.
WRAPPER = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.environ["MODELYARD_PARENT_PID"] = str(os.getpid())
sys.exit(subprocess.Popen(sys.argv[1:], start_new_session=True).wait())
"""


class Wrapped(Echo):
    """Scripted workers below a program we did not write."""

    def command(self, model: Model, options: LaunchOptions, socket: Path) -> WorkerCommand:
        bare = super().command(model, options, socket)
        return replace(bare, argv=(sys.executable, "-c", WRAPPER, *bare.argv), under_guardian=True)


async def test_a_model_is_absent_only_when_its_processes_are_reaped_and_its_memory_is_back() -> None:
    model = echo_model("a", footprint_bytes=HELD, allocate_bytes=HELD, exit_late_s=0.3)
    async with cornered() as (manager, corner):
        pid = await use(manager, model)
        before = corner.read()[0].used_bytes
        assert before > HELD

        unloading = asyncio.create_task(manager.unload("a"))
        seen: list[tuple[Residency, bool, int]] = []
        while not seen or seen[-1][0] is not Residency.ABSENT:
            state = manager.residency_of("a")  # first: what is looked at after it can only be later
            seen.append((state, psutil.pid_exists(pid), corner.read()[0].used_bytes))
            await asyncio.sleep(0.002)
        receipt = await unloading

    assert (Residency.LEAVING, True) in [(state, exists) for state, exists, _used in seen]
    state, exists, used = seen[-1]
    assert (state, exists) == (Residency.ABSENT, False)
    assert used <= before - HELD + TOLERANCE
    assert receipt is not None
    assert receipt.leaked_bytes == 0
    assert receipt.worker.anonymous_bytes > HELD
    assert receipt.freed_bytes["ram"] > HELD - TOLERANCE


async def test_what_ignores_every_word_below_a_wrapper_is_killed_and_its_memory_is_back() -> None:
    model = echo_model("a", footprint_bytes=HELD, allocate_bytes=HELD, ignore_term=True)
    limits = StartLimits(term_s=0.2, kill_s=10.0)
    async with cornered(engines=[Wrapped(os.environ)], limits=limits) as (manager, corner):
        await use(manager, model)
        assert len(corner.workers()) == 3  # the guardian, the wrapper, and the worker

        receipt = await manager.unload("a")

        assert corner.workers() == []
        assert manager.residency_of("a") is Residency.ABSENT
        assert receipt is not None
        assert (receipt.leaked_bytes, receipt.worker.anonymous_bytes > HELD) == (0, True)
        await use(manager, echo_model("b", footprint_bytes=900 * MIB))  # all of the room can be had again


async def test_a_process_that_cannot_be_ended_is_told_as_leaked_and_the_others_go_on() -> None:
    stuck = echo_model("stuck", footprint_bytes=HELD, allocate_bytes=HELD)
    async with cornered(stop_s=0.3) as (manager, corner):
        pid = await use(manager, stuck)
        hosted = manager._hosting.current("stuck")
        assert hosted is not None
        worker = hosted.worker
        assert worker is not None
        end = worker.stop
        worker.stop = asyncio.Event().wait  # type: ignore[method-assign,assignment]  # no signal reaches it

        receipt = await manager.unload("stuck")

        assert receipt is not None
        assert receipt.leaked_bytes > HELD
        assert psutil.pid_exists(pid)
        await manager.refresh()
        device = manager.devices()[0]
        assert device.foreign_bytes > HELD
        assert device.free_bytes < device.budget_bytes - HELD
        await until(lambda: bool(manager.devices()[0].holders))
        assert manager.devices()[0].holders[0].name.endswith("(stuck)")
        await use(manager, echo_model("b", footprint_bytes=400 * MIB))
        assert corner.workers() != [pid]
        await end()
        await use(manager, echo_model("c", footprint_bytes=900 * MIB))  # what was leaked is room again

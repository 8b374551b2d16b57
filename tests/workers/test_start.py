from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from modelyard.engines.base import LaunchOptions
from modelyard.engines.echo import Echo, echo_model
from modelyard.errors import LoadFailed, LoadStalled, ModelFileError
from modelyard.types.memory import RAM, Footprint, ProcessMemory
from modelyard.types.model import Model
from modelyard.workers.launch_plan import Keeping
from modelyard.workers.marked import RUN_VARIABLE, find_marked
from modelyard.workers.run_folder import RunFolder
from modelyard.workers.start import Starter, StartLimits
from tests.workers.waiting import until


class CountingEcho(Echo):
    """Counts how often it is asked, and answers only when allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_count = 0
        self.failures = 0
        self.may_answer = asyncio.Event()

    async def footprint(self, model: Model, options: LaunchOptions) -> Footprint:
        self.asked_count += 1
        await self.may_answer.wait()
        if self.failures:
            self.failures -= 1
            raise ModelFileError(path="a", problem="damaged")
        return await super().footprint(model, options)


@pytest.fixture
def run(folder: Path) -> Iterator[RunFolder]:
    with RunFolder(folder) as run:
        yield run


def memory(pid: int) -> ProcessMemory:
    return ProcessMemory(anonymous_bytes=psutil.Process(pid).memory_info().rss)


def tell_nobody(_phase: str, _ratio: float) -> None:
    pass


def living(run: RunFolder) -> int:
    return len(find_marked({RUN_VARIABLE: frozenset((run.mark,))}))


async def test_a_started_worker_is_all_that_residency_needs(run: RunFolder) -> None:
    starter = Starter([Echo()], run, memory)

    worker = await starter.start(echo_model("a", slots=3, context_length=64), 1, tell_nobody)

    assert (worker.slots, worker.context_length) == (3, 64)
    assert isinstance(worker.socket, Path)
    assert worker.socket.exists()
    assert worker.memory().anonymous_bytes > 0
    assert "ready" in worker.last_lines()
    await worker.stop()
    assert await worker.exited == "killed by signal SIGTERM"
    assert living(run) == 0


async def test_a_spec_has_size_slots_and_how_long_it_is_kept(run: RunFolder) -> None:
    starter = Starter([Echo()], run, memory, keeping={"A": Keeping(idle_ttl_s=7, pinned=True)})

    spec = await starter.spec(echo_model("a", slots=3, footprint_bytes=1000))

    assert spec.footprint.bytes == {RAM: 1000}
    assert (spec.name, spec.slots, spec.idle_ttl_s, spec.pinned) == ("a", 3, 7, True)


async def test_a_footprint_is_worked_out_once_however_many_ask(run: RunFolder) -> None:
    engine = CountingEcho()
    starter = Starter([engine], run, memory)
    asking = [asyncio.create_task(starter.spec(echo_model("a"))) for _ in range(10)]
    await until(lambda: engine.asked_count, "the engine was asked")
    asking[0].cancel()  # the first to ask leaves: the others still get their answer
    engine.may_answer.set()

    specs = await asyncio.gather(*asking[1:], starter.spec(echo_model("a")))

    assert engine.asked_count == 1
    assert len(set(map(id, specs))) == 1


async def test_a_failed_footprint_is_asked_for_again(run: RunFolder) -> None:
    engine = CountingEcho()
    engine.may_answer.set()
    engine.failures = 1
    starter = Starter([engine], run, memory)
    with pytest.raises(ModelFileError):
        await starter.spec(echo_model("a"))

    spec = await starter.spec(echo_model("a"))

    assert spec.name == "a"


async def test_a_model_no_engine_serves_is_a_failed_load(run: RunFolder) -> None:
    with pytest.raises(LoadFailed, match="could not be loaded") as caught:
        await Starter([Echo()], run, memory).spec(Model("a", engine="none"))

    assert "no engine" in str(caught.value)


async def test_a_damaged_model_is_not_even_tried(run: RunFolder) -> None:
    with pytest.raises(ModelFileError):
        await Starter([Echo()], run, memory).spec(Model("a", engine="echo", problem="cut short"))


async def test_a_failed_load_leaves_nothing_running(run: RunFolder) -> None:
    starter = Starter([Echo()], run, memory)

    with pytest.raises(LoadFailed, match="could not be loaded"):
        await starter.start(echo_model("a", fail_load="no room"), 1, tell_nobody)

    assert living(run) == 0


async def test_a_stalled_load_leaves_nothing_running(run: RunFolder) -> None:
    starter = Starter([Echo()], run, memory, StartLimits(load_stall_s=1))

    with pytest.raises(LoadStalled):
        await starter.start(echo_model("a", stall_load=True, ignore_term=True), 1, tell_nobody)

    assert living(run) == 0


async def test_a_cancelled_load_leaves_nothing_running(run: RunFolder) -> None:
    starter = Starter([Echo()], run, memory)
    loading = asyncio.create_task(starter.start(echo_model("a", load_s=300), 1, tell_nobody))
    await until(lambda: living(run), "the worker runs")

    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading

    assert living(run) == 0


async def test_a_crash_is_known_at_once(run: RunFolder) -> None:
    starter = Starter([Echo()], run, memory)
    worker = await starter.start(echo_model("a"), 1, tell_nobody)

    psutil.Process(worker.pid).kill()

    assert await asyncio.wait_for(worker.exited, 30) == "killed by signal SIGKILL"
    await worker.stop()

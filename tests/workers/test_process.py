from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from modelyard.engines.base import WorkerCommand
from modelyard.engines.echo import Echo, echo_model
from modelyard.errors import LoadFailed, LoadStalled
from modelyard.types.memory import ProcessMemory
from modelyard.workers.marked import RUN_VARIABLE, find_marked
from modelyard.workers.output import LINE_BYTES_MAX, LINES_MAX
from modelyard.workers.process import ExitStatus, Worker, spawn
from modelyard.workers.ready import LoadWatch, wait_ready
from tests.workers.waiting import until


def echo(socket: Path, **script: object) -> WorkerCommand:
    engine, model = Echo({"PATH": os.defpath}), echo_model("a", **script)
    return engine.command(model, engine.options(model), socket)


def python(socket: Path, program: str) -> WorkerCommand:
    return WorkerCommand((sys.executable, "-c", program), {"PATH": os.defpath}, socket)


def no_memory() -> ProcessMemory:
    return ProcessMemory()


def tell_nobody(_phase: str, _ratio: float) -> None:
    pass


def watch(
    *,
    stall_s: float = 30.0,
    deadline_s: float = 60.0,
    memory: Callable[[], ProcessMemory] = no_memory,
    on_progress: Callable[[str, float], None] = tell_nobody,
) -> LoadWatch:
    return LoadWatch("a", stall_s, deadline_s, Echo().explain_failure, memory, on_progress, expected_bytes=1000)


_STARTED: list[Worker] = []


@pytest.fixture(autouse=True)
async def _nothing_stays() -> AsyncIterator[None]:
    yield
    while _STARTED:
        await _STARTED.pop().stop()


async def start(command: WorkerCommand, folder: Path, mark: str = "test") -> Worker:
    worker = await spawn(command, run_folder=folder, mark=mark)
    _STARTED.append(worker)
    return worker


async def test_a_worker_starts_serves_and_ends(folder: Path) -> None:
    worker = await start(echo(folder / "s"), folder)
    await wait_ready(worker, watch())
    assert isinstance(worker.socket, Path)
    assert stat.S_IMODE(worker.socket.stat().st_mode) == 0o600

    ended = await worker.stop()

    assert ended == ExitStatus(None, signal.SIGTERM, "killed by signal SIGTERM")
    assert worker.exited.result() == ended
    assert not psutil.pid_exists(worker.pid)
    assert not worker.socket.exists()


async def test_stopping_twice_and_at_once_is_stopping(folder: Path) -> None:
    worker = await start(echo(folder / "s"), folder)

    first, second = await asyncio.gather(worker.stop(), worker.stop())

    assert first == second == await worker.stop()


async def test_a_stop_goes_on_when_whoever_asked_has_left(folder: Path) -> None:
    worker = await start(echo(folder / "s", ignore_term=True), folder)
    await wait_ready(worker, watch())
    asking = asyncio.create_task(worker.stop(term_s=0.2))
    await asyncio.sleep(0)

    asking.cancel()

    assert (await asyncio.wait_for(worker.exited, 30)).signal == signal.SIGKILL


async def test_a_worker_deaf_to_term_is_killed(folder: Path) -> None:
    worker = await start(echo(folder / "s", ignore_term=True), folder)
    await wait_ready(worker, watch())

    ended = await worker.stop(term_s=0.1)

    assert ended.signal == signal.SIGKILL


async def test_a_halted_worker_is_killed(folder: Path) -> None:
    worker = await start(echo(folder / "s"), folder)
    await wait_ready(worker, watch())
    os.kill(worker.pid, signal.SIGSTOP)

    ended = await worker.stop(term_s=0.1)

    assert ended.signal in (signal.SIGKILL, signal.SIGTERM)  # TERM was waiting: the kernel delivers either first
    assert not psutil.pid_exists(worker.pid)


@pytest.mark.parametrize("under_guardian", [False, True])
async def test_stop_takes_children_with_sessions_of_their_own(folder: Path, *, under_guardian: bool) -> None:
    script = "setsid sleep 300 & (setsid sh -c 'sleep 300 & sleep 300' &) ; exec sleep 300"
    command = WorkerCommand(("/bin/sh", "-c", script), {"PATH": "/usr/bin:/bin"}, folder / "s")
    mark = f"test-{folder.name}"
    worker = await start(replace(command, under_guardian=under_guardian), folder, mark)
    marks = {RUN_VARIABLE: frozenset((mark,))}
    await until(lambda: len(find_marked(marks)) >= 5, "the sleepers run")

    await worker.stop()

    assert find_marked(marks) == []


async def test_children_left_by_a_crash_go_with_the_stop_that_follows(folder: Path) -> None:
    command = WorkerCommand(("/bin/sh", "-c", "setsid sleep 300 & exit 3"), {"PATH": "/usr/bin:/bin"}, folder / "s")
    mark = f"test-{folder.name}"
    worker = await start(command, folder, mark)
    assert (await asyncio.wait_for(worker.exited, 30)).code == 3

    await worker.stop()

    assert find_marked({RUN_VARIABLE: frozenset((mark,))}) == []


async def test_an_end_is_known_with_its_cause_and_last_words(folder: Path) -> None:
    worker = await start(python(folder / "s", "import os; print('last words', flush=True); os.abort()"), folder)

    ended = await asyncio.wait_for(worker.exited, 30)

    assert ended.text == "killed by signal SIGABRT"
    assert worker.last_lines() == ("last words",)


async def test_a_talkative_worker_never_blocks_and_costs_little(folder: Path) -> None:
    program = (
        "import sys\nfor n in range(20000): print(n, 'x' * 100)\nsys.stdout.flush()\nsys.stderr.write('y' * 1000000)"
    )
    worker = await start(python(folder / "s", program), folder)

    await asyncio.wait_for(worker.exited, 30)

    lines = worker.last_lines()
    assert len(lines) <= LINES_MAX + 1
    assert all(len(line) <= LINE_BYTES_MAX for line in lines)
    assert lines[-2].startswith("19999 ")


async def test_a_worker_sees_nothing_of_our_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    show = "import json, os; print(json.dumps([dict(os.environ), os.umask(0), os.getsid(0) == os.getpid()]))"
    worker = await start(python(folder / "s", show), folder)

    await asyncio.wait_for(worker.exited, 30)

    environment, umask, has_own_session = json.loads(worker.last_lines()[0])
    ours = {"PATH", "MODELYARD_RUN", "MODELYARD_WORKER", "MODELYARD_PARENT_PID"}
    assert set(environment) - {"LC_CTYPE"} == ours
    assert umask == 0o077
    assert has_own_session


async def test_a_program_that_does_not_exist_is_an_error_at_once(folder: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await start(WorkerCommand(("/nowhere/at/all",), {}, folder / "s"), folder)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system watches processes in another way")
async def test_a_worker_that_cannot_be_watched_is_not_left_running(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", none_left)
    with pytest.raises(OSError, match="Too many open files"):
        await start(echo(folder / "s"), folder, mark="unwatched")

    assert find_marked({RUN_VARIABLE: frozenset(("unwatched",))}) == []


async def test_a_socket_path_the_kernel_would_cut_is_refused(folder: Path) -> None:
    with pytest.raises(OSError, match="over 100 bytes"):
        await start(echo(folder / ("s" * 100)), folder)


async def test_a_load_that_fails_says_why(folder: Path) -> None:
    worker = await start(echo(folder / "s", fail_load="no room for 7 GiB", fail_load_code=3), folder)

    with pytest.raises(LoadFailed) as caught:
        await wait_ready(worker, watch())

    assert str(caught.value) == "a could not be loaded: no room for 7 GiB (exit code 3)"


async def test_a_load_without_signs_of_life_is_stalled(folder: Path) -> None:
    worker = await start(echo(folder / "s", stall_load=True), folder)

    with pytest.raises(LoadStalled):
        await wait_ready(worker, watch(stall_s=1.0))


async def test_a_halted_load_is_stalled(folder: Path) -> None:
    worker = await start(echo(folder / "s", load_s=300), folder)
    os.kill(worker.pid, signal.SIGSTOP)

    with pytest.raises(LoadStalled):
        await wait_ready(worker, watch(stall_s=1.0))


async def test_a_slow_load_with_signs_of_life_is_not_stalled(folder: Path) -> None:
    # a line every 0.7 s: longer in all than the 5 s that may pass without one
    worker = await start(echo(folder / "s", load_s=7), folder)

    await wait_ready(worker, watch(stall_s=5.0))


async def test_growing_memory_is_a_sign_of_life_and_progress(folder: Path) -> None:
    worker = await start(echo(folder / "s", stall_load=True), folder)
    held, told = [0], [0.0]

    def grow() -> ProcessMemory:
        held[0] += 512 * 1024 if held[0] < 5 * 1024**2 else 0
        return ProcessMemory(anonymous_bytes=held[0])

    with pytest.raises(LoadStalled):
        await wait_ready(worker, watch(stall_s=1.0, memory=grow, on_progress=lambda _phase, ratio: told.append(ratio)))

    assert held[0] >= 5 * 1024**2
    assert max(told) == 0.99


async def test_a_load_past_its_deadline_fails(folder: Path) -> None:
    worker = await start(echo(folder / "s", load_s=300), folder)

    with pytest.raises(LoadFailed, match="could not be loaded") as caught:
        await wait_ready(worker, watch(deadline_s=1.0))

    assert "not ready after" in str(caught.value)

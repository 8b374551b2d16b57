"""However the server ends, no process of its stays behind; and none of somebody else's is touched.

What single workers and wrapped commands do when their node dies is proven in tests/workers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support.counts import count
from tests.support.node import (
    MARK,
    Answer,
    Server,
    ask,
    client,
    echo,
    ready,
    running,
    short_folder,
    start_server,
    stopped,
    until,
)

WORKERS = 8
KILLS = count(suite=3, prove=100)
ENDLESS = 100_000
SLOW: dict[str, Any] = {"tokens_per_s": 20}
STUBBORN: dict[str, Any] = {"tokens_per_s": 20, "ignore_term": True}


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def runs(folder: Path) -> list[str]:
    """The folders of runs, living and dead."""
    return sorted(path.name for path in (folder / "run" / "modelyard").glob("*"))


def of_run(run: str) -> list[psutil.Process]:
    """The living processes of one run."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == run and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def all_gone(processes: list[psutil.Process]) -> bool:
    return not living(processes)


def sleeper(run: str) -> subprocess.Popen[bytes]:
    """A process that carries the mark of a run."""
    return subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: run})


def noted(names: set[str], name: str) -> Callable[[Answer], None]:
    return lambda _answer: names.add(name)


@asynccontextmanager
async def streaming(server: Server, *models: str) -> AsyncIterator[list[asyncio.Task[Answer]]]:
    """An endless answer of each model under way; whatever becomes of it."""
    first: set[str] = set()
    async with client() as session:
        tasks = [
            asyncio.create_task(
                ask(
                    session, server, model, stream=True, max_tokens=ENDLESS,
                    on_frame=noted(first, model),
                )
            )
            for model in models
        ]  # fmt: skip
        try:
            await until(lambda: len(first) == len(models) or any(task.done() for task in tasks), "every answer begins")
            assert len(first) == len(models)
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_taken_port_is_told_and_nothing_is_started() -> None:
    with short_folder() as folder, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        server = start_server(folder, echo(a={}), port=port)
        code = await asyncio.to_thread(server.process.wait, 60)

        assert code == 3
        assert str(port) in server.text()
        assert "--port" in server.text()
        assert "Traceback" not in server.text()
        assert runs(folder) == []


@pytest.mark.parametrize(
    ("number", "other"), [(signal.SIGINT, SLOW), (signal.SIGTERM, STUBBORN)], ids=["ctrl-c", "term"]
)
async def test_a_signal_ends_the_server_and_its_workers(number: signal.Signals, other: dict[str, Any]) -> None:
    config = {**echo(a=SLOW, b=other), "server": {"port": 0, "drain_s": 0.2}}
    async with running(config) as server, streaming(server, "a", "b") as answers:
        workers = server.workers()
        assert len(workers) == 2

        code = await stopped(server, number)

        assert code == 128 + number
        assert living(workers) == []
        assert runs(server.folder) == []
        ended = [await answer for answer in answers]
        assert [answer.error and answer.error["code"] for answer in ended] == ["shutting_down"] * 2
        assert not any(answer.done for answer in ended)


async def test_a_signal_during_start_is_obeyed() -> None:
    config = echo(a={"load_s": 300})
    config["models"]["options"] = {"a": {"pinned": True}}
    async with running(config) as server:
        await until(server.workers, "the pinned model loads")
        workers = server.workers()

        assert await stopped(server, signal.SIGTERM) == 143
        assert living(workers) == []


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
async def test_a_second_signal_ends_it_at_once(first: signal.Signals) -> None:
    config = {**echo(a=SLOW, b=STUBBORN), "server": {"port": 0, "drain_s": 600}}
    async with running(config) as server, streaming(server, "a", "b"):
        workers = server.workers()
        server.signal(first)
        await until(lambda: "node.stopping" in server.text(), "the first signal is heard")
        assert server.process.poll() is None

        code = await stopped(server, signal.SIGINT)

        assert code == 128 + first
        assert living(workers) == []
        assert runs(server.folder) == []


async def start_with_workers(folder: Path, session: aiohttp.ClientSession) -> tuple[Server, list[psutil.Process]]:
    """A server with eight workers, half of which obey nothing but KILL."""
    models = {f"m{n}": (STUBBORN if n % 2 else SLOW) for n in range(WORKERS)}
    server = await ready(start_server(folder, echo(**models)))
    answers = await asyncio.gather(*(ask(session, server, name, max_tokens=1) for name in models))
    assert [answer.status for answer in answers] == [200] * WORKERS
    workers = psutil.Process(server.process.pid).children()
    assert len(workers) == WORKERS
    return server, workers


async def test_a_killed_server_leaves_no_worker_and_the_next_one_clears_up() -> None:
    with short_folder() as folder:
        # Another server of the same user, in the same place, with a worker of its own.
        neighbour = await ready(start_server(folder, echo(own=SLOW)))
        (foreign,) = runs(folder)
        try:
            async with client() as session, streaming(neighbour, "own") as theirs:
                leftover: subprocess.Popen[bytes] | None = None
                for _kill in range(KILLS):
                    server, workers = await start_with_workers(folder, session)
                    if leftover is not None:  # the start has ended what was left by the run before
                        assert leftover.wait(10) == -signal.SIGKILL
                    (run,) = set(runs(folder)) - {foreign}
                    async with streaming(server, "m0", "m1"):
                        server.process.kill()
                        server.process.wait()
                        await until(partial(all_gone, workers), "its workers are gone")
                    leftover = sleeper(run)

                assert leftover is not None
                last = await ready(start_server(folder, echo(a={})))
                assert leftover.wait(10) == -signal.SIGKILL
                assert await stopped(last) == 143
                assert runs(folder) == [foreign]
                assert len(of_run(foreign)) == 1
                assert not theirs[0].done()
        finally:
            await stopped(neighbour)
        assert runs(folder) == []

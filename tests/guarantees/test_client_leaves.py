"""A client that leaves stops its work, wherever that is: in the queue, in a load, in the prompt, in the answer.

Seen from both ends: the node forgets the request, and the worker counts it as cancelled, or never hears of it.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from tools.gguf_files import Shape, write_tiny_llama

from tests.support.counts import PROVE
from tests.support.node import (
    Server,
    ask,
    client,
    counters,
    echo,
    fetch,
    in_flight,
    resident,
    running,
    serving,
    short_folder,
    until,
)

MANY = 2000
PATHS = {"/v1/chat/completions": "chat", "/v1/completions": "completion"}
LEAVING = [
    pytest.param(stream, reset, path, id=f"{'streamed' if stream else 'plain'}-{'reset' if reset else 'closed'}-{name}")
    for stream in (True, False)
    for reset in (True, False)
    for path, name in PATHS.items()
    if PROVE or (stream ^ reset) == (name == "chat")  # in the suite every two of the three together
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    models: dict[str, Any] = {
        "slow": {"slots": 1, "tokens_per_s": 20},
        "reader": {"slots": 1, "prefill_tokens_per_s": 64},
        # So large that a load nobody waits for any more is given up for some seconds.
        "loads": {"slots": 1, "load_s": 120, "footprint_bytes": 4 * 1024**3},
    }
    with serving(echo(**models)) as node:
        yield node


@contextmanager
def asked(server: Server, model: str, id: str, path: str, *, stream: bool, words: int = 1) -> Iterator[socket.socket]:
    """A request on a connection of its own, which is left open."""
    prompt = "word " * words
    body: dict[str, Any] = {"model": model, "max_tokens": MANY, "stream": stream}
    body |= {"messages": [{"role": "user", "content": prompt}]} if "chat" in path else {"prompt": prompt}
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nX-Request-Id: {id}\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        yield connection


def leave(connection: socket.socket, *, reset: bool) -> None:
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Watcher:
    """Sees a node from outside."""

    def __init__(self, session: aiohttp.ClientSession, server: Server) -> None:
        self.session, self.server = session, server

    async def status(self) -> dict[str, Any]:
        return dict(await fetch(self.session, self.server, "/admin/status"))

    async def reaches(self, id: str, *phases: str) -> None:
        async def is_there() -> bool:
            return in_flight(await self.status()).get(id) in phases

        await until(is_there, f"{id} is {phases}")

    async def is_forgotten(self, id: str) -> None:
        async def is_gone() -> bool:
            status = await self.status()
            return id not in in_flight(status) and status["queue"] == 0

        await until(is_gone, f"{id} is forgotten")

    def outcome(self, id: str) -> list[dict[str, Any]]:
        return [one for one in self.server.log_events() if one.get("request_id") == id and "took_s" in one]

    async def worker(self, model: str) -> Path:
        """The socket of the worker of a model."""
        found = await resident(self.session, self.server, model)
        assert found is not None
        command = psutil.Process(found["pid"]).cmdline()
        return Path(command[command.index("--socket") + 1])

    async def counts(self, model: str) -> dict[str, int]:
        return await counters(await self.worker(model))

    async def worker_is_idle(self, model: str) -> dict[str, int]:
        async def is_idle() -> bool:
            return not (await self.counts(model))["running"]

        await until(is_idle, f"the worker of {model} is idle")
        return await self.counts(model)


@asynccontextmanager
async def watching(server: Server) -> AsyncIterator[Watcher]:
    async with client() as session:
        yield Watcher(session, server)


async def warm(watcher: Watcher, model: str) -> dict[str, int]:
    """A resident and idle model, and what its worker counted so far."""
    await ask(watcher.session, watcher.server, model, max_tokens=1)
    return await watcher.worker_is_idle(model)


@pytest.mark.parametrize(("stream", "reset", "path"), LEAVING)
async def test_leaving_the_queue(server: Server, stream: bool, reset: bool, path: str) -> None:
    async with watching(server) as watcher:
        before = await warm(watcher, "slow")
        with asked(server, "slow", "in-front", path, stream=True) as in_front:
            await watcher.reaches("in-front", "generating")
            with asked(server, "slow", "leaves", path, stream=stream) as connection:
                await watcher.reaches("leaves", "queued")

                leave(connection, reset=reset)

                await watcher.is_forgotten("leaves")
            assert in_flight(await watcher.status()) == {"in-front": "generating"}
            leave(in_front, reset=False)
        await watcher.is_forgotten("in-front")
        after = await watcher.worker_is_idle("slow")
        assert after["started"] == before["started"] + 1, "the worker never heard of who left the queue"
        assert [one["code"] for one in watcher.outcome("leaves")][-1:] == ["client_closed"]


@pytest.mark.parametrize(("stream", "reset", "path"), LEAVING)
async def test_leaving_while_the_prompt_is_read(server: Server, stream: bool, reset: bool, path: str) -> None:
    async with watching(server) as watcher:
        before = await warm(watcher, "reader")
        with asked(server, "reader", "leaves", path, stream=stream, words=2000) as connection:
            await watcher.reaches("leaves", "prefill")

            async def is_reading() -> bool:
                return (await watcher.counts("reader"))["running"] == 1

            await until(is_reading, "the worker reads")

            leave(connection, reset=reset)

        await watcher.is_forgotten("leaves")
        after = await watcher.worker_is_idle("reader")
        assert after["cancelled"] == before["cancelled"] + 1
        assert after["tokens"] == before["tokens"], "it never came to an answer"
        assert after["finished"] == before["finished"]


@pytest.mark.parametrize(("stream", "reset", "path"), LEAVING)
async def test_leaving_in_the_answer(server: Server, stream: bool, reset: bool, path: str) -> None:
    async with watching(server) as watcher:
        before = await warm(watcher, "slow")
        with asked(server, "slow", "leaves", path, stream=stream) as connection:
            await watcher.reaches("leaves", "generating")

            leave(connection, reset=reset)

        await watcher.is_forgotten("leaves")
        after = await watcher.worker_is_idle("slow")
        assert after["cancelled"] == before["cancelled"] + 1
        assert after["finished"] == before["finished"]
        assert after["tokens"] - before["tokens"] < MANY / 4
        assert watcher.outcome("leaves")[-1]["code"] == "client_closed"


@pytest.mark.parametrize(("stream", "reset", "path"), LEAVING)
async def test_leaving_a_load_nobody_else_waits_for(server: Server, stream: bool, reset: bool, path: str) -> None:
    async with watching(server) as watcher:
        with asked(server, "loads", "leaves", path, stream=stream) as connection:
            await watcher.reaches("leaves", "loading")

            leave(connection, reset=reset)

        await watcher.is_forgotten("leaves")

        async def is_absent() -> bool:
            return await resident(watcher.session, server, "loads") is None

        await until(is_absent, "the load is given up")
        assert not [one for one in server.workers() if '"load_s": 120' in " ".join(one.cmdline())]


async def test_leaving_a_load_others_wait_for(server: Server) -> None:
    async with watching(server) as watcher:
        with asked(server, "loads", "stays", "/v1/completions", stream=True) as staying:
            await watcher.reaches("stays", "loading")
            with asked(server, "loads", "leaves", "/v1/completions", stream=True) as connection:
                await watcher.reaches("leaves", "loading")
                loading = await resident(watcher.session, server, "loads")

                leave(connection, reset=False)

                async def is_gone() -> bool:
                    return "leaves" not in in_flight(await watcher.status())

                await until(is_gone, "it is forgotten")
            still = await resident(watcher.session, server, "loads")
            assert loading is not None
            assert still is not None
            assert (still["epoch"], still["state"]) == (loading["epoch"], "loading")
            leave(staying, reset=False)
        await watcher.is_forgotten("stays")


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@pytest.mark.parametrize("stream", [True, False] if PROVE else [False], ids=lambda stream: f"streamed-{stream}")
async def test_llamacpp_stops_computing_for_a_client_that_left(stream: bool) -> None:
    shape = Shape(layers=4, embedding=256, feed_forward=1024, vocabulary=2048)
    with short_folder() as folder:
        write_tiny_llama(folder / "tiny.gguf", context_length=8192, shape=shape)
        models = {
            "builtin": False,
            "folders": [str(folder)],
            "launch": {"slots": 1, "threads": 1, "context_length": 8192},
        }
        async with running({"models": models, "memory": {"gpus": False}}) as server, watching(server) as watcher:
            short = 200
            await ask(watcher.session, server, "tiny", max_tokens=1)
            found = await resident(watcher.session, server, "tiny")
            assert found is not None
            worker = psutil.Process(found["pid"])
            began = cpu_s(worker)
            whole = await ask(watcher.session, server, "tiny", max_tokens=short)
            assert whole.json["usage"]["completion_tokens"] == short
            cost_s = cpu_s(worker) - began

            # One that would cost ten times as much, left at its first token.
            began = cpu_s(worker)
            with asked(server, "tiny", "leaves", "/v1/chat/completions", stream=stream) as connection:
                await watcher.reaches("leaves", "generating")
                leave(connection, reset=False)
            await watcher.is_forgotten("leaves")

            # There is one slot: the next answer shows that it is free, and what was computed until then is little.
            after = await ask(watcher.session, server, "tiny", max_tokens=1)
            assert after.status == 200
            assert cpu_s(worker) - began < cost_s * MANY / short / 2

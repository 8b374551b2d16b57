"""How a server stops: it says that it is not ready, finishes what it has begun, and hands over without a refusal."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from tests.support.counts import count
from tests.support.node import (
    Answer,
    Server,
    ask,
    chat_body,
    client,
    echo,
    fetch,
    in_flight,
    ready,
    running,
    short_folder,
    start_server,
    stopped,
    tagged,
    until,
)

TOKENS = 20
ENDLESS = 100_000
RATE_PER_S = count(suite=60, prove=200)
FOLLOWERS = 3


class Line:
    """A connection of which we decide when it says what."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def say(self, text: str) -> None:
        self._writer.write(text.encode())
        await self._writer.drain()

    async def everything(self) -> str:
        """What comes until the server hangs up."""
        return (await asyncio.wait_for(self._reader.read(), 60)).decode()


@asynccontextmanager
async def line_to(server: Server) -> AsyncIterator[Line]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


def begun(so_far: list[Answer]) -> Callable[[Answer], None]:
    return lambda answer: so_far.append(answer) if answer not in so_far else None


async def followed(session: aiohttp.ClientSession, server: Server, seen: list[str]) -> None:
    """The names of events, until the server ends the stream."""
    async with session.get(f"{server.url}/admin/events") as response:
        async for line in response.content:
            if line.startswith(b"event: "):
                seen.append(line.split()[1].decode())


async def is_refused(server: Server) -> bool:
    try:
        _reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    except OSError:
        return True
    writer.close()
    return False


async def test_a_stopping_server_is_not_ready_and_finishes_what_it_has_begun() -> None:
    async with running(echo(a={"tokens_per_s": 10})) as server, client() as session, line_to(server) as early:
        so_far: list[Answer] = []
        seen: list[str] = []
        answer = asyncio.create_task(
            ask(
                session, server, "a", stream=True, max_tokens=TOKENS, headers={"X-Request-Id": "r"},
                on_frame=begun(so_far),
            )
        )  # fmt: skip
        follower = asyncio.create_task(followed(session, server, seen))
        await early.say("GET /readyz HTTP/1.1\r\nHost: localhost\r\n")
        await until(lambda: so_far and so_far[0].text, "the answer begins")

        server.signal(signal.SIGTERM)
        await until(lambda: "node.draining" in server.text(), "the signal is heard")
        await early.say("\r\n")

        # Who is connected is served once more, and is told to go elsewhere.
        reply = (await early.everything()).lower()
        assert reply.startswith("http/1.1 503")
        assert "connection: close" in reply
        await until(lambda: is_refused(server), "the listener is closed")
        whole = await answer
        assert (whole.done, whole.text, whole.error) == (True, tagged("r", TOKENS), None)
        await follower
        assert seen[-1] == "node.draining"
        assert await stopped(server) == 143


async def test_at_the_drain_limit_whatever_runs_or_waits_ends_with_an_error() -> None:
    script = {"tokens_per_s": 10, "slots": 2, "ignore_term": True}
    config = {**echo(a=script), "server": {"port": 0, "drain_s": 1}}
    async with running(config) as server, client() as session:
        so_far: list[Answer] = []
        followers = [asyncio.create_task(followed(session, server, [])) for _ in range(FOLLOWERS)]
        streams = [
            asyncio.create_task(ask(session, server, "a", stream=True, max_tokens=ENDLESS, on_frame=begun(so_far)))
        ]
        plain = [asyncio.create_task(ask(session, server, "a", max_tokens=ENDLESS))]
        await until(lambda: so_far, "the stream begins")
        waiting = [asyncio.create_task(ask(session, server, "a", max_tokens=1)) for _ in range(2)]

        async def all_are_there() -> bool:
            phases = Counter(in_flight(await fetch(session, server, "/admin/status")).values())
            return phases["queued"] == 2 and phases.total() == 4

        await until(all_are_there, "two run and two wait")
        workers = server.workers()

        assert await stopped(server) == 143

        for task in (*streams, *plain, *waiting):
            answer = await task
            assert answer.error is not None
            assert answer.error["code"] == "shutting_down"
            assert answer.status == (200 if answer.frames else 503)
            assert not answer.done
        await asyncio.gather(*followers)
        assert not any(worker.is_running() for worker in workers)
        outcomes = [each["code"] for each in server.log_events() if each.get("event") == "request.finished"]
        assert outcomes == ["shutting_down"] * 4


class Load:
    """Requests at a steady rate, each judged."""

    def __init__(self, url: str) -> None:
        self.failures: list[str] = []
        self.served = 0
        self._url = url
        self._is_over = asyncio.Event()

    def stop(self) -> None:
        self._is_over.set()

    async def run(self) -> None:
        connectors = [aiohttp.TCPConnector(limit=0, force_close=True), aiohttp.TCPConnector(limit=4)]
        sessions = [aiohttp.ClientSession(connector=each) for each in connectors]
        loop, number = asyncio.get_running_loop(), 0
        began = loop.time()
        requests = set()
        while not self._is_over.is_set():
            number += 1
            session = sessions[number % 2]
            requests.add(asyncio.create_task(self._judged(self._one(session, number))))
            pause_s = began + number / RATE_PER_S - loop.time()
            await asyncio.sleep(max(pause_s, 0))
        await asyncio.gather(*requests)
        for session in sessions:
            await session.close()

    async def _judged(self, request: Awaitable[str | None]) -> None:
        try:
            problem = await asyncio.wait_for(request, 60)
        except (aiohttp.ClientError, OSError, TimeoutError) as failure:
            problem = f"{type(failure).__name__}: {failure}"
        if problem:
            self.failures.append(problem)
        else:
            self.served += 1

    async def _one(self, session: aiohttp.ClientSession, number: int) -> str | None:
        if number % 4 == 0:
            async with session.get(f"{self._url}/v1/models") as response:
                await response.read()
                return None if response.status == 200 else str(response.status)
        body: dict[str, Any] = chat_body("a", stream=number % 4 == 1, max_tokens=4)
        async with session.post(f"{self._url}/v1/chat/completions", json=body) as response:
            raw = await response.read()
        if response.status != 200:
            return f"{response.status} {raw[:200]!r}"
        if body["stream"]:
            return None if raw.endswith(b"data: [DONE]\n\n") else f"cut: {raw[-200:]!r}"
        return None if json.loads(raw)["choices"][0]["finish_reason"] == "length" else "no finish"


async def test_a_rolling_replacement_refuses_and_fails_nobody() -> None:
    config = echo(a={"slots": 16, "tokens_per_s": 100})
    with short_folder() as folder, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        flags = ("--set", f"server.fd={listener.fileno()}")
        load = Load(f"http://127.0.0.1:{listener.getsockname()[1]}")
        old = new = None
        try:
            old = await ready(start_server(folder, config, *flags, pass_fds=(listener.fileno(),)))
            loading = asyncio.create_task(load.run())
            await until(lambda: load.served > RATE_PER_S, "requests are served")
            new = await ready(start_server(folder, config, *flags, pass_fds=(listener.fileno(),)))

            assert await stopped(old) == 143

            before = load.served
            await until(lambda: load.served > before + RATE_PER_S, "the new one serves")
            load.stop()
            await loading
        finally:
            for server in (old, new):
                if server is not None:
                    await stopped(server)
        assert load.failures == []
        served_by_new = [each for each in new.log_events() if each.get("event") == "request.finished"]
        assert len(served_by_new) > RATE_PER_S // 2


async def test_an_inherited_socket_that_strangers_reach_needs_a_key() -> None:
    with short_folder() as folder, socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        flags = ("--set", f"server.fd={listener.fileno()}")

        server = start_server(folder, echo(a={}), *flags, pass_fds=(listener.fileno(),))

        assert await asyncio.to_thread(server.process.wait, 60) == 3
        assert "server.fd" in server.text()
        assert "0.0.0.0" in server.text()

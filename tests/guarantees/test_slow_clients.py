"""Clients that send slowly, say nothing, or stop reading cost little memory and nobody else's answer."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from typing import Any

import psutil
import pytest

from tests.support.counts import count
from tests.support.node import Server, ask, client, counters, echo, fetch, in_flight, running, sockets_of, until

KIB, MIB = 1024, 1024**2
SLOW_COUNT = count(suite=500, prove=500)
STUCK_COUNT = count(suite=60, prove=200)
SLOW_GROWTH_BYTES_MAX = 32 * MIB
STUCK_GROWTH_BYTES_MAX = 64 * MIB
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
# The server with other times than a person's patience: nothing else differs.
HASTY = """
import sys
from modelyard.api.http_protocol import HttpProtocol
HttpProtocol.BLOCKED_S, HttpProtocol.HEAD_S, HttpProtocol.BODY_IDLE_S = {blocked_s}, {head_s}, {body_s}
from modelyard.cli.main import main
sys.exit(main())
"""


@asynccontextmanager
async def hasty(
    config: dict[str, Any], *, blocked_s: float = 60, head_s: float = 60, body_s: float = 60
) -> AsyncIterator[Server]:
    program = ("-c", HASTY.format(blocked_s=blocked_s, head_s=head_s, body_s=body_s))
    async with running(config, program=program) as server:
        yield server


@pytest.fixture(autouse=True)
def enough_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))


def rss_bytes(server: Server) -> int:
    return int(psutil.Process(server.process.pid).memory_info().rss)


def connect(server: Server, *, receive_bytes: int = 0) -> socket.socket:
    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1460)  # as on a real network
    connection.settimeout(30)
    connection.connect(("127.0.0.1", server.port))
    return connection


def question(**fields: Any) -> bytes:
    body = json.dumps({"model": "wordy", "messages": [{"role": "user", "content": "x"}], "stream": True, **fields})
    return HEAD + f"Content-Length: {len(body)}\r\n\r\n{body}".encode()


async def test_slow_and_silent_clients_cost_little_and_are_hung_up_on() -> None:
    beginnings = (
        b"", b"POST /v1/chat/completions HTTP/1.1\r\nHost: loc", HEAD + b"X: " + b"x" * 20 * KIB,
        HEAD + b"Content-Length: 9000000\r\n\r\n" + b'{"model": "' + b"x" * 20 * KIB,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
    )  # fmt: skip
    async with hasty(echo(wordy={"reply_tokens": 3}), head_s=4, body_s=4) as server, client() as session:
        await ask(session, server, "wordy")
        before = rss_bytes(server)
        with Sockets() as slow:
            for number in range(SLOW_COUNT):
                connection = slow.add(connect(server))
                connection.sendall(beginnings[number % len(beginnings)])

            answers = [await ask(session, server, "wordy") for _turn in range(10)]
            grown_bytes = rss_bytes(server) - before
            replies = [await asyncio.to_thread(read_to_end, connection) for connection in slow.all]
            final = await ask(session, server, "wordy")

    assert {answer.status for answer in [*answers, final]} == {200}
    assert grown_bytes < SLOW_GROWTH_BYTES_MAX
    for number, reply in enumerate(replies):
        is_silent = not beginnings[number % len(beginnings)]
        assert reply.startswith(b"HTTP/1.1 408 ") or (is_silent and reply == b""), reply[:100]


async def test_readers_that_stop_are_cut_with_the_reason_and_nobody_else_notices() -> None:
    config = echo(
        wordy={"slots": 256, "reply_tokens": 1_000_000, "context_length": 2_000_000}, other={"reply_tokens": 20}
    )
    async with hasty(config, blocked_s=2) as server, client() as session:
        await ask(session, server, "wordy", max_tokens=1)
        await ask(session, server, "other")
        before = rss_bytes(server)
        with Sockets() as stuck:
            for number in range(STUCK_COUNT):
                connection = stuck.add(connect(server, receive_bytes=16 * KIB))
                connection.sendall(question().replace(b"\r\n", f"\r\nX-Request-Id: stuck-{number}\r\n".encode(), 1))
            peak_bytes = 0

            def all_given_up() -> bool:
                nonlocal peak_bytes
                peak_bytes = max(peak_bytes, rss_bytes(server) - before)
                return len(given_up(server)) == STUCK_COUNT

            others = asyncio.create_task(ask_often(session, server))
            await until(all_given_up, "every stuck reader is given up")
            answers = await others
            left = await connections_left(server, stuck)

        # The other worker may have one too: an answer is complete for us a moment before it is for whoever gives it.
        cancelled = {path: (await counters(path))["cancelled"] for path in sockets_of(server)}
        worker = max(cancelled, key=lambda path: cancelled[path])
        assert cancelled[worker] == STUCK_COUNT
        await until(lambda: idle(worker), "the worker has stopped all of it")

    assert peak_bytes < STUCK_GROWTH_BYTES_MAX
    assert [answer.finish for answer in answers] == ["stop"] * len(answers)
    assert left == 0  # aborted: nothing waits in a buffer for somebody who reads no more


async def ask_often(session: Any, server: Server) -> list[Any]:
    return [await ask(session, server, "other", stream=True) for _turn in range(20)]


async def idle(worker: Any) -> bool:
    return (await counters(worker))["running"] == 0


def given_up(server: Server) -> set[str]:
    return {
        event["request_id"]
        for event in server.log_events()
        if event["event"] == "request.finished" and event.get("reason") == "The client stopped reading."
    }


async def connections_left(server: Server, stuck: Sockets) -> int:
    """Server-side connections of these clients that still hold anything."""
    ports = {connection.getsockname()[1] for connection in stuck.all}
    found = [c for c in psutil.Process(server.process.pid).net_connections("tcp") if c.raddr and c.raddr.port in ports]
    return len(found)


async def test_a_slow_reader_is_not_taken_for_one_that_stopped() -> None:
    """As slow as one token per second, against the limit as it is, for three times that limit."""
    blocked_s = 2.0
    async with hasty(echo(wordy={"reply_tokens": 3000, "context_length": 10_000}), blocked_s=blocked_s) as server:
        async with client() as session:
            with closing(connect(server, receive_bytes=4 * KIB)) as connection:
                connection.sendall(question())
                raw = await asyncio.to_thread(read_slowly, connection, 3 * blocked_s)
                phases = in_flight(await fetch(session, server, "/admin/status"))

        assert given_up(server) == set()
    assert list(phases.values()) == ["generating"]  # far behind the model, and waited for
    assert raw.count(b"data: {") > 10


def read_slowly(connection: socket.socket, slow_s: float) -> bytes:
    """Small pieces with pauses: 6 KB in the time after which a reader counts as stuck."""
    pieces, until_s = [], time.monotonic() + slow_s
    while time.monotonic() < until_s and (data := connection.recv(300)):
        pieces.append(data)
        time.sleep(0.1)
    return b"".join(pieces)


async def test_a_client_that_pipelines_and_leaves_is_noticed_by_the_request_that_runs() -> None:
    config = echo(wordy={"slots": 2, "reply_tokens": 100_000, "context_length": 200_000, "tokens_per_s": 200})
    async with running(config) as server, client() as session:
        await ask(session, server, "wordy", max_tokens=1)
        connection = connect(server)
        connection.sendall(question() + question())
        await asyncio.to_thread(connection.recv, 1000)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # leave by RST
        connection.close()

        (worker,) = sockets_of(server)
        await until(lambda: idle(worker), "the abandoned answer is stopped")
        counted = await counters(worker)
        await until(lambda: len(outcomes(server)) == 2, "both have ended")
        assert outcomes(server) == ["ok", "client_closed"]
        assert "Traceback" not in server.text()

    assert counted["started"] == 2  # the one that warmed it up, and the first of the two


def outcomes(server: Server) -> list[str]:
    return [str(event["code"]) for event in server.log_events() if event["event"] == "request.finished"]


def read_to_end(connection: socket.socket) -> bytes:
    raw = b""
    try:
        while data := connection.recv(65536):
            raw += data
    except ConnectionResetError:
        pass
    return raw


class Sockets:
    """Many connections, closed together."""

    def __init__(self) -> None:
        self.all: list[socket.socket] = []

    def add(self, connection: socket.socket) -> socket.socket:
        self.all.append(connection)
        return connection

    def __enter__(self) -> Sockets:
        return self

    def __exit__(self, *_exc: object) -> None:
        for connection in self.all:
            connection.close()

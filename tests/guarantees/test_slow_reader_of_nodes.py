"""Clients that stop reading the answer of another node: little memory, an end in time, and nobody else is hurt."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack, closing

from modelyard.testing import FakeOllama, Recorded, Script
from tests.guarantees.test_slow_clients import HEAD, MIB, STUCK_GROWTH_BYTES_MAX, connect, hasty, rss_bytes
from tests.support.counts import count, tell
from tests.support.fleet import Fleet, until
from tests.support.node import Server, client

STUCK_COUNT = count(40, 200)
GAP_RATIO_MAX = 1.5
STEADY = Script(tagged=True, tag_count=12, between_s=0.05)
LARGE = Script(tokens=("x" * 50_000,) * 100)  # five million characters, as fast as they go


async def gaps(yard: Fleet) -> list[float]:
    """The times between two pieces of eight answers at once, each with a token every 50 ms."""
    found: list[float] = []
    clock = asyncio.get_running_loop().time

    async def one() -> None:
        body = {"model": "n", "stream": True, "messages": [{"role": "user", "content": "x"}]}
        async with yard.http.post(f"{yard.server.url}/v1/chat/completions", json=body) as answer:
            before = 0.0
            async for line in answer.content:
                if b'"content":"' in line:
                    now = clock()
                    found.extend([now - before] if before else [])
                    before = now

    await asyncio.gather(*(one() for _ in range(8)))
    return found


def p99(values: list[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]


def outcomes(server: Server) -> list[str]:
    return [one["code"] for one in server.log_events() if one.get("event") == "request.finished"]


def about(node: FakeOllama, model: str) -> list[Recorded]:
    return [one for one in node.questions if node.is_about(one, model)]


async def test_who_stops_reading_costs_little_and_is_let_go_of() -> None:
    async with FakeOllama(["m", "n"]) as node:
        config = {
            "models": {"builtin": False}, "memory": {"gpus": False},
            "nodes": [{"name": "far", "url": node.url}],
        }  # fmt: skip
        async with hasty(config, blocked_s=2) as server, client() as http:
            yard = Fleet(server, {}, http)
            await yard.ask("n")
            before = rss_bytes(server)
            node.play(STEADY)
            undisturbed = await gaps(yard)
            node.play(LARGE, times=STUCK_COUNT, model="m")
            body = json.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]})
            question = HEAD + f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            with ExitStack() as stack:
                for _ in range(STUCK_COUNT):
                    stuck = stack.enter_context(closing(connect(server, receive_bytes=4096)))
                    stuck.sendall(question)
                await until(lambda: len(about(node, "m")) == STUCK_COUNT, "all are asked")
                asked = about(node, "m")
                disturbed = await gaps(yard)
                others = await asyncio.gather(*(yard.ask("n") for _ in range(20)))
                grown = rss_bytes(server) - before
                await until(
                    lambda: all(one.left.is_set() or one.is_whole for one in asked), "the node is let go of", 60
                )
                await until(lambda: len(outcomes(server)) >= STUCK_COUNT + 37, "all have ended")
                status, ended = await yard.node("far"), outcomes(server)

            undisturbed += await gaps(yard)

    tell(f"gaps of others, p99: {p99(undisturbed):.4f} s, {p99(disturbed):.4f} s beside readers that are stuck")
    assert p99(disturbed) <= GAP_RATIO_MAX * p99(undisturbed)
    assert all(one.is_whole for one in others)
    assert grown <= STUCK_GROWTH_BYTES_MAX, f"{grown / MIB:.0f} MiB"
    assert ended.count("client_closed") == STUCK_COUNT
    assert (status["health"], status["cooling"]) == ("healthy", {})


async def test_a_reader_that_is_merely_slow_is_not_cut() -> None:
    async with FakeOllama(["m"]) as node:
        config = {"models": {"builtin": False}, "memory": {"gpus": False}, "nodes": [{"name": "far", "url": node.url}]}
        async with hasty(config, blocked_s=1) as server, client() as http:
            node.play(Script(tagged=True, tag_count=20))
            body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "x"}]}
            read = b""
            async with http.post(f"{server.url}/v1/chat/completions", json=body) as answer:
                while piece := await answer.content.read(300):
                    read += piece
                    await asyncio.sleep(0.15)

    assert read.endswith(b"data: [DONE]\n\n")
    assert read.count(b'"content":"') >= 20

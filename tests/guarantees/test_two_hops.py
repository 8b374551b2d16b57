"""Servers of ours behind each other: a client that leaves, deadlines, retries, loops and errors reach through both."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from modelyard.testing import FAULTS, FakeOllama, FakeOpenAI, Script
from modelyard.testing.server import FakeServer, Recorded
from tests.support.counts import count
from tests.support.fleet import MESSAGES, Fleet, fleet, until
from tests.support.node import free_port, ready, short_folder, start_server, stopped

FOR_EVER = Script(tagged=True, tag_count=2000, between_s=0.02)


@dataclass(frozen=True, slots=True)
class Hops:
    """`front` before `back` before the fakes."""

    front: Fleet
    back: Fleet

    @property
    def nodes(self) -> dict[str, FakeServer]:
        return dict(self.back.nodes)

    def questions(self) -> list[Recorded]:
        return [one for node in self.nodes.values() for one in node.questions]

    async def idle(self) -> None:
        """Until neither server has a request in flight."""
        async with asyncio.timeout(20):
            for yard in (self.front, self.back):
                while (await yard.get("/admin/status"))["requests"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)


@asynccontextmanager
async def hops(
    nodes: dict[str, FakeServer], config: dict[str, Any] | None = None, **per_node: Any
) -> AsyncIterator[Hops]:
    async with fleet(nodes, config, **per_node) as back:
        listed = [{"name": "back", "kind": "openai", "url": back.server.url, "look_s": 1, **per_node}]
        async with fleet({}, {**(config or {}), "nodes": listed}) as front:
            yield Hops(front, back)


def bodies(path: str, *, stream: bool) -> bytes:
    return json.dumps({"model": "m", "stream": stream, "messages": MESSAGES, "prompt": "go"}).encode()


async def leave(yard: Hops, path: str, *, stream: bool, reset: bool, script: Script) -> Recorded:
    """Ask over a raw socket, and hang up once the node is asked (and speaks, if it does)."""
    for node in yard.nodes.values():
        node.play(script)
    before = len(yard.questions())
    _reader, writer = await asyncio.open_connection("127.0.0.1", yard.front.server.port)
    body = bodies(path, stream=stream)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await until(lambda: len(yard.questions()) > before, "the node is asked")
    asked = yard.questions()[-1]
    if script is FOR_EVER:
        await until(lambda: asked.tokens_sent > 2, "it speaks")
    if reset:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort() if reset else writer.close()
    async with asyncio.timeout(10):
        await asked.left.wait()
    return asked


@pytest.mark.parametrize("kind", [FakeOllama, FakeOpenAI])
async def test_a_client_that_leaves_stops_the_work_at_the_far_end(kind: type[FakeOllama] | type[FakeOpenAI]) -> None:
    async with hops({"far": kind(["m"])}) as yard:
        for path in ("/v1/chat/completions", "/api/chat"):
            for stream in (True, False):
                for script in (FOR_EVER, FAULTS["slow-header"], FAULTS["slow-first-token"]):
                    asked = await leave(yard, path, stream=stream, reset=stream, script=script)
                    assert not asked.is_whole
                    assert asked.tokens_sent < FOR_EVER.tag_count
        await yard.idle()
        yard.nodes["far"].play(Script())
        answer = await yard.front.ask()
        status = await yard.back.node("far")

    assert answer.is_whole
    assert (status["health"], status["cooling"], status["in_flight"]) == ("healthy", {}, 0)


async def test_who_stays_is_not_hurt_by_those_who_leave() -> None:
    async with hops({"far": FakeOpenAI(["m"])}) as yard:
        yard.nodes["far"].play(Script(tagged=True, tag_count=60, between_s=0.01))
        chance, total = random.Random(7), count(60, 2000)

        async def one(at: int) -> bool:
            asking = asyncio.create_task(yard.front.ask())
            if at % 2:
                await asyncio.sleep(chance.uniform(0, 0.7))
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                return True
            answer = await asking
            numbers = [token.split(".") for token in answer.text.split()]
            return (
                answer.is_whole
                and [int(n) for _who, n in numbers] == [*range(60)]
                and len({w for w, _n in numbers}) == 1
            )

        found = []
        for at in range(0, total, 20):
            found += await asyncio.gather(*(one(at + more) for more in range(20)))
        await yard.idle()

    assert all(found)


async def test_failing_nodes_are_not_asked_more_often_for_a_server_in_between() -> None:
    total = count(200, 2000)
    async with hops({"one": FakeOllama(["m"]), "two": FakeOllama(["m"])}) as yard:
        for node in yard.nodes.values():
            node.play(FAULTS["500"])
        for _ in range(total // 20):
            answers = await asyncio.gather(*(yard.front.ask() for _ in range(20)))
            assert not any(one.is_whole for one in answers)
        attempts = len(yard.questions())

    assert attempts <= 1.3 * total + 2 * (3 + 6)


async def test_deadlines_shrink_from_hop_to_hop_and_nothing_is_sent_after_them() -> None:
    async with hops({"far": FakeOpenAI(["m"])}) as yard:
        yard.nodes["far"].play(Script(tagged=True, tag_count=50, between_s=0.02))
        chance = random.Random(11)
        given = [chance.choice((0, 1, 5, 30, 200, 600, 3000)) for _ in range(count(60, 1000))]

        async def one(ms: int) -> str:
            answer = await yard.front.ask(headers={"X-Modelyard-Deadline-Ms": str(ms), "X-Request-Id": f"d-{ms}"})
            return answer.code or ("whole" if answer.is_whole else "cut")

        outcomes = []
        for at in range(0, len(given), 20):
            outcomes += await asyncio.gather(*(one(ms) for ms in given[at : at + 20]))
        seen = [
            (int(one.headers["x-request-id"].partition("-")[2]), int(one.headers["x-modelyard-deadline-ms"]))
            for one in yard.questions()
        ]
        hop_counts = {one.headers["x-modelyard-hops"] for one in yard.questions()}

    assert all(0 < left < first for first, left in seen)
    assert hop_counts == {"2"}
    for ms, outcome in zip(given, outcomes, strict=True):
        assert outcome == ("whole" if ms == 3000 else "deadline_exceeded") or (ms >= 200 and outcome == "whole"), ms


async def test_servers_that_are_nodes_of_each_other_hand_nothing_round() -> None:
    ports = [free_port(), free_port()]
    with short_folder() as first, short_folder() as second:
        servers = []
        try:
            for at, folder in enumerate((first, second)):
                url = f"http://127.0.0.1:{ports[1 - at]}"
                nodes = [{"name": "other", "kind": "openai", "url": url, "look_s": 0.2}]
                models: dict[str, Any] = {"builtin": False, "echo": {} if at else {"mine": {}}}
                config = {"models": models, "memory": {"gpus": False}, "nodes": nodes}
                servers.append(start_server(folder, config, port=ports[at]))
            for server in servers:
                await ready(server)
            async with aiohttp.ClientSession() as http:
                one, two = (Fleet(server, {}, http) for server in servers)
                async with asyncio.timeout(30):
                    while not (await two.ask("mine")).is_whole:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                entry = await one.get("/v1/models/mine")
                looped = await one.ask("mine", headers={"X-Modelyard-Hops": "4"})
        finally:
            for server in servers:
                await stopped(server)

    assert [place["node"] for place in entry["modelyard"]["nodes"]] == ["local"]
    assert (looped.status, looped.code) == (508, "loop_detected")


async def test_errors_keep_their_meaning_over_two_hops() -> None:
    async with hops({"far": FakeOpenAI(["m"])}, {"routing": {"retry_floor": 0}}) as yard:
        missing = await yard.front.ask("nobody")
        yard.nodes["far"].play(FAULTS["429"], times=1)
        limited = await yard.front.ask()
        yard.nodes["far"].play(Script(status=400, error="no such option"), times=1)

        assert (missing.status, missing.code) == (404, "model_not_found")
        assert (limited.status, limited.code) == (429, "upstream_rate_limited")
        assert 1 <= int(limited.headers["Retry-After"]) <= 2


async def test_a_reply_tells_who_answered_and_its_id_is_the_same_everywhere() -> None:
    async with hops({"far": FakeOllama(["m"])}) as yard:
        answer = await yard.front.ask(headers={"X-Request-Id": "same-everywhere"})
        seen = yard.questions()[0].headers["x-request-id"]

        def finished() -> list[str]:
            logs = [*yard.front.server.log_events(), *yard.back.server.log_events()]
            return [one["request_id"] for one in logs if one.get("event") == "request.finished"]

        await until(lambda: len(finished()) == 2, "both have logged it")
        ids = set(finished())

    assert answer.headers["x-modelyard-node"] == "back"
    assert answer.headers["x-modelyard-attempts"] == "1"
    assert answer.headers["x-modelyard-route"]
    assert float(answer.headers["x-modelyard-overhead-ms"]) >= 0
    assert seen == "same-everywhere"
    assert ids == {"same-everywhere"}

"""Two servers of ours before a worker that counts its tokens: who leaves, or has no time left, stops it there, soon."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.counts import PROVE, count, tell
from tests.support.fleet import MESSAGES, Fleet, fleet
from tests.support.node import client, counters, echo, in_flight, running, sockets_of, until

PER_S = 20.0  # tokens
HOPS = 2
LATE_TOKENS_MAX = HOPS * max(2, round(0.1 * PER_S))  # for each hop two tokens, or a tenth of a second
SLOTS = 2
WAYS = [
    (path, stream, reset) for path in ("/v1/chat/completions", "/api/chat") for stream in (True, False)
    for reset in (True, False) if PROVE or (stream ^ reset) == (path == "/api/chat")
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hops:
    """`front` before `back`, whose worker counts."""

    front: Fleet
    back: Fleet

    async def counts(self) -> dict[str, int]:
        (worker,) = sockets_of(self.back.server)
        return await counters(worker)

    async def phases(self, yard: Fleet) -> dict[str, str]:
        return in_flight(await yard.get("/admin/status"))

    async def becomes(self, id: str, *phases: str) -> None:
        async def is_there() -> bool:
            return (await self.phases(self.back)).get(id) in phases

        await until(is_there, f"{id} is {phases}")

    async def idle(self) -> dict[str, int]:
        async def is_idle() -> bool:
            waits = [await self.phases(yard) for yard in (self.front, self.back)]
            return not any(waits) and not (await self.counts())["running"]

        await until(is_idle, "nobody works any more")
        return await self.counts()


@asynccontextmanager
async def hops(slots: int = SLOTS) -> AsyncIterator[Hops]:
    config = echo(m={"slots": slots, "tokens_per_s": PER_S, "context_length": 100_000})
    async with running(config) as server, client() as http:
        listed = [{"name": "back", "kind": "openai", "url": server.url, "look_s": 1}]
        async with fleet({}, {"nodes": listed}) as front:
            back = Fleet(server, {}, http)
            await front.ask(max_tokens=1)  # it is in memory from here on
            yield Hops(front, back)


def asked(yard: Hops, id: str, path: str, *, stream: bool) -> socket.socket:
    """A long answer, asked for on a connection of its own."""
    body = {"model": "m", "stream": stream, "messages": MESSAGES, "max_tokens": 5000, "options": {"num_predict": 5000}}
    raw = json.dumps({key: value for key, value in body.items() if key != "options" or "/api/" in path}).encode()
    connection = socket.create_connection(("127.0.0.1", yard.front.server.port))
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Request-Id: {id}\r\n"
    connection.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
    return connection


def leave(connection: socket.socket, *, reset: bool) -> None:
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


async def test_who_leaves_in_the_middle_of_an_answer_costs_few_tokens_more() -> None:
    late = []
    async with hops() as yard:
        for at, (path, stream, reset) in enumerate(WAYS):
            caller = asked(yard, f"leaves-{at}", path, stream=stream)
            before = (await yard.counts())["tokens"]

            async def speaks(before: int = before) -> bool:
                return (await yard.counts())["tokens"] > before + 2

            await until(speaks, "it is being answered")
            made = (await yard.counts())["tokens"]
            leave(caller, reset=reset)
            late.append((await yard.idle())["tokens"] - made)

    tell(f"tokens made after a client had left, over two hops: {late}; bound {LATE_TOKENS_MAX}")
    assert max(late) <= LATE_TOKENS_MAX


async def test_who_leaves_the_queue_is_never_begun() -> None:
    async with hops() as yard:
        started = (await yard.counts())["started"]
        in_front = [asked(yard, f"front-{at}", "/v1/chat/completions", stream=True) for at in range(SLOTS)]
        for at in range(SLOTS):
            await yard.becomes(f"front-{at}", "generating")
        for at, (path, stream, reset) in enumerate(WAYS):
            caller = asked(yard, f"leaves-{at}", path, stream=stream)
            await yard.becomes(f"leaves-{at}", "queued")
            leave(caller, reset=reset)

            async def is_gone(at: int = at) -> bool:
                known = [await yard.phases(one) for one in (yard.front, yard.back)]
                return not any(f"leaves-{at}" in one for one in known)

            await until(is_gone, "both have forgotten it")
        status = await yard.back.get("/admin/status")
        for caller in in_front:
            leave(caller, reset=False)
        after = await yard.idle()

    assert status["queue"] == 0
    assert after["started"] == started + SLOTS


async def test_an_answer_that_has_no_time_left_ends_then_and_so_does_its_work() -> None:
    chance = random.Random(47)
    given_ms, slots = [chance.randrange(100, 1500) for _ in range(count(24, 1000))], 8
    async with hops(slots) as yard:
        before = await yard.idle()

        async def one(ms: int) -> str:
            answer = await yard.front.ask(max_tokens=5000, headers={"X-Modelyard-Deadline-Ms": str(ms)})
            return answer.code

        codes = []
        for at in range(0, len(given_ms), slots):  # a slot for each: nobody waits in a queue
            codes += await asyncio.gather(*(one(ms) for ms in given_ms[at : at + slots]))
        made = (await yard.idle())["tokens"] - before["tokens"]

    allowed = sum(ms / 1000 * PER_S + 0.1 * PER_S * HOPS for ms in given_ms)
    tell(f"{made} tokens for {len(given_ms)} requests with deadlines; {allowed:.0f} in their time and 100 ms a hop")
    assert set(codes) == {"deadline_exceeded"}
    assert made <= allowed


async def test_cancels_at_random_moments_from_both_sides_lose_no_slot() -> None:
    """A client that leaves, an operator who cancels, or both at once, under contention for two slots."""
    chance, total = random.Random(28), count(80, 10_000)
    async with hops() as yard:

        async def one(at: int) -> None:
            length, headers = chance.choice((1, 3)), {"X-Request-Id": f"r{at}"}
            asking = asyncio.create_task(yard.front.ask(max_tokens=length, headers=headers))
            await asyncio.sleep(chance.choice((0, 0.001, 0.01, 0.05, 0.2)))
            ends: list[Any] = []
            if chance.random() < 0.6:
                asking.cancel()
            for each in (yard.front, yard.back):
                if chance.random() < 0.4:
                    ends.append(cancelled(each, f"r{at}"))
            await asyncio.gather(asking, *ends, return_exceptions=True)

        for at in range(0, total, 20):
            await asyncio.gather(*(one(at + more) for more in range(20)))
        await yard.idle()
        status = await yard.front.node("back")
        told = [one["code"] for one in yard.front.server.log_events() if one["event"] == "request.finished"]
        clients = [asked(yard, f"last-{at}", "/v1/chat/completions", stream=True) for at in range(SLOTS)]
        for at in range(SLOTS):
            await yard.becomes(f"last-{at}", "generating")  # every slot is there
        for caller in clients:
            leave(caller, reset=False)
        await yard.idle()
        last = await yard.front.ask(max_tokens=2)
        residents = (await yard.back.get("/admin/status"))["residents"]

    assert (status["health"], status["in_flight"], status["cooling"]) == ("healthy", 0, {})
    assert set(told) <= {"ok", "client_closed", "request_cancelled"}  # nobody is blamed for what somebody wanted
    assert last.is_whole
    assert [(one["leases"], one["waiting"]) for one in residents] == [(0, 0)]


async def cancelled(yard: Fleet, id: str) -> None:
    async with yard.http.delete(f"{yard.server.url}/admin/requests/{id}") as answer:
        assert answer.status in (200, 404)

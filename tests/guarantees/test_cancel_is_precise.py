"""Ending one request, by hanging up or by an operator, never ends another."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import aiohttp
import pytest

from tests.support.counts import PROVE, count, tell
from tests.support.node import (
    Answer,
    Server,
    ask,
    client,
    counters,
    echo,
    fetch,
    serving,
    sockets_of,
    tagged,
    until,
)

CANCELS = count(suite=100, prove=10_000)
AT_ONCE = 48
SLOTS = 16  # so that two of three wait
TOKENS = 12
TOKENS_PER_S = 200


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(echo(busy={"slots": SLOTS, "tokens_per_s": TOKENS_PER_S})) as node:
        yield node


class Crowd:
    """Many clients of one model; every second of them is cancelled at a random moment."""

    def __init__(self, session: aiohttp.ClientSession, server: Server, seed: int) -> None:
        self.session, self.server, self.random = session, server, random.Random(seed)
        self.outcomes: Counter[str] = Counter()

    async def one(self, number: int) -> None:
        id, way = f"c{number}", self.random.choice(("stays", "stays", "hangs-up", "is-cancelled"))
        stream = self.random.random() < 0.7
        after_s = self.random.expovariate(1 / 0.1)
        asked = asyncio.create_task(
            ask(self.session, self.server, "busy", stream=stream, max_tokens=TOKENS, headers={"X-Request-Id": id})
        )
        if way != "stays":
            await asyncio.wait((asked,), timeout=after_s)
        if way == "hangs-up" and not asked.done():
            asked.cancel()
            with suppress(asyncio.CancelledError):
                await asked
            self.outcomes[way] += 1
            return
        was_there = way == "is-cancelled" and await self.cancel(id)
        self.judge(await asked, id, stream=stream, was_cancelled=was_there)

    async def cancel(self, id: str) -> bool:
        async with self.session.delete(f"{self.server.url}/admin/requests/{id}") as response:
            assert response.status in (200, 202, 204, 404), await response.text()
            return response.status != 404

    def judge(self, answer: Answer, id: str, *, stream: bool, was_cancelled: bool) -> None:
        whole = tagged(id, TOKENS)
        if was_cancelled and answer.error is not None:
            assert answer.error["code"] == "request_cancelled"
            assert (answer.finish, answer.done) == (None, False)
            assert whole.startswith(answer.text)
            self.outcomes["cancelled"] += 1
            return
        assert answer.error is None, f"{id} was ended with somebody else: {answer.error}"
        text = answer.text if stream else answer.json["choices"][0]["message"]["content"]
        assert text == whole
        assert answer.done == stream
        self.outcomes["too late" if was_cancelled else "whole"] += 1


async def test_a_cancelled_request_takes_nobody_with_it(server: Server) -> None:
    seed = random.SystemRandom().randrange(10**6) if PROVE else 1
    async with client() as session:
        await ask(session, server, "busy", max_tokens=1)
        crowd, turns, number = Crowd(session, server, seed), asyncio.Semaphore(AT_ONCE), 0

        async def one(number: int) -> None:
            async with turns:
                await crowd.one(number)

        while crowd.outcomes["cancelled"] + crowd.outcomes["hangs-up"] < CANCELS:
            await asyncio.gather(*(one(number + n) for n in range(200)))
            number += 200

        async def is_over() -> bool:
            status = await fetch(session, server, "/admin/status")
            return (status["requests"], status["queue"], status["residents"][0]["leases"]) == ([], 0, 0)

        await until(is_over, "nothing is left")
        tell(f"seed {seed}, {number} requests: {dict(crowd.outcomes)}")

        (path,) = sockets_of(server)
        await until(lambda: _is_idle(path), "the worker is idle")
        counted = await counters(path)
        assert counted["started"] == counted["finished"] + counted["cancelled"]
        assert counted["failed"] == 0
        assert counted["waiting"] == 0
        assert (await ask(session, server, "busy", max_tokens=1)).status == 200


async def _is_idle(path: object) -> bool:
    return (await counters(path))["running"] == 0  # type: ignore[arg-type]

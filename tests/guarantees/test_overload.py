"""Ten times more requests than can be served, and one caller a hundred times as fast as another.

What can be served is served at the same pace, the rest is refused without waiting, nobody admitted waits past the
queue's limit, and a modest caller hardly notices a greedy one. Speeds are compared within one run only.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil

from tests.support.counts import count, tell
from tests.support.node import Answer, Server, ask, client, echo, fetch, running, until

MIB = 1024**2
OVERLOAD_S = count(suite=5, prove=60)
ALONE_S = count(suite=3, prove=20)
SLOTS, TOKENS, TOKENS_PER_S = 4, 20, 100  # 20 answers a second at most
CAPACITY_PER_S = SLOTS * TOKENS_PER_S / TOKENS
QUEUE_MAX, QUEUE_S = 20, 5
GOODPUT_RATIO_MIN = 0.9
WAIT_RATIO_MAX = 2.0
GROWTH_BYTES_MAX = 64 * MIB
KEYS = {name: f"the-key-of-{name}-0001" for name in ("greedy", "modest")}


@dataclass
class Tally:
    """What came of many requests."""

    answers: list[Answer] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)

    @property
    def served(self) -> list[Answer]:
        return [one for one in self.answers if one.status == 200]

    @property
    def refused(self) -> list[tuple[Answer, float]]:
        pairs = zip(self.answers, self.took_s, strict=True)
        return [(one, took_s) for one, took_s in pairs if one.status != 200]

    async def ask(self, session: aiohttp.ClientSession, server: Server, **options: Any) -> None:
        began = time.monotonic()
        answer = await ask(session, server, "echo", **options)
        self.answers.append(answer)
        self.took_s.append(time.monotonic() - began)


@asynccontextmanager
async def node(slots: int = SLOTS, **settings: Any) -> AsyncIterator[tuple[Server, aiohttp.ClientSession]]:
    script = {"slots": slots, "reply_tokens": TOKENS, "tokens_per_s": TOKENS_PER_S}
    config = {**echo(echo=script), "residency": {"queue_max": QUEUE_MAX, "queue_s": QUEUE_S}, **settings}
    async with running(config) as server, client() as session:
        yield server, session


async def in_turn(session: aiohttp.ClientSession, server: Server, tally: Tally, end: float, **options: Any) -> None:
    """One after the other, until the time is up."""
    while time.monotonic() < end:
        await tally.ask(session, server, **options)


async def at_a_rate(
    session: aiohttp.ClientSession, server: Server, tally: Tally, per_s: float, duration_s: float, **options: Any
) -> None:
    """So many a second, however many still wait for their answers. An option may be a function of the number."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        for number in range(int(per_s * duration_s)):
            await asyncio.sleep(max(0.0, began + number / per_s - time.monotonic()))
            given = {name: value(number) if callable(value) else value for name, value in options.items()}
            tasks.create_task(tally.ask(session, server, **given))


async def test_ten_times_too_many_cost_the_others_nothing() -> None:
    async with node() as (server, session):
        alone, flooded = Tally(), Tally()
        await ask(session, server, "echo")
        end = time.monotonic() + ALONE_S
        await asyncio.gather(*(in_turn(session, server, alone, end) for _ in range(2 * SLOTS)))
        before = psutil.Process(server.process.pid).memory_info().rss

        began = time.monotonic()
        await at_a_rate(session, server, flooded, 10 * CAPACITY_PER_S, OVERLOAD_S)
        took_s = time.monotonic() - began

        grown = psutil.Process(server.process.pid).memory_info().rss - before
        status = await fetch(session, server, "/admin/status")
        after = await ask(session, server, "echo")

    saturated = len(alone.served) / (ALONE_S + TOKENS / TOKENS_PER_S)
    goodput = len(flooded.served) / took_s
    refused = flooded.refused
    median_s = sorted(took_s for _answer, took_s in refused)[len(refused) // 2]
    tell(
        f"goodput {goodput:.1f}/s of {saturated:.1f}/s, {len(refused)} refused, median {median_s * 1000:.0f} ms,"
        f" memory +{grown / MIB:.1f} MiB"
    )
    assert goodput >= GOODPUT_RATIO_MIN * saturated
    assert len(refused) > len(flooded.served)
    assert {answer.error["code"] for answer, _took_s in refused if answer.error} == {"queue_full"}
    assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer, _took_s in refused)
    assert median_s < TOKENS / TOKENS_PER_S, "a refusal waits for nobody's answer"
    assert max(flooded.took_s) < QUEUE_S + 10 * TOKENS / TOKENS_PER_S
    assert grown <= GROWTH_BYTES_MAX
    assert status["queue"] == 0
    assert after.status == 200


async def test_a_modest_caller_hardly_notices_a_greedy_one() -> None:
    keys = [{"id": name, "secret": f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"} for name, key in KEYS.items()]
    headers = {name: {"Authorization": f"Bearer {key}"} for name, key in KEYS.items()}
    async with node(slots=4 * SLOTS, keys=keys) as (server, session):
        alone, beside, flood = Tally(), Tally(), Tally()
        await ask(session, server, "echo", headers=headers["modest"])
        await in_turn(session, server, alone, time.monotonic() + ALONE_S, headers=headers["modest"])

        lengths = {"max_tokens": lambda number: 1 + number * 7 % (2 * TOKENS)}  # equal ones would end all at once
        options = {**lengths, "headers": headers["greedy"]}
        flooding = asyncio.create_task(
            at_a_rate(session, server, flood, 10 * CAPACITY_PER_S, OVERLOAD_S + ALONE_S, **options)
        )
        await until(lambda: any(one.status != 200 for one in flood.answers), "the greedy one fills the queue")
        await in_turn(session, server, beside, time.monotonic() + OVERLOAD_S, headers=headers["modest"])
        await flooding

    first, second = (sorted(tally.took_s)[int(len(tally.took_s) * 0.95)] for tally in (alone, beside))
    tell(f"the modest caller's p95: {first * 1000:.0f} ms alone, {second * 1000:.0f} ms beside {len(flood.answers)}")
    assert all(answer.status == 200 for answer in beside.answers)
    assert len(flood.answers) > 10 * len(beside.answers)
    assert second <= WAIT_RATIO_MAX * first

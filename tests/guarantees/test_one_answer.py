"""Whatever goes wrong, a client receives the bytes of one attempt and one outcome.

Every token names its request and its number, so a gap, a repetition or somebody else's token cannot hide.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from collections import Counter
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.support.counts import PROVE, count, tell
from tests.support.node import Answer, Server, ask, client, echo, fetch, serving, tagged, until

REQUESTS = count(suite=250, prove=20_000)
AT_ONCE = 48
STEADY = 4
CRASHING = count(suite=4, prove=200)  # each crashes a few times, then is refused as a crash loop
CUT = 3
TOKENS_MAX = 24
LEAVING_SHARE = 0.1
KILLS_PER_MODEL = 3


def models() -> dict[str, Any]:
    fast: dict[str, Any] = {"slots": 16, "tokens_per_s": 400}
    found: dict[str, Any] = {f"steady_{n}": fast for n in range(STEADY)}
    found |= {f"crashes_{n}": {**fast, "crash_after_tokens": n % TOKENS_MAX} for n in range(CRASHING)}
    found |= {f"cut_{n}": {**fast, "cut_after_bytes": 0, "cut_step_bytes": 97 + n} for n in range(CUT)}
    found |= {"garbage": {**fast, "garbage_after_tokens": 5}, "stalls": {**fast, "stall_after_tokens": 7}}
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    patience = {"between_tokens_s": 2, "first_token_s": 10}
    with serving({**echo(**models()), "deadlines": patience}) as node:
        yield node


class Client:
    """Asks at random, and remembers what became of each request."""

    def __init__(self, session: aiohttp.ClientSession, server: Server, seed: int) -> None:
        self.session, self.server, self.random = session, server, random.Random(seed)
        self.names = [name.replace("_", "-") for name in models()]
        self.outcomes: Counter[str] = Counter()
        self.expected: dict[str, str] = {}  # request id -> what the log must say

    async def ask(self, number: int) -> None:
        id, model = f"q{number}", self.random.choice(self.names)
        if self.random.random() < 0.5:
            model = f"steady-{self.random.randrange(STEADY)}"
        stream, tokens = self.random.random() < 0.7, self.random.randrange(1, TOKENS_MAX)
        leaves_after = self.random.randrange(tokens) if self.random.random() < LEAVING_SHARE else None
        received: list[Answer] = []

        def look(answer: Answer) -> None:
            received[:] = [answer]
            if leaves_after is not None and len(answer.frames) > leaves_after:
                raise ConnectionAbortedError("the client leaves")

        try:
            answer = await ask(
                self.session, self.server, model, stream=stream, max_tokens=tokens,
                headers={"X-Request-Id": id}, on_frame=look,
            )  # fmt: skip
        except ConnectionAbortedError:
            assert tagged(id, tokens).startswith(received[0].text)
            self.outcomes["left"] += 1
            return
        code = self.judge(answer, id, tokens, stream=stream)
        self.outcomes[code] += 1
        self.expected[id] = code

    def judge(self, answer: Answer, id: str, tokens: int, *, stream: bool) -> str:
        whole = tagged(id, tokens)
        if answer.status == 200 and not stream:
            choice = answer.json["choices"][0]
            assert (choice["message"]["content"], choice["finish_reason"]) == (whole, "length")
            return "ok"
        if answer.error is None:
            assert (answer.text, answer.finish, answer.done) == (whole, "length", True)
            return "ok"
        assert (answer.finish, answer.done) == (None, False)
        assert whole.startswith(answer.text)
        assert answer.frames == [] or answer.status == 200
        return str(answer.error["code"])


async def kill_now_and_then(chaos: random.Random, server: Server, done: asyncio.Event) -> int:
    """Kill workers of the steady models, no model so often that it is given up. How many."""
    killed: Counter[str] = Counter()
    async with client() as session:
        while not done.is_set():
            status = await fetch(session, server, "/admin/status")
            busy = [
                one for one in status["residents"]
                if one["leases"] and one["pid"] and one["model"].startswith("steady") and one["state"] == "resident"
                and killed[one["model"]] < KILLS_PER_MODEL
            ]  # fmt: skip
            if busy:
                victim = chaos.choice(busy)
                killed[victim["model"]] += 1
                os.kill(victim["pid"], signal.SIGKILL)
            elif all(killed[f"steady-{n}"] == KILLS_PER_MODEL for n in range(STEADY)):
                break
            await asyncio.wait((asyncio.ensure_future(done.wait()),), timeout=0.2)
    return sum(killed.values())


def finished_requests(server: Server) -> list[dict[str, Any]]:
    return [one for one in server.log_events() if one.get("event") == "request.finished"]


async def test_every_request_gets_one_answer_from_one_attempt(server: Server) -> None:
    seed = random.SystemRandom().randrange(10**6) if PROVE else 1
    async with client() as session:
        yard, turns, done = Client(session, server, seed), asyncio.Semaphore(AT_ONCE), asyncio.Event()

        async def one(number: int) -> None:
            async with turns:
                await yard.ask(number)

        killing = asyncio.create_task(kill_now_and_then(random.Random(seed), server, done))
        await asyncio.gather(*(one(number) for number in range(REQUESTS)))
        done.set()
        kills = await killing

        async def is_over() -> bool:
            status = await fetch(session, server, "/admin/status")
            return status["requests"] == [] and not any(one["leases"] for one in status["residents"])

        await until(is_over, "no request is left")
        tell(f"seed {seed}, {kills} kills, {dict(yard.outcomes)}")

        # One outcome each, the same in the answer, the log and the figures. Lines are written by a thread of their own.
        await until(lambda: len(finished_requests(server)) >= REQUESTS, "every request is in the log")
        finished = finished_requests(server)
        assert Counter(one["request_id"] for one in finished) == Counter(f"q{n}" for n in range(REQUESTS))
        logged = {one["request_id"]: one["code"] for one in finished}
        assert {id: logged[id] for id in yard.expected} == yard.expected
        async with session.get(f"{server.url}/metrics") as response:
            figures = re.findall(r"^modelyard_requests_total\{.*\} (\S+)$", await response.text(), re.MULTILINE)
        assert sum(map(float, figures)) == REQUESTS
        assert yard.outcomes["ok"] > REQUESTS / 4
        assert {"worker_crashed", "upstream_invalid_response", "upstream_stalled", "left"} <= yard.outcomes.keys()
        assert "internal" not in yard.outcomes

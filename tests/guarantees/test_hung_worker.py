"""A worker that hangs: its answers end at the idle limit, it is replaced, and the node itself is never in doubt."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support.counts import count
from tests.support.node import Answer, Server, ask, client, echo, resident, serving, tagged, until

STREAMS = 8
LONG = 2000
NEIGHBOUR_TOKENS = 100
ROUNDS = count(suite=1, prove=4)  # a fifth in ten minutes is a crash loop


@asynccontextmanager
async def liveness(session: aiohttp.ClientSession, server: Server) -> AsyncIterator[list[int]]:
    """What the node says about itself, again and again, while the block runs."""
    said: list[int] = []

    async def ask_on() -> None:
        while True:
            for path in ("/livez", "/readyz"):
                async with session.get(f"{server.url}{path}") as response:
                    said.append(response.status)
            await asyncio.sleep(0.05)

    asking = asyncio.create_task(ask_on())
    try:
        yield said
    finally:
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    slow: dict[str, Any] = {"slots": STREAMS, "tokens_per_s": 20}
    models = {"hangs": slow, "neighbour": slow, "reader": {"prefill_tokens_per_s": 64}}
    with serving({**echo(**models), "deadlines": {"between_tokens_s": 2, "first_token_s": 2}}) as node:
        yield node


async def test_a_hung_worker_is_found_out_and_replaced(server: Server) -> None:
    async with client() as session:
        await ask(session, server, "neighbour", max_tokens=1)
        for round in range(ROUNDS):
            await one_round(session, server, round)


async def one_round(session: aiohttp.ClientSession, server: Server, round: int) -> None:
    def ask_hanging(number: int) -> asyncio.Task[Answer]:
        id = f"h{round}-{number}"
        return asyncio.create_task(
            ask(session, server, "hangs", stream=number % 4 != 3, max_tokens=LONG, headers={"X-Request-Id": id})
        )

    hanging = [ask_hanging(number) for number in range(STREAMS)]

    async def all_answered() -> bool:
        async with session.get(f"{server.url}/admin/status") as response:
            status = await response.json()
        return [one["phase"] for one in status["requests"] if one["model"] == "hangs"] == ["generating"] * STREAMS

    await until(all_answered, "every answer has begun")
    hung = await resident(session, server, "hangs")
    assert hung is not None
    living = asyncio.create_task(
        ask(session, server, "neighbour", stream=True, max_tokens=NEIGHBOUR_TOKENS, headers={"X-Request-Id": "n"})
    )

    os.kill(hung["pid"], signal.SIGSTOP)
    queued = asyncio.create_task(
        ask(session, server, "hangs", stream=True, max_tokens=3, headers={"X-Request-Id": "next"})
    )

    # Nobody waits for ever, and nobody is told that it was finished.
    async with liveness(session, server) as said:
        for number, task in enumerate(hanging):
            answer = await task
            assert answer.error is not None
            assert answer.error["code"] == "upstream_stalled"
            assert answer.status == (504 if number % 4 == 3 else 200)
            assert (answer.done, answer.finish) == (False, None)
            assert tagged(f"h{round}-{number}", LONG).startswith(answer.text)

        # Whoever waited is answered by another worker; the hung one is gone.
        answer = await queued
        assert (answer.error, answer.text) == (None, tagged("next", 3))
        replaced = await resident(session, server, "hangs")
        assert replaced is not None
        assert replaced["pid"] != hung["pid"]
        await until(lambda: not psutil.pid_exists(hung["pid"]), "the hung process is gone")

        neighbour = await living
        assert (neighbour.error, neighbour.text) == (None, tagged("n", NEIGHBOUR_TOKENS))
    assert set(said) == {200}
    assert len(said) > 10


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
async def test_a_worker_that_hangs_before_the_first_token_is_replaced_too(server: Server, stream: bool) -> None:
    async with client() as session:
        await ask(session, server, "reader", max_tokens=1)
        hung = await resident(session, server, "reader")
        assert hung is not None
        os.kill(hung["pid"], signal.SIGSTOP)

        answer = await ask(session, server, "reader", stream=stream, max_tokens=3, content="word " * 1000)

        assert answer.error is not None
        assert (answer.status, answer.error["code"]) == (504, "upstream_timeout")
        again = await ask(session, server, "reader", max_tokens=1)
        assert again.status == 200
        replaced = await resident(session, server, "reader")
        assert replaced is not None
        assert replaced["pid"] != hung["pid"]

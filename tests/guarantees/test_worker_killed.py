"""A worker killed while it answers: every one of its streams says so, nobody else notices, and one load follows."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support.counts import count
from tests.support.node import Answer, Server, ask, client, echo, fetch, resident, serving, tagged, until

STREAMS = 32
SURVIVOR_TOKENS = 40
KILLS = count(suite=1, prove=200)
KILLS_PER_MODEL = 4  # a fifth in ten minutes is a crash loop
SLOW: dict[str, Any] = {"slots": STREAMS, "tokens_per_s": 20}


def victim_of(kill: int) -> str:
    return f"victim-{kill // KILLS_PER_MODEL}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    models = {victim_of(kill).replace("-", "_"): SLOW for kill in range(KILLS)}
    with serving(echo(neighbour=SLOW, **models)) as node:
        yield node


async def reserved(session: aiohttp.ClientSession, server: Server) -> int:
    status = await fetch(session, server, "/admin/status")
    return int(status["devices"][0]["reserved_bytes"])


def loads(server: Server, model: str) -> int:
    return sum(one.get("event") == "model.loading" and one["model"] == model for one in server.log_events())


async def streams(
    session: aiohttp.ClientSession, server: Server, model: str, name: str, tokens: int
) -> tuple[dict[str, asyncio.Task[Answer]], dict[str, Answer]]:
    """So many answers under way, and what came of each so far."""
    so_far: dict[str, Answer] = {}
    tasks: dict[str, asyncio.Task[Answer]] = {}
    for number in range(STREAMS):
        id = f"{name}-{number}"
        asked = ask(
            session, server, model, stream=True, max_tokens=tokens, headers={"X-Request-Id": id},
            on_frame=partial(so_far.__setitem__, id),
        )  # fmt: skip
        tasks[id] = asyncio.create_task(asked)
    return tasks, so_far


@pytest.mark.parametrize("kill", range(KILLS))
async def test_a_killed_worker_ends_its_streams_with_an_error_and_no_others(server: Server, kill: int) -> None:
    model = victim_of(kill)
    async with client() as session:
        # Both in memory, and 32 answers of each under way.
        await ask(session, server, "neighbour", max_tokens=1)
        before = await reserved(session, server)
        await ask(session, server, model, max_tokens=1)
        victim = await resident(session, server, model)
        assert victim is not None
        dying, dying_so_far = await streams(session, server, model, f"v{kill}", 2000)
        living, living_so_far = await streams(session, server, "neighbour", f"n{kill}", SURVIVOR_TOKENS)

        def all_speak() -> bool:
            speaking = [*dying_so_far.values(), *living_so_far.values()]
            return len(speaking) == 2 * STREAMS and all(answer.text for answer in speaking)

        await until(all_speak, "everybody has a token")
        loads_before = loads(server, model)

        os.kill(victim["pid"], signal.SIGKILL)

        for id, task in dying.items():
            answer = await task
            assert answer.status == 200
            assert answer.error is not None, f"{id} ended without a word"
            assert answer.error["code"] == "worker_crashed"
            assert (answer.done, answer.finish) == (False, None)
            assert tagged(id, 2000).startswith(answer.text)
            assert all(frame.get("usage") is None for frame in answer.frames)
        for id, task in living.items():
            answer = await task
            assert answer.error is None
            assert (answer.done, answer.finish) == (True, "length")
            assert answer.text == tagged(id, SURVIVOR_TOKENS)

        # Nothing is left of it.
        await until(lambda: not psutil.pid_exists(victim["pid"]), "the process is reaped")

        async def is_forgotten() -> bool:
            return await resident(session, server, model) is None

        await until(is_forgotten, "the model is absent")
        assert await reserved(session, server) == before
        assert loads(server, model) == loads_before, "nobody asked for another"

        # Whoever asks next finds a new one, however many they are.
        again = await asyncio.gather(*(ask(session, server, model, max_tokens=1) for _ in range(8)))
        assert [answer.status for answer in again] == [200] * 8
        assert loads(server, model) == loads_before + 1
        async with session.post(f"{server.url}/admin/models/{model}/unload", json={}) as response:
            assert response.status == 200

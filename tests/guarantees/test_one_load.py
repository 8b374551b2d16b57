"""Many first requests for one model cause one load, and share its end, good or bad."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.support.node import Server, ask, client, echo, fetch, in_flight, resident, serving, until

FIRST_REQUESTS = 500


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    models: dict[str, Any] = {
        "slow": {"load_s": 1, "slots": 16},
        "broken": {"load_s": 1, "slots": 16, "fail_load": "the weights are made of cheese"},
        # So large that a load nobody waits for would be given up.
        "shared": {"load_s": 2, "slots": 2, "footprint_bytes": 4 * 1024**3},
    }
    with serving(echo(**models)) as node:
        yield node


def told(server: Server, model: str) -> Counter[str]:
    """How often each event of a model was told."""
    return Counter(one["event"] for one in server.log_events() if one.get("model") == model)


async def test_many_first_requests_cause_one_load(server: Server) -> None:
    async with client() as session:
        asked = (ask(session, server, "slow", stream=bool(n % 2), max_tokens=1) for n in range(FIRST_REQUESTS))
        answers = await asyncio.gather(*asked)

        assert [answer.error for answer in answers] == [None] * FIRST_REQUESTS
        events = told(server, "slow")
        assert (events["model.loading"], events["model.loaded"], events["model.unloading"]) == (1, 1, 0)
        found = await resident(session, server, "slow")
        assert found is not None
        assert [one.pid for one in server.workers() if one.pid == found["pid"]] == [found["pid"]]
        assert len([one for one in server.workers() if '"load_s": 1.0' in " ".join(one.cmdline())]) == 1


async def test_everybody_gets_the_cause_of_a_load_that_failed(server: Server) -> None:
    async with client() as session:
        asked = (ask(session, server, "broken", stream=bool(n % 2), max_tokens=1) for n in range(FIRST_REQUESTS))
        answers = await asyncio.gather(*asked)

        for answer in answers:
            assert answer.error is not None
            assert answer.error["code"] == "model_load_failed"
            assert "made of cheese" in answer.error["message"]
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) > 0
        events = told(server, "broken")
        assert (events["model.loading"], events["model.load_failed"]) == (1, 1)

        # Whoever asks while it must not be tried again gets the same cause, and starts nothing.
        late = await ask(session, server, "broken", max_tokens=1)
        assert late.error is not None
        assert "made of cheese" in late.error["message"]
        assert told(server, "broken")["model.loading"] == 1


@pytest.mark.parametrize("leaves", ["hangs up", "is cancelled"])
async def test_who_started_a_load_may_leave_it_to_others(server: Server, leaves: str) -> None:
    async with client() as session:

        async def phases() -> dict[str, str]:
            return in_flight(await fetch(session, server, "/admin/status"))

        def asked(id: str) -> asyncio.Task[object]:
            return asyncio.create_task(ask(session, server, "shared", max_tokens=2, headers={"X-Request-Id": id}))

        async def both_wait() -> bool:
            return await phases() == {"first": "loading", "second": "loading"}

        async def one_waits() -> bool:
            return "first" not in await phases()

        loads_before = told(server, "shared")["model.loading"]
        first = asked("first")
        await until(lambda: _is(phases, {"first": "loading"}), "the load has begun")
        second = asked("second")
        await until(both_wait, "both wait for the load")

        if leaves == "hangs up":
            first.cancel()
        else:
            await fetch(session, server, "/admin/requests/first", "DELETE")

        await until(one_waits, "the first is gone")
        with suppress(asyncio.CancelledError):
            await first
        answer = await second
        assert answer.json["choices"][0]["message"]["content"] == "second:0 second:1 "  # type: ignore[attr-defined]
        assert told(server, "shared")["model.loading"] == loads_before + 1
        await fetch(session, server, "/admin/models/shared/unload", "POST", json={})


async def _is(phases: object, wanted: dict[str, str]) -> bool:
    return await phases() == wanted  # type: ignore[operator, no-any-return]

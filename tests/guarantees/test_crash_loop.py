"""A worker that dies at its start is not started again and again: each wait is twice the last, the fifth is long."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import aiohttp

from tests.support.node import Server, ask, client, echo, fetch, running

TRIES = 5
LONGEST_TOLD_S = 120  # clients give up on more; the wait itself is ten minutes


def events(server: Server, name: str) -> list[dict[str, Any]]:
    return [event for event in server.log_events() if event["event"] == name]


async def wait_s(session: aiohttp.ClientSession, server: Server) -> int:
    """What a request is told to wait; it starts nothing."""
    began = len(events(server, "model.loading"))
    refused = await ask(session, server, "broken")
    assert refused.status == 503
    assert refused.error is not None
    assert refused.error["code"] == "model_load_failed"
    assert "made of cheese" in refused.error["message"]
    assert len(events(server, "model.loading")) == began
    return int(refused.headers["Retry-After"])


async def test_each_failure_doubles_the_wait_and_the_fifth_ends_the_trying() -> None:
    config = echo(broken={"fail_load": "the weights are made of cheese"}, fine={})
    async with running(config) as server, client() as session:
        first = await ask(session, server, "broken")
        waits = [await wait_s(session, server)]
        for _ in range(TRIES - 1):  # an operator may try at once
            await fetch(session, server, "/admin/models/broken/load", "POST", json={})
            waits.append(await wait_s(session, server))
        fine = await ask(session, server, "fine")
        status = await fetch(session, server, "/admin/status")
        tries = [event for event in events(server, "model.loading") if event["model"] == "broken"]
        lines = [event["lines"] for event in events(server, "worker.load_ended")]

    assert first.status == 503
    assert len(tries) == TRIES
    for before, after in pairwise(waits[:-1]):
        assert 1.5 * before < after <= 2 * before + 1
    assert waits[0] <= 10
    assert waits[-1] == LONGEST_TOLD_S
    assert "cheese" in status["failures"]["broken"]
    assert all(0 < len(said) <= 50 for said in lines)
    assert fine.status == 200

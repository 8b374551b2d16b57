"""A node that says nothing for long, behind two servers of ours and before a reader that gives up on silence."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from modelyard.testing import FakeOllama, Script
from tests.guarantees.test_two_hops import hops
from tests.support.counts import count
from tests.support.fleet import MESSAGES

SILENT_S = float(count(13, 120))
IDLE_S = 11.5  # what gives up on the way does so after this; signs of life come every ten seconds


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
async def test_signs_of_life_come_through_two_servers_before_anybody_gives_up(dialect: str) -> None:
    async with hops({"far": FakeOllama(["m"])}) as yard:
        yard.nodes["far"].play(Script(header_after_s=SILENT_S))
        path = "/v1/chat/completions" if dialect == "openai" else "/api/chat"
        body = {"model": "m", "stream": True, "messages": MESSAGES}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=IDLE_S)
        async with yard.front.http.post(f"{yard.front.server.url}{path}", json=body, timeout=timeout) as answer:
            raw = await answer.read()

    if dialect == "openai":
        assert b"\n: " in b"\n" + raw
        assert raw.endswith(b"data: [DONE]\n\n")
    else:
        lines = [json.loads(line) for line in raw.splitlines()]
        assert sum(not one["done"] and not one["message"]["content"] for one in lines) >= 1
        assert lines[-1]["done"]


async def test_a_slow_stream_is_not_cut() -> None:
    async with hops({"far": FakeOllama(["m"])}) as yard:
        yard.nodes["far"].play(Script(tagged=True, tag_count=count(6, 60), between_s=1))
        answers = await asyncio.gather(*(yard.front.ask() for _ in range(3)))

    assert all(one.is_whole for one in answers)

"""Smaller models that answer for those nobody can bring in: only where it is switched on, and the reply says so."""

from __future__ import annotations

import json
from typing import Any

from modelyard.testing import FAULTS, FakeOllama
from tests.support.fleet import Fleet, fleet

SYNC = {"baseline_models": ["big:70b", "gone:30b"], "fallback_models": ["small:8b"]}


async def plain(yard: Fleet, model: str) -> tuple[int, Any]:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    async with yard.http.post(f"{yard.server.url}/v1/chat/completions", json=body) as answer:
        return answer.status, json.loads(await answer.read())


async def test_a_fallback_answers_where_it_is_switched_on_and_the_reply_says_so() -> None:
    nodes = {"one": FakeOllama(["big:70b", "small:8b"])}
    async with fleet(nodes, {"sync": {**SYNC, "fallback": True}}) as yard:
        nodes["one"].play(FAULTS["oom"], model="big:70b")
        failed = await plain(yard, "big:70b")
        missing = await plain(yard, "gone:30b")
        other = await plain(yard, "never-heard-of:1b")

    for status, body in (failed, missing):
        assert status == 200
        assert body["modelyard"]["degraded"] == ["model=small:8b"]
        assert body["modelyard"]["model"] == "small:8b@one"
    assert failed[1]["modelyard"]["fallback_reason"] == "upstream_error"
    assert missing[1]["modelyard"]["fallback_reason"] == "model_not_found"
    assert other[0] == 404


async def test_without_that_setting_nobody_stands_in() -> None:
    nodes = {"one": FakeOllama(["big:70b", "small:8b"])}
    async with fleet(nodes, {"sync": SYNC}) as yard:
        nodes["one"].play(FAULTS["503"], model="big:70b")
        failed = await plain(yard, "big:70b")
        missing = await plain(yard, "gone:30b")

    assert failed[0] == 503
    assert missing[0] == 404
    assert all(one.body["model"] != "small:8b" for one in nodes["one"].questions)

"""The configuration changes again and again while requests run: none fails, none is cut, nothing starts twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

from modelyard.testing import FakeOllama, FakeOpenAI, Script
from tests.support.counts import count
from tests.support.fleet import Fleet, fleet

ECHO: dict[str, Any] = {"builtin": False, "echo": {"steady": {"slots": 16}, "other": {}}}
REQUESTS_AT_ONCE = 9
MODELS = ("steady", "far", "alone")  # here, at two nodes, and at one: nobody can step in for that


def variants(number: int, nodes: list[dict[str, Any]], spare_url: str) -> dict[str, Any]:
    """One of several configurations, never the same twice in a row. Nodes keep all that answers: one of them moves."""
    config: dict[str, Any] = {"models": {**ECHO, "aliases": {f"alias-{number}": "steady"}}, "memory": {"gpus": False}}
    listed = [{**node, "weight": 1 + number % 3} for node in nodes]
    listed[number % 2] |= {"between_tokens_s": 100 + number, "connect_s": 5 + number % 2}
    if number % 5 >= 3:
        listed[1]["url"] = spare_url
    if number % 6 == 4:
        config["deadlines"] = {"load_s": 200 + number}
    if number % 4 == 1:
        listed.append({"name": "extra", "kind": "ollama", "url": "http://127.0.0.1:9"})
    if number % 4 == 2:
        config["models"]["options"] = {"other": {"idle_ttl_s": 100 + number}}
    if number % 4 == 3:
        config["limits"] = {"requests_max": 1_000_000 + number}
        config["routing"] = {"attempts_max": 2 + number % 3}
    return {**config, "nodes": listed}


async def test_requests_run_through_any_number_of_reloads() -> None:
    nodes = {"one": FakeOllama(["far"]), "two": FakeOpenAI(["far", "alone"])}
    async with FakeOpenAI(["far", "alone"]) as spare, fleet(nodes, {"models": ECHO}) as yard:
        for node in (*nodes.values(), spare):
            node.play(Script(tagged=True, tag_count=6))
        path = next(yard.server.folder.glob("modelyard.json"))
        base = json.loads(path.read_text())
        is_over, seen = asyncio.Event(), Counter[str]()

        async def ask(model: str) -> None:
            while not is_over.is_set():
                answer = await yard.ask(model)
                assert answer.is_whole, (model, answer)
                seen[model] += 1

        asking = [asyncio.create_task(ask(MODELS[at % len(MODELS)])) for at in range(REQUESTS_AT_ONCE)]
        total = count(24, 1000)
        for number in range(total):
            if number % 6 == 5:
                path.write_text("{ this is not JSON")
                await told(yard, "config.reload_refused", number // 6 + 1)
            replace(path, {**base, **variants(number, base["nodes"], spare.url)})
            await settled(yard, f"alias-{number}")
        is_over.set()
        await asyncio.gather(*asking)
        loads = Counter(one["model"] for one in yard.server.log_events() if one.get("event") == "model.loaded")
        status = await yard.get("/admin/nodes")

    assert spare.questions
    assert min(seen[model] for model in MODELS) > total
    assert loads == {"steady": 1}
    assert {one["name"] for one in status["nodes"]} <= {"one", "two", "extra"}


def replace(path: Path, config: dict[str, Any]) -> None:
    """As careful editors do: whole, or not at all."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(config))
    new.replace(path)


async def settled(yard: Fleet, alias: str) -> None:
    """Until a name of the new configuration is known."""
    async with asyncio.timeout(20):
        while "error" in await yard.get(f"/v1/models/{alias}"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def told(yard: Fleet, event: str, times: int) -> None:
    async with asyncio.timeout(20):
        while sum(one.get("event") == event for one in yard.server.log_events()) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

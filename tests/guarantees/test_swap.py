"""Two models and room for one: every request is answered, and each swap can be followed with its receipts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.gguf_files import write_tiny_llama
from tests.support.node import Server, ask, client, echo, fetch, resident, running, short_folder, until

MIB = 1024**2


async def follow(session: aiohttp.ClientSession, server: Server, into: list[dict[str, Any]]) -> None:
    """Collect what `/admin/events` tells, until cancelled."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with session.get(f"{server.url}/admin/events", timeout=timeout) as response:
        into.append({"event": "following"})
        async for line in response.content:
            if line.startswith(b"data:"):
                into.append(json.loads(line[5:]))


def names(events: list[dict[str, Any]], model: str) -> list[str]:
    return [str(event["event"]) for event in events if event.get("model") == model]


async def test_two_models_take_turns_in_the_room_of_one() -> None:
    script = {"footprint_bytes": 600 * MIB, "allocate_bytes": 64 * MIB, "reply_tokens": 4}
    config = echo(red=script, blue=script)
    config["memory"] |= {"ram_limit_bytes": 1024 * MIB, "headroom_bytes": 64 * MIB}
    events: list[dict[str, Any]] = []
    async with running(config) as server, client() as session:
        following = asyncio.create_task(follow(session, server, events))
        await until(lambda: events, "the events are followed")

        answers = [await ask(session, server, model, stream=True) for model in ("red", "blue") * 3]

        await until(lambda: names(events, "blue").count("model.loaded") == 3, "the last load is told")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    assert [answer.finish for answer in answers] == ["stop"] * 6
    assert names(events, "red").count("model.loaded") == 3
    assert names(events, "red").count("model.evicted") == 3
    assert names(events, "blue").count("model.evicted") == 2
    unloads = [event for event in events if event["event"] == "model.unloaded"]
    assert len(unloads) == 5
    for receipt in unloads:
        assert receipt["reason"] == "eviction"
        assert receipt["freed_bytes"]["ram"] == receipt["before_bytes"]["ram"] - receipt["after_bytes"]["ram"]
        assert receipt["before_bytes"]["ram"] >= 64 * MIB
        assert receipt["worker"]["anonymous_bytes"] >= 64 * MIB
        assert receipt["leaked_bytes"] == 0


async def test_requests_for_both_at_once_are_all_answered() -> None:
    script = {"footprint_bytes": 600 * MIB, "reply_tokens": 5, "tokens_per_s": 200, "slots": 2}
    config = echo(red=script, blue=script)
    config["memory"] |= {"ram_limit_bytes": 1024 * MIB, "headroom_bytes": 64 * MIB}
    async with running(config) as server, client() as session:
        answers = await asyncio.gather(*(ask(session, server, ("red", "blue")[i % 2], stream=True) for i in range(24)))
        loads = [event for event in server.log_events() if event["event"] == "model.loaded"]

    assert {answer.finish for answer in answers} == {"stop"}
    assert len(loads) < 24  # swaps are shared, not one per request


async def test_two_real_models_swap() -> None:
    with short_folder() as models:
        for name in ("red", "blue"):
            write_tiny_llama(models / f"{name}.gguf", context_length=512, name=name)
        config = {
            "models": {"folders": [str(models)], "builtin": False, "launch": {"prompt_cache_bytes": 0}},
            "memory": {"gpus": False, "ram_limit_bytes": 90 * MIB, "headroom_bytes": 1 * MIB},
        }
        async with running(config) as server, client() as session:
            shown = await fetch(session, server, "/v1/models")
            answers = [await ask(session, server, model, max_tokens=4) for model in ("red", "blue", "red")]
            left = await resident(session, server, "blue")

    assert {entry["id"] for entry in shown["data"]} == {"red", "blue"}
    assert [answer.status for answer in answers] == [200, 200, 200], answers[-1].body
    assert left is None


async def test_what_can_never_fit_is_refused_at_once_with_the_numbers() -> None:
    config = echo(huge={"footprint_bytes": 4096 * MIB}, small={"footprint_bytes": 16 * MIB})
    config["memory"] |= {"ram_limit_bytes": 1024 * MIB, "headroom_bytes": 64 * MIB}
    async with running(config) as server, client() as session:
        refused = await ask(session, server, "huge")
        served = await ask(session, server, "small")

    assert refused.status == 503
    assert refused.error is not None
    assert refused.error["code"] == "insufficient_memory"
    assert "4.0 GiB" in refused.error["message"]
    assert refused.headers["x-should-retry"] == "false"
    assert "Retry-After" not in refused.headers
    assert served.status == 200


async def test_a_damaged_file_is_listed_with_its_problem_and_harms_nobody(tmp_path: Path) -> None:
    with short_folder() as models:
        write_tiny_llama(models / "good.gguf", context_length=256, name="good")
        whole = (models / "good.gguf").read_bytes()
        (models / "cut.gguf").write_bytes(whole[: len(whole) // 2])
        (models / "noise.gguf").write_bytes(b"not a model at all" * 100)
        config = {"models": {"folders": [str(models), str(tmp_path / "missing")], "builtin": False}}
        async with running(config) as server, client() as session:
            listed = {entry["id"]: entry["modelyard"] for entry in (await fetch(session, server, "/v1/models"))["data"]}
            cut = await ask(session, server, "cut")
            good = await ask(session, server, "good", max_tokens=2)

    assert listed["cut"]["problem"]
    assert listed["noise"]["problem"]
    assert cut.error is not None
    assert cut.error["code"] == "model_file_invalid"
    assert good.status == 200

"""Contexts, ladders, roles and unknown names on a whole server with real workers: what is reloaded, and what is not."""

from __future__ import annotations

from typing import Any

from tests.support.node import Server, ask, client, echo, fetch, resident, running

MIB = 1024**2
SMALL: dict[str, Any] = {"context_length": 512, "slots": 1, "prompt_cache_bytes": 0}
CONFIG: dict[str, Any] = {"memory": {"gpus": False}, "models": {"launch": SMALL}}


def loads(server: Server) -> list[dict[str, Any]]:
    return [event for event in server.log_events() if event["event"] == "model.loaded"]


async def test_a_larger_context_is_loaded_once_and_serves_smaller_wishes() -> None:
    async with running(CONFIG) as server, client() as session:
        contexts: list[int] = []
        wishes: list[dict[str, Any]] = [
            {},
            {"num_ctx": 400},
            {"num_ctx": 1500},
            {"num_ctx": 600},
            {},
            {"num_ctx": 2048},
        ]
        for wish in wishes:
            answer = await ask(session, server, "yardling", max_tokens=2, **wish)
            assert answer.status == 200, answer.body
            now = await resident(session, server, "yardling")
            assert now is not None
            contexts.append(now["context_length"])
        refused = await ask(session, server, "yardling", num_ctx=0)
        count = len(loads(server))

    assert contexts == [512, 512, 2048, 2048, 2048, 2048]
    assert count == 2
    assert refused.status == 400


async def test_options_that_need_no_reload_cause_none() -> None:
    async with running(CONFIG) as server, client() as session:
        for options in (
            {"temperature": 0.1},
            {"keep_alive": "1h"},
            {"seed": 7},
            {"num_ctx": 100},
            {"top_k": 3},
            {"n": 1},
        ):
            assert (await ask(session, server, "yardling", max_tokens=2, **options)).status == 200
        count = len(loads(server))

    assert count == 1


async def test_a_ladder_gives_up_context_and_says_so() -> None:
    config = {
        "memory": {"gpus": False, "ram_limit_bytes": 73 * MIB, "headroom_bytes": 1 * MIB},
        "models": {
            "launch": {**SMALL, "context_length": 2048, "slots": 2, "ladder": ["kv_type=q8_0", "context_length=256"]}
        },
    }
    async with running(config) as server, client() as session:
        answer = await ask(session, server, "yardling", max_tokens=2)
        again = await ask(session, server, "yardling", max_tokens=2, stream=True)
        now = await resident(session, server, "yardling")
        count = len(loads(server))

    assert answer.status == 200, answer.body
    assert now is not None
    given_up = now["degraded"]
    assert given_up
    assert answer.headers["x-modelyard-degraded"] == again.headers["x-modelyard-degraded"] == ", ".join(given_up)
    assert answer.json["modelyard"]["degraded"] == given_up
    assert count == 1


async def test_a_ladder_that_ends_says_what_was_tried() -> None:
    config = {
        "memory": {"gpus": False, "ram_limit_bytes": 20 * MIB, "headroom_bytes": 1 * MIB},
        "models": {"launch": {**SMALL, "ladder": ["kv_type=q8_0", "context_length=256"]}},
    }
    async with running(config) as server, client() as session:
        refused = await ask(session, server, "yardling")

    assert refused.status == 503
    assert refused.error is not None
    assert refused.error["code"] == "insufficient_memory"
    assert "kv_type=q8_0; kv_type=q8_0, context_length=256" in str(refused.error["suggestions"]), refused.error


async def test_a_model_that_is_asked_for_by_role_stays_until_its_last_role_lets_go() -> None:
    config = {**echo(one={}, two={}), "roles": {"chat": "one", "translation": "one"}}
    config["models"]["default"] = "three"
    async with running(config) as server, client() as session:
        for role in ("chat", "translation"):
            assert (await ask(session, server, role)).status == 200
        there = await resident(session, server, "one")
        await fetch(session, server, "/admin/models/chat/unload", "POST", json={})
        still = await resident(session, server, "one")
        await fetch(session, server, "/admin/models/translation/unload", "POST", json={})
        gone = await resident(session, server, "one")
        count = len(loads(server))
        warned = [event for event in server.log_events() if event["event"] == "config.unknown_model"]

    assert there is not None
    assert there["roles"] == ["chat", "translation"]
    assert still is not None
    assert gone is None
    assert count == 1
    assert [(event["where"], event["name"]) for event in warned] == [("models.default", "three")]

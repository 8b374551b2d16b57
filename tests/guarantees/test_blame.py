"""What a node refuses of one request is nobody else's loss: not the node's other models, and not other callers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from modelyard.testing import FAULTS, FakeOllama, FakeOpenAI, FaultProxy, Script
from modelyard.testing.fault_proxy import Network
from tests.support.fleet import Fleet, fleet


async def embed(yard: Fleet, model: str = "m") -> tuple[int, str]:
    given = {"model": model, "input": "a text"}
    async with yard.http.post(f"{yard.server.url}/v1/embeddings", json=given) as answer:
        told = await answer.json()
        return answer.status, (told.get("error") or {}).get("code", "")


def refusal(text: str, **members: str) -> bytes:
    return json.dumps({"error": {"message": text, **members}}).encode()


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (Script(status=403, body=refusal("flagged by moderation")), 400, "upstream_refused"),
        (Script(status=404, body=b"Not Found", content_type="text/plain"), 400, "upstream_not_offered"),
        (Script(status=405, body=b"Method Not Allowed", content_type="text/plain"), 400, "upstream_not_offered"),
        (Script(status=422, error="no such option"), 400, "invalid_value"),
        (Script(status=413, error="too large"), 400, "invalid_value"),
    ],
)  # fmt: skip
async def test_a_refused_request_costs_nobody_else_the_node(script: Script, status: int, code: str) -> None:
    async with fleet({"cloud": FakeOpenAI(["m", "other"])}) as yard:
        yard.nodes["cloud"].play(script, times=12)
        refused = [await yard.ask() for _ in range(12)]
        node = await yard.node("cloud")
        answers = [await yard.ask(), await yard.ask("other")]

    assert {(one.status, one.code) for one in refused} == {(status, code)}
    assert (node["health"], node["cooling"]) == ("healthy", {})
    assert all(one.is_whole for one in answers)


async def test_an_endpoint_that_a_node_lacks_is_asked_of_another_and_its_chats_go_on() -> None:
    class OnlyChats(FakeOpenAI):
        async def answer(self, request: Any, reply: Any) -> None:
            if request.path.endswith("/embeddings"):
                await reply.whole(404, "text/html", b"<h1>404</h1>")
            else:
                await super().answer(request, reply)

    by_turns = {"routing": {"strategy": "round_robin"}}
    async with fleet({"chats": OnlyChats(["m", "alone"]), "both": FakeOpenAI(["m"])}, by_turns) as yard:
        vectors = [await embed(yard) for _ in range(6)]
        nowhere = await embed(yard, "alone")
        node = await yard.node("chats")
        chats = [await yard.ask("alone") for _ in range(3)]

    assert set(vectors) == {(200, "")}
    assert nowhere == (400, "upstream_not_offered")
    assert (node["health"], node["cooling"]) == ("healthy", {})
    assert all(one.is_whole for one in chats)


async def test_a_refused_key_is_told_from_a_refused_request() -> None:
    bad_key = Script(status=403, body=refusal("no", code="invalid_api_key"))
    async with fleet({"cloud": FakeOpenAI(["m"])}) as yard:
        yard.nodes["cloud"].play(bad_key, times=1)
        answer = await yard.ask()
        node = await yard.node("cloud")

    assert answer.code == "upstream_refused_key"
    assert node["health"] == "misconfigured"


async def test_a_limit_of_one_model_is_not_one_of_the_others() -> None:
    async with fleet({"cloud": FakeOpenAI(["m", "other"])}) as yard:
        limited = Script(status=429, error="too many requests", headers={"Retry-After": "40"})
        yard.nodes["cloud"].play(limited, model="m")
        first, second = await yard.ask(), await yard.ask()
        others = [await yard.ask("other") for _ in range(3)]

    assert first.code == "upstream_rate_limited"
    assert second.code == "no_node_available"
    assert int(second.headers["Retry-After"]) > 30
    assert all(one.is_whole for one in others)


async def test_a_probe_asks_nobody_to_chat_who_cannot() -> None:
    node = FakeOllama(["nomic-embed-text", "m"])
    node.models["nomic-embed-text:latest"].capabilities = ("embedding",)
    quick = {"deadlines": {"load_s": 0.1, "load_per_gib_s": 0}}
    async with fleet({"studio": node}, quick, health_timeout_s=0.5, first_token_s=0.5) as yard:
        await embed(yard, "nomic-embed-text")
        node.play(FAULTS["slow-first-token"], model="m", times=1)
        await yard.ask()
        await yard.until("studio", health="healthy")
        asked = [one.path for one in node.requests if one.path in ("/api/generate", "/api/chat")]

    assert len(asked) >= 2, "it was probed"
    chats = [one.body["model"] for one in node.questions if one.path != "/api/embed"]
    assert not any("nomic" in name for name in chats)


async def test_one_request_is_sent_once_more_at_most_when_kept_connections_are_gone() -> None:
    node = FakeOpenAI(["m"])
    await node.start()
    async with FaultProxy(node.url) as way, fleet({"cloud": node}, urls={"cloud": way.url}) as yard:
        node.play(Script(between_s=0.02))
        await _at_once(yard, 12)  # so many connections are kept
        node.play(FAULTS["reset"])
        before = len(node.questions)
        answer = await yard.ask()

    assert not answer.is_whole
    assert len(node.questions) - before <= 2


async def test_a_node_that_stops_answering_loses_those_that_wait_there_to_another() -> None:
    """A partition of a node whose connections were kept: nobody hears that they lead nowhere."""
    nodes = {"a": FakeOpenAI(["m"]), "b": FakeOpenAI(["m"])}
    for node in nodes.values():
        await node.start()
    by_turns = {"routing": {"strategy": "round_robin", "retry_floor": 100}}
    async with (
        FaultProxy(nodes["b"].url) as way,
        fleet(nodes, by_turns, urls={"b": way.url}, first_token_s=600, health_timeout_s=0.5) as yard,
    ):
        await _at_once(yard, 12)
        way.network = Network(is_black_hole=True, latency_s=86_400)
        answers = await _at_once(yard, 30)
        status = await yard.node("b")
        again = await _at_once(yard, 10)

    assert all(one.is_whole and one.node == "a" for one in answers), answers
    assert "failover" in {one.headers["x-modelyard-route"] for one in answers}
    assert (status["health"], status["in_flight"]) == ("out", 0)
    assert all(one.is_whole for one in again)


@pytest.mark.parametrize("kind", [FakeOpenAI, FakeOllama])
async def test_a_load_that_is_told_by_signs_of_life_is_waited_for(kind: type[FakeOpenAI] | type[FakeOllama]) -> None:
    """Another server of ours sends them while it loads. After the first token only tokens count."""
    quick = {"deadlines": {"load_s": 1.5, "load_per_gib_s": 0}}
    async with fleet({"far": kind(["m"])}, quick, first_token_s=0.5, between_tokens_s=0.5) as yard:
        await yard.ask()  # it is in memory from here on
        yard.nodes["far"].play(Script(alive_for_s=1.0), times=1)
        loaded = await yard.ask()
        yard.nodes["far"].play(Script(alive_for_s=60), times=1)
        never = await yard.ask()

    assert loaded.is_whole
    assert never.code == "upstream_timeout"


async def _at_once(yard: Fleet, count: int) -> list[Any]:
    return await asyncio.gather(*(yard.ask() for _ in range(count)))

"""Errors about nodes: they say who was asked, and why a node that is configured cannot be."""

from __future__ import annotations

from typing import Any

from modelyard.testing import FAULTS, FakeOllama, FakeOpenAI
from tests.support.fleet import MESSAGES, Fleet, fleet

WAYS = ("/v1/chat/completions", "/v1/embeddings", "/api/chat", "/api/embed", "/api/v1/llm/chat")


async def asked(yard: Fleet, path: str, model: str) -> tuple[int, dict[str, str], str]:
    """Status, our headers and the body of one question."""
    body: dict[str, Any] = {"model": model, "messages": MESSAGES, "stream": False}
    if "embed" in path:
        body = {"model": model, "input": "text"}
    async with yard.http.post(f"{yard.server.url}{path}", json=body) as answer:
        told = {name.lower(): value for name, value in answer.headers.items() if "odelyard" in name}
        return answer.status, told, await answer.text()


async def test_an_error_says_which_nodes_were_asked_in_every_dialect() -> None:
    nodes = {"one": FakeOpenAI(["m"]), "two": FakeOllama(["m"])}
    async with fleet(nodes, {"routing": {"retry_floor": 100}}) as yard:
        for node in nodes.values():
            node.play(FAULTS["500"])
        found = [await asked(yard, path, "m") for path in ("/v1/chat/completions", "/api/chat")]
        nobody = await asked(yard, "/v1/chat/completions", "unheard-of")

    for status, told, _text in found:
        assert status >= 500
        assert told["x-modelyard-node"] in nodes
        assert told["x-modelyard-route"] == "failover"
        assert told["x-modelyard-attempts"] == "2"
    assert "x-modelyard-node" not in nobody[1]


async def test_a_node_that_was_never_seen_is_no_missing_model_and_one_that_nobody_configured_is_named() -> None:
    nodes = {"studio": FakeOpenAI(["m"]), "locked": FakeOpenAI(["m"], key="sesame")}
    plain = FakeOpenAI(["m"])
    async with plain:
        more = [
            {"name": "dead", "kind": "ollama", "url": "http://127.0.0.1:9"},
            {"name": "tls", "kind": "openai", "url": plain.url.replace("http", "https"), "connect_s": 0.5},
        ]
        async with fleet(nodes, {"nodes": more}) as yard:
            await yard.until("tls", health="out")
            found = {name: await asked(yard, path, f"m@{name}") for path in WAYS for name in ("dead", "locked", "tls")}
            unknown = [await asked(yard, path, "m@stdio") for path in WAYS]
            without = await asked(yard, "/v1/chat/completions", "other@studio")
            reason = (await yard.node("tls"))["reason"]

    for name, why in (("dead", "connection refused"), ("locked", "does not accept the key"), ("tls", "TLS")):
        status, _told, text = found[name]
        assert (status, "no_node_available" in text, why in text) == (503, True, True), text
    for status, _told, text in unknown:
        assert (status, "node_not_found" in text, "studio" in text) == (404, True, True), text
    assert (without[0], "model_not_found" in without[2]) == (404, True)
    assert "TLS" in reason

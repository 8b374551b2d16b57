"""Probes: strangers learn only up and ready; those who may read get everything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from modelyard import __version__
from modelyard.api.health import RECEIPTS_MAX

from .surface import ADMIN_KEY, KEYS, Listener, Yard, build_yard, listening


@pytest.fixture
def yard() -> Yard:
    return build_yard(keys=KEYS)


@pytest.fixture
def node(yard: Yard) -> Iterator[Listener]:
    with listening(yard) as listener:
        yield listener


READER = {"x-api-key": ADMIN_KEY}


def test_strangers_learn_only_up_and_ready(node: Listener) -> None:
    replies = {path: node.ask("GET", path) for path in ("/", "/livez", "/readyz", "/readyz?verbose", "/health")}

    assert replies["/"].body == b"Ollama is running"
    assert replies["/health"].json == {"status": "ok", "ready": True}
    assert replies["/readyz?verbose"].body == b"ok\n"
    for reply in replies.values():
        assert reply.status == 200
        assert "server" not in reply.headers
        assert __version__.encode() not in reply.body


def test_a_stranger_with_a_wrong_key_still_learns_whether_it_is_up(node: Listener) -> None:
    assert node.ask("GET", "/health", {"x-api-key": "wrong"}).status == 200


def test_details_need_the_right_read(node: Listener) -> None:
    for path in ("/health/detailed", "/health/memory", "/readyz/started", "/openapi.json", "/metrics", "/v1/models"):
        assert node.ask("GET", path).status == 401


def test_draining_fails_readiness_and_still_serves_what_arrives(node: Listener, yard: Yard) -> None:
    yard.operations.begin_drain()

    assert node.ask("GET", "/readyz").status == 503
    assert node.ask("GET", "/livez").status == 200
    assert node.ask("GET", "/health").json == {"status": "ok", "ready": False}
    assert node.ask("POST", "/v1/chat/completions", READER).status == 200
    assert node.ask("GET", "/admin/status", READER).json["draining"] is True


def test_readiness_names_its_checks_to_readers(node: Listener, yard: Yard) -> None:
    assert node.ask("GET", "/readyz?verbose", READER).body == b"[+]started ok\n[+]not_draining ok\nok\n"
    assert node.ask("GET", "/readyz?verbose&exclude=started", READER).body == b"[+]not_draining ok\nok\n"
    assert node.ask("GET", "/readyz/started", READER).status == 200
    assert node.ask("GET", "/readyz/nonsense", READER).status == 404


def test_details_have_models_embeddings_and_memory(node: Listener, yard: Yard) -> None:
    yard.residency.loaded["tiny"] = False
    yard.history.sample()

    body = node.ask("GET", "/health/detailed", READER).json

    assert body["models"] == [
        {"id": "tiny", "state": "resident", "problem": None},
        {"id": "org/other:q4", "state": "absent", "problem": None},
    ]  # fmt: skip
    assert body["embedding_models_count"] == 0
    assert body["version"] == __version__
    memory = body["memory"]
    assert isinstance(memory, dict)
    assert memory["devices"][0]["reading"]["total_bytes"] == 100
    assert memory["residents"][0]["model"] == "tiny"
    assert memory["is_leak_suspected"] is False


def test_memory_has_a_history_and_this_process_in_two_kinds(node: Listener, yard: Yard) -> None:
    yard.history.sample()

    body: Any = node.ask("GET", "/health/memory", READER).json

    history = body["history"]
    assert isinstance(history, dict)
    assert [count for _age, count in history["node:ram"]] == [1_000_000]
    assert [count for _age, count in history["device:ram"]] == [40]
    assert body["node"] == {"anonymous_bytes": 1_000_000, "file_bytes": 500_000}
    assert body["trends"][0]["series"] == "node:ram"


def test_memory_shows_the_ledger_with_its_parts_and_who_holds_what_is_not_ours(node: Listener, yard: Yard) -> None:
    body: Any = node.ask("GET", "/health/memory", READER).json
    device = body["devices"][0]

    assert device["headroom_bytes"] + device["foreign_bytes"] + device["reserved_bytes"] + device["free_bytes"] == 100
    assert device["held_bytes"] == {"resident": 10, "promised": 0}
    assert device["holders"] == [{"pid": 77, "name": "game", "bytes": {"ram": 25}}]


def test_memory_has_the_last_receipts_the_newest_first(node: Listener, yard: Yard) -> None:
    for number in range(RECEIPTS_MAX):
        yard.events.publish("model.loaded", float(number), model="tiny", freed_bytes={"ram": -number})
        yard.events.publish("model.loading", float(number), model="tiny")
    yard.events.publish("model.unloaded", 99.0, model="tiny", freed_bytes={"ram": 5})

    body: Any = node.ask("GET", "/health/memory", READER).json
    receipts = body["receipts"]

    assert receipts[0] == {"event": "model.unloaded", "at": 99.0, "model": "tiny", "freed_bytes": {"ram": 5}}
    assert len(receipts) == RECEIPTS_MAX
    assert {receipt["event"] for receipt in receipts[1:]} == {"model.loaded"}

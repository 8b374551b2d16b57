"""What Ollama's clients learn about models, and what `/v1/models` tells of nodes: from memory, waking nothing."""

from __future__ import annotations

import re
from datetime import datetime

from modelyard.types.fleet import ResidentCopy
from modelyard.types.status import Residency

from .ollama_surface import node, ollama_yard, resident

STUDIO_HOLDS = ResidentCopy("llama3.1:8b", 5000, 4000, 8192, None)


def test_tags_have_one_entry_per_name_with_a_tag_and_say_where_it_is() -> None:
    with ollama_yard() as yard:
        yard.fleet.append(node("studio", "ollama", STUDIO_HOLDS))
        listed = yard.client.get("/api/tags").json()["models"]

    assert [entry["name"] for entry in listed] == [
        "gpt-x:latest",
        "llama3.1:8b",
        "ranks:latest",
        "tiny:latest",
        "vectors:latest",
    ]
    tiny = next(entry for entry in listed if entry["name"] == "tiny:latest")
    assert tiny["model"] == tiny["name"]
    assert tiny["node"] == "local"
    assert [(place["node"], place["state"]) for place in tiny["nodes"]] == [("local", "absent"), ("studio", "absent")]
    assert tiny["details"] == {
        "parent_model": "", "format": "gguf", "family": "qwen2", "families": ["qwen2"], "parameter_size": "3.2M",
        "quantization_level": "F16",
    }  # fmt: skip
    assert tiny["capabilities"] == ["completion", "tools"]
    assert re.fullmatch(r"[0-9a-f]{64}", tiny["digest"])
    assert datetime.fromisoformat(tiny["modified_at"]).timestamp() == 1_700_000_000


def test_what_is_in_memory_is_listed_per_copy_the_longest_to_stay_first() -> None:
    with ollama_yard() as yard:
        yard.residents += [resident("tiny"), resident("vectors", state=Residency.LOADING)]
        yard.fleet.append(node("studio", "ollama", STUDIO_HOLDS, ResidentCopy("tiny:latest", 9, 0, 10, 30.0)))
        running = yard.client.get("/api/ps").json()["models"]

    assert [(one["name"], one["node"], one["size"], one["size_vram"]) for one in running] == [
        ("llama3.1:8b", "studio", 5000, 4000),
        ("tiny:latest", "local", 100, 70),
        ("tiny:latest", "studio", 9, 0),
    ]
    assert running[0]["expires_at"].startswith("2300-")
    assert running[1]["context_length"] == 2048
    assert running[2]["digest"] == "ab" * 32


def test_a_node_that_shares_memory_is_told_once() -> None:
    with ollama_yard() as yard:
        yard.residents.append(resident("llama3.1:8b@studio", kind="ollama"))
        yard.fleet.append(node("studio", "ollama", STUDIO_HOLDS, shares_devices=True))
        running = yard.client.get("/api/ps").json()["models"]
        (one,) = [each for each in yard.client.get("/v1/models").json()["data"] if each["id"] == "llama3.1:8b"]

    assert [(one["name"], one["node"]) for one in running] == [("llama3.1:8b", "studio")]
    assert one["modelyard"]["nodes"][0]["state"] == "resident"


def test_openais_list_tells_who_has_a_model_its_size_its_state_and_the_age_of_that() -> None:
    with ollama_yard() as yard:
        yard.residents.append(resident("tiny"))
        yard.fleet += [node("studio", "ollama", STUDIO_HOLDS), node("cloud", "openai")]
        listed = {entry["id"]: entry["modelyard"] for entry in yard.client.get("/v1/models").json()["data"]}
        copy = yard.client.get("/v1/models/tiny@studio").json()

    assert list(listed) == ["cut", "gpt-x", "llama3.1:8b", "ranks", "tiny", "vectors"]
    assert listed["tiny"]["nodes"] == [
        {"node": "local", "state": "resident", "size_bytes": 1000, "age_s": 0.0},
        {"node": "studio", "state": "absent", "size_bytes": 2000, "age_s": 2.0},
    ]
    assert listed["tiny"]["state"] == "resident"
    assert listed["llama3.1:8b"]["nodes"][0]["state"] == "resident"
    assert listed["gpt-x"]["nodes"][0]["state"] == "unknown"
    assert (copy["id"], [place["node"] for place in copy["modelyard"]["nodes"]]) == ("tiny@studio", ["studio"])


def test_show_tells_what_is_known() -> None:
    with ollama_yard() as yard:
        shown = yard.post("/api/show", {"model": "SMALL"}).json()
        by_older_name = yard.post("/api/show", {"name": "tiny:latest"}).json()
        unknown = yard.post("/api/show", {"model": "nothing"})
        nameless = yard.post("/api/show", {})
        damaged = yard.post("/api/show", {"model": "cut"})

    assert shown == by_older_name
    assert shown["model_info"] == {
        "general.architecture": "qwen2", "general.parameter_count": 3_150_080, "qwen2.context_length": 2048,
    }  # fmt: skip
    assert shown["capabilities"] == ["completion", "tools"]
    assert (unknown.status_code, unknown.json()["error"]) == (404, 'model "nothing" not found, try pulling it first')
    assert nameless.status_code == 400
    assert damaged.status_code == 503


def test_the_version_is_one_that_clients_can_compare() -> None:
    with ollama_yard() as yard:
        answer = yard.client.get("/api/version")
        head = yard.client.head("/api/tags")

    assert re.fullmatch(r"\d+\.\d+\.\d+", answer.json()["version"])
    assert (head.status_code, head.content) == (200, b"")


def test_a_key_for_some_models_sees_no_others() -> None:
    with ollama_yard(key="narrow-key-0001", models=frozenset(("llama3.1:8b",))) as yard:
        yard.residents.append(resident("tiny"))
        yard.fleet.append(node("studio", "ollama", STUDIO_HOLDS))
        tags = yard.client.get("/api/tags").json()["models"]
        running = yard.client.get("/api/ps").json()["models"]
        shown = yard.post("/api/show", {"model": "tiny"})

    assert [entry["name"] for entry in tags] == ["llama3.1:8b"]
    assert [entry["name"] for entry in running] == ["llama3.1:8b"]
    assert shown.status_code == 404


def test_an_alias_is_no_way_round_a_key() -> None:
    with ollama_yard(key="narrow-key-0001", models=frozenset(("llama3.1:8b",))) as yard:
        answers = [
            yard.post(
                path, {"model": name, "prompt": "x", "input": "x", "messages": [{"role": "user", "content": "x"}]}
            )
            for path in ("/api/chat", "/api/generate", "/api/embed", "/api/v1/llm/chat", "/api/v1/llm/embeddings")
            for name in ("small", "tiny", "local/tiny", "tiny@studio", "vectors")
        ]

    assert {answer.status_code for answer in answers} <= {400, 403}
    assert yard.router.asked == []

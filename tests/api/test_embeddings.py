"""Vectors in every dialect: shapes, order, packing, and what is refused."""

from __future__ import annotations

import base64
import math
import struct
from typing import Any

import pytest

from .ollama_surface import ollama_yard


def test_openais_vectors_are_in_the_order_of_the_inputs() -> None:
    with ollama_yard() as yard:
        answer = yard.post("/v1/embeddings", {"model": "vectors", "input": ["a", "bbb", "cc"], "dimensions": 2})

        body = answer.json()
        assert [(one["object"], one["index"], one["embedding"]) for one in body["data"]] == [
            ("embedding", 0, [1.0, 0.0]), ("embedding", 1, [3.0, 1.0]), ("embedding", 2, [2.0, 2.0]),
        ]  # fmt: skip
        assert body["object"] == "list"
        assert body["model"] == "vectors"
        assert body["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
        assert yard.router.asked[0].dimensions == 2
        assert not yard.router.asked[0].truncate
        told = {name: answer.headers[f"x-modelyard-{name}"] for name in ("node", "model", "route", "attempts")}
        assert told == {"node": "studio", "model": "vectors", "route": "resident", "attempts": "2"}


def test_packed_vectors_are_little_endian_floats() -> None:
    with ollama_yard() as yard:
        answer = yard.post("/v1/embeddings", {"model": "vectors", "input": "abc", "encoding_format": "base64"})

        packed = base64.b64decode(answer.json()["data"][0]["embedding"])
        assert struct.unpack("<2f", packed) == (3.0, 0.0)


@pytest.mark.parametrize(
    ("given", "inputs"),
    [("ab", ("ab",)), ([1, 2], ((1, 2),)), ([[1], [2, 3]], ((1,), (2, 3))), (["a", [5]], ("a", (5,)))],
)
def test_texts_and_token_numbers_are_taken(given: Any, inputs: tuple[object, ...]) -> None:
    with ollama_yard() as yard:
        answer = yard.post("/v1/embeddings", {"model": "vectors", "input": given})

        assert answer.status_code == 200
        assert yard.router.asked[0].inputs == inputs


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": []},
        {"input": ""},
        {"input": [""]},
        {"input": [[]]},
        {"input": [1, "a"]},
        {"input": [True]},
        {"input": [-1]},
        {"input": [2**31]},
        {"input": [1.5]},
        {"input": ["a"] * 2049},
        {"input": None},
        {"input": {"a": 1}},
        {"input": "a", "dimensions": 0},
        {"input": "a", "dimensions": 1e9},
        {"input": "a", "encoding_format": "hex"},
        {},
    ],
)
def test_what_cannot_be_embedded_is_refused(wrong: dict[str, Any]) -> None:
    with ollama_yard() as yard:
        answer = yard.post("/v1/embeddings", {"model": "vectors", **wrong})

        assert answer.status_code == 400
        assert answer.json()["error"]["param"]
        assert yard.router.asked == []


def test_a_model_that_does_not_embed_says_so_in_each_dialect() -> None:
    with ollama_yard() as yard:
        openai = yard.post("/v1/embeddings", {"model": "tiny", "input": "a"})
        ollama = yard.post("/api/embed", {"model": "tiny", "input": "a"})
        ours = yard.post("/api/v1/llm/embeddings", {"model": "tiny", "input": "a"})

        assert [answer.status_code for answer in (openai, ollama, ours)] == [400] * 3
        assert openai.json()["error"]["code"] == "unsupported_capability"
        assert ollama.json()["error"] == '"tiny" does not support embeddings'
        assert ours.json()["error"]["code"] == "unsupported_capability"


def test_ollamas_vectors() -> None:
    with ollama_yard() as yard:
        several = yard.post("/api/embed", {"model": "vectors", "input": ["a", "bb"], "keep_alive": "5m"}).json()
        one = yard.post("/api/embed", {"model": "vectors", "input": "abc", "truncate": False}).json()
        older = yard.post("/api/embeddings", {"model": "vectors", "prompt": "abc"}).json()
        ours = yard.post("/api/v1/llm/embeddings", {"model": "vectors", "input": "abc"}).json()

        assert several["embeddings"] == [[1.0, 0.0], [2.0, 1.0]]
        assert (several["model"], several["prompt_eval_count"]) == ("vectors", 3)
        assert several["load_duration"] == 500_000_000
        assert isinstance(several["total_duration"], int)
        assert one["embeddings"] == [[3.0, 0.0]]
        assert older == {"embedding": [3.0, 0.0]}
        assert (ours["embeddings"], ours["node"]) == ([[3.0, 0.0]], "studio")
        assert [asked.truncate for asked in yard.router.asked] == [True, False, True, True]
        assert yard.router.asked[0].keep_alive_s == 300


def test_nothing_to_embed_loads_and_unloads() -> None:
    with ollama_yard() as yard:
        loaded = yard.post("/api/embed", {"model": "vectors"})
        empty = yard.post("/api/embeddings", {"model": "vectors", "prompt": ""})
        unloaded = yard.post("/api/embed", {"model": "vectors", "input": [], "keep_alive": 0})

        assert (loaded.json()["embeddings"], empty.json(), unloaded.status_code) == ([], {"embedding": []}, 200)
        assert [act for act, _model in yard.standby.asked] == ["load", "load", "unload"]
        assert yard.router.asked == []


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_an_error_and_no_null(number: float) -> None:
    with ollama_yard() as yard:
        yard.router.spoil = lambda vectors: vectors[0].append(number)
        answer = yard.post("/v1/embeddings", {"model": "vectors", "input": "a"})

        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_invalid_response")


def test_a_vector_too_few_is_an_error() -> None:
    with ollama_yard() as yard:
        yard.router.spoil = list[list[float]].clear
        answer = yard.post("/v1/embeddings", {"model": "vectors", "input": ["a", "b"]})

        assert answer.status_code == 502

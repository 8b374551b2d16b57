"""What every engine that embeds must do, with a real model: meaning, order, shapes, tokens, limits."""

from __future__ import annotations

import base64
import math
import struct
from itertools import pairwise
from operator import mul
from typing import Any

import httpx2
import pytest

from tests.support.minilm import WIDTH

from .conftest import CHAT, EMBEDDERS

ALIKE = (
    ("A man is eating pasta.", "A man eats a plate of pasta."),
    ("How do I reset my password?", "I forgot my password, how can I change it?"),
    ("The children play football in the park.", "Kids are playing soccer outside."),
    ("The stock market fell sharply today.", "Shares dropped a lot this morning."),
    ("The movie was boring.", "I found the film dull."),
)
UNLIKE = (
    ("The cat sleeps on the sofa.", "Interest rates were raised again."),
    ("It is raining in London.", "My laptop needs a new battery."),
    ("The chef cooks rice.", "The train to Madrid is delayed."),
    ("He plays the violin.", "The committee approved the budget."),
    ("Photosynthesis happens in leaves.", "She parked the car on the wrong side."),
)


def embed(http: httpx2.Client, model: str, given: Any, **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/embeddings", json={"model": model, "input": given, **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def vectors(http: httpx2.Client, model: str, given: Any, **fields: Any) -> list[list[float]]:
    return [one["embedding"] for one in embed(http, model, given, **fields)["data"]]


def alike(one: list[float], other: list[float]) -> float:
    return float(sum(map(mul, one, other))) / (math.hypot(*one) * math.hypot(*other))


def refused(http: httpx2.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = http.post(path, json=body)
    assert answer.status_code == 400, answer.text
    return dict(answer.json()["error"])


def test_ten_pairs_are_ordered_by_their_meaning(http: httpx2.Client, embedder: str) -> None:
    pairs = (*ALIKE, *UNLIKE)
    found = vectors(http, embedder, [text for pair in pairs for text in pair])

    scores = [alike(one, other) for one, other in zip(found[::2], found[1::2], strict=True)]
    assert min(scores[: len(ALIKE)]) > max(scores[len(ALIKE) :]) + 0.2, scores
    for at in range(0, 2 * len(ALIKE), 2):
        others = [place for place in range(len(found)) if place != at]
        assert max(others, key=lambda place: alike(found[at], found[place])) == at + 1


def test_every_engine_gives_the_same_vectors(http: httpx2.Client) -> None:
    texts = ["The cat sits outside", "A man is playing guitar", "café naïve 東京", "x"]
    found = [vectors(http, model, texts) for model in EMBEDDERS]

    for one, other in pairwise(found):
        assert all(alike(left, right) > 0.999 for left, right in zip(one, other, strict=True))


def test_a_text_has_one_vector_wherever_it_stands(http: httpx2.Client, embedder: str) -> None:
    texts = ["a", "a much longer text than the others, so that it is padded otherwise", "b", "a"]
    together = vectors(http, embedder, texts)
    alone = [vectors(http, embedder, text)[0] for text in texts]

    assert all(len(vector) == WIDTH for vector in together)
    assert together[0] == pytest.approx(together[3], abs=1e-5)
    for one, other in zip(together, alone, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_packed_vectors_are_the_same_numbers(http: httpx2.Client, embedder: str) -> None:
    plain = vectors(http, embedder, "the same text")[0]
    packed = embed(http, embedder, "the same text", encoding_format="base64")["data"][0]["embedding"]

    assert struct.unpack(f"<{WIDTH}f", base64.b64decode(packed)) == pytest.approx(plain, abs=1e-6)


def test_tokens_are_counted_and_may_be_given(http: httpx2.Client, embedder: str) -> None:
    cls, the, cat, sep = 101, 1996, 4937, 102
    text = embed(http, embedder, "the cat")
    several = embed(http, embedder, ["the cat", "the"])
    tokens = embed(http, embedder, [[cls, the, cat, sep], [cls, the, sep]])
    alone = embed(http, embedder, [cls, the, cat, sep])

    assert text["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert several["usage"] == tokens["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert tokens["data"][0]["embedding"] == pytest.approx(text["data"][0]["embedding"], abs=1e-4)
    assert alone["data"][0]["embedding"] == pytest.approx(text["data"][0]["embedding"], abs=1e-4)


def test_a_token_that_is_none_is_refused(http: httpx2.Client, embedder: str) -> None:
    assert "token" in refused(http, "/v1/embeddings", {"model": embedder, "input": [101, 999_999, 102]})["message"]


def test_a_shorter_vector_is_the_beginning_at_length_one(http: httpx2.Client, embedder: str) -> None:
    whole, part = vectors(http, embedder, "text")[0], vectors(http, embedder, "text", dimensions=64)[0]

    assert len(part) == 64
    assert math.hypot(*part) == pytest.approx(1, abs=1e-4)
    assert alike(part, whole[:64]) == pytest.approx(1, abs=1e-4)
    error = refused(http, "/v1/embeddings", {"model": embedder, "input": "text", "dimensions": WIDTH + 1})
    assert error["param"] == "dimensions"
    assert str(WIDTH) in error["message"]


def test_too_long_a_text_is_refused_with_counts_or_cut(http: httpx2.Client, embedder: str) -> None:
    long = "word " * 600
    error = refused(http, "/v1/embeddings", {"model": embedder, "input": ["short", long]})
    cut = http.post("/api/embed", json={"model": embedder, "input": ["short", long]})
    strict = http.post("/api/embed", json={"model": embedder, "input": long, "truncate": False})

    assert (error["code"], error["param"]) == ("context_length_exceeded", "input[1]")
    assert "602" in error["message"]
    assert cut.status_code == 200, cut.text
    assert [len(vector) for vector in cut.json()["embeddings"]] == [WIDTH, WIDTH]
    assert cut.json()["prompt_eval_count"] <= 3 + 512
    assert strict.status_code == 400


def test_an_empty_text_is_refused_and_ten_thousand_inputs_are(http: httpx2.Client, embedder: str) -> None:
    assert refused(http, "/v1/embeddings", {"model": embedder, "input": ["a", ""]})["param"] == "input[1]"
    assert "2048" in refused(http, "/v1/embeddings", {"model": embedder, "input": ["a"] * 10_000})["message"]


def test_a_model_is_asked_only_for_what_it_can(http: httpx2.Client, embedder: str, reranker: str) -> None:
    hello = [{"role": "user", "content": "hello"}]
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/embeddings", {"model": CHAT, "input": "a"}, "embed"),
        ("/v1/embeddings", {"model": reranker, "input": "a"}, "embed"),
        ("/v1/rerank", {"model": CHAT, "query": "a", "documents": ["b"]}, "rerank"),
        ("/v1/rerank", {"model": embedder, "query": "a", "documents": ["b"]}, "rerank"),
        ("/v1/chat/completions", {"model": embedder, "messages": hello}, "chat"),
        ("/v1/chat/completions", {"model": reranker, "messages": hello}, "chat"),
        ("/v1/completions", {"model": embedder, "prompt": "a"}, "completion"),
    ]  # fmt: skip

    for path, body, capability in wrong:
        error = refused(http, path, body)
        assert error["code"] == "unsupported_capability"
        assert capability in error["message"]


def test_ollamas_ways_give_the_same_vector(http: httpx2.Client, embedder: str) -> None:
    openai = vectors(http, embedder, "the cat")[0]
    newer = http.post("/api/embed", json={"model": embedder, "input": "the cat"}).json()
    older = http.post("/api/embeddings", json={"model": embedder, "prompt": "the cat"}).json()

    assert newer["embeddings"][0] == pytest.approx(openai, abs=1e-4)
    assert newer["prompt_eval_count"] == 4
    assert older["embedding"] == pytest.approx(openai, abs=1e-4)

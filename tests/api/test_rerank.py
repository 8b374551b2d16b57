"""POST /v1/rerank: what is taken, in which order it is answered, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from .ollama_surface import ollama_yard


def test_documents_come_back_best_first_with_their_numbers() -> None:
    with ollama_yard() as yard:
        documents = ["aa", {"text": "aaaa"}, "a", "bb"]
        answer = yard.post("/v1/rerank", {"model": "ranks", "query": "q", "documents": documents, "keep_alive": "5m"})

        assert answer.json()["results"] == [
            {"index": 1, "relevance_score": 4.0}, {"index": 0, "relevance_score": 2.0},
            {"index": 3, "relevance_score": 2.0}, {"index": 2, "relevance_score": 1.0},
        ]  # fmt: skip
        assert answer.json()["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
        assert answer.headers["x-modelyard-node"] == "studio"
        assert yard.router.ranked[0].documents == ("aa", "aaaa", "a", "bb")
        assert yard.router.ranked[0].keep_alive_s == 300


def test_the_best_few_come_with_their_texts_where_that_is_asked_for() -> None:
    with ollama_yard() as yard:
        body = {"model": "ranks", "query": "q", "documents": ["a", "ccc"], "top_n": 1, "return_documents": True}
        answer = yard.post("/v1/rerank", body)

        assert answer.json()["results"] == [{"index": 1, "relevance_score": 3.0, "document": {"text": "ccc"}}]


@pytest.mark.parametrize(
    "wrong",
    [
        {"documents": []},
        {"documents": ["a"] * 2049},
        {"documents": ["a", ""]},
        {"documents": [{"title": "a"}]},
        {"documents": [1]},
        {"documents": "a"},
        {"documents": ["a"], "query": ""},
        {"documents": ["a"], "query": None},
        {"documents": ["a"], "top_n": 0},
        {},
    ],
)
def test_what_cannot_be_ordered_is_refused(wrong: dict[str, Any]) -> None:
    with ollama_yard() as yard:
        answer = yard.post("/v1/rerank", {"model": "ranks", "query": "q", **wrong})

        assert answer.status_code == 400
        assert answer.json()["error"]["param"]
        assert yard.router.ranked == []


def test_a_model_that_does_not_rank_says_so() -> None:
    with ollama_yard() as yard:
        for model in ("tiny", "vectors"):
            answer = yard.post("/v1/rerank", {"model": model, "query": "q", "documents": ["a"]})

            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_capability")
            assert "rerank" in answer.json()["error"]["message"]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_an_error(number: float) -> None:
    with ollama_yard() as yard:
        yard.router.spoil_scores = lambda scores: scores.__setitem__(0, number)
        answer = yard.post("/v1/rerank", {"model": "ranks", "query": "q", "documents": ["a", "b"]})

        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_invalid_response")

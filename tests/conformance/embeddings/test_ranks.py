"""What every engine that orders texts must do: scores, order, shapes, and a model without a head."""

from __future__ import annotations

from typing import Any

import httpx2

DOCUMENTS = ["The cat sleeps.", "Stocks fell.", "A man plays guitar.", "Rain in London."]


def rank(http: httpx2.Client, model: str, documents: list[Any], **fields: Any) -> dict[str, Any]:
    answer = http.post("/v1/rerank", json={"model": model, "query": "music", "documents": documents, **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_the_best_comes_first_and_keeps_its_number(http: httpx2.Client, reranker: str) -> None:
    found = rank(http, reranker, DOCUMENTS)

    scores = [one["relevance_score"] for one in found["results"]]
    assert sorted(scores, reverse=True) == scores
    assert len(set(scores)) == len(DOCUMENTS)
    assert sorted(one["index"] for one in found["results"]) == [0, 1, 2, 3]
    assert found["model"] == reranker
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] > len(DOCUMENTS) * 4


def test_a_score_is_that_of_the_document_alone(http: httpx2.Client, reranker: str) -> None:
    together = {one["index"]: one["relevance_score"] for one in rank(http, reranker, DOCUMENTS)["results"]}

    for at, document in enumerate(DOCUMENTS):
        alone = rank(http, reranker, [document])["results"][0]["relevance_score"]
        assert abs(alone - together[at]) < 1e-3


def test_as_many_as_wanted_come_with_their_texts(http: httpx2.Client, reranker: str) -> None:
    objects = [{"text": text, "id": at} for at, text in enumerate(DOCUMENTS)]
    found = rank(http, reranker, objects, top_n=2, return_documents=True)["results"]
    whole = rank(http, reranker, DOCUMENTS)["results"]

    assert [one["index"] for one in found] == [one["index"] for one in whole[:2]]
    assert [one["document"]["text"] for one in found] == [DOCUMENTS[one["index"]] for one in found]
    assert "document" not in whole[0]


def test_too_long_a_document_is_refused(http: httpx2.Client, reranker: str) -> None:
    answer = http.post("/v1/rerank", json={"model": reranker, "query": "a", "documents": ["word " * 600]})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


def test_a_model_that_says_it_ranks_and_has_no_head_is_not_served(http: httpx2.Client) -> None:
    answer = http.post("/v1/rerank", json={"model": "headless-gguf", "query": "a", "documents": ["b"]})

    assert answer.status_code >= 400
    assert "head" in answer.json()["error"]["message"]

"""Questions for vectors and scores in OpenAI's and Jina's words, as our workers and other servers read them. Pure.

Workers are asked for packed numbers: 32 bits each, the lowest byte first, which is what they computed.
"""

from __future__ import annotations

import base64
import binascii
import sys
from array import array
from collections.abc import Sequence

import msgspec
import orjson

from modelyard.errors import N_, UpstreamInvalid
from modelyard.types.embeddings import EmbedAnswer, Input, RerankAnswer

from .told import Tokens

EMBED_PATH, RERANK_PATH = "/v1/embeddings", "/v1/rerank"


class _Vector(msgspec.Struct):
    index: int
    embedding: str


class _Count(msgspec.Struct):
    prompt_tokens: Tokens = 0
    total_tokens: Tokens = 0


class _Embeddings(msgspec.Struct):
    data: list[_Vector]
    usage: _Count
    counts: list[int] | None = None  # of each input; our own workers tell them


class _Score(msgspec.Struct):
    index: int
    relevance_score: float | None


class _Scores(msgspec.Struct):
    results: list[_Score]
    usage: _Count | None = None


def encode_embed(inputs: Sequence[Input], *, truncate: bool) -> bytes:
    """One question of a worker."""
    return orjson.dumps({"model": "model", "input": inputs, "encoding_format": "base64", "truncate": truncate})


def decode_embed(source: str, raw: bytes, count: int) -> EmbedAnswer:
    """Its answer: as many vectors as were asked for, in their order."""
    try:
        told = msgspec.json.decode(raw, type=_Embeddings)
        ordered = sorted(told.data, key=lambda one: one.index)
        vectors = tuple(unpacked(one.embedding) for one in ordered)
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, ValueError, RecursionError) as exc:
        raise UpstreamInvalid(provider=source, problem=N_("its vectors cannot be read")) from exc
    if [one.index for one in ordered] != [*range(count)]:
        raise UpstreamInvalid(provider=source, problem=N_("it sent another number of vectors than it was asked for"))
    total = told.usage.prompt_tokens
    counts = tuple(told.counts) if told.counts is not None else (total,) if count == 1 else ()
    if counts and (len(counts) != count or sum(counts) != total):
        raise UpstreamInvalid(provider=source, problem=N_("the tokens of its inputs do not add up"))
    return EmbedAnswer(vectors, total, counts)


def encode_rerank(model: str, query: str, documents: Sequence[str]) -> bytes:
    """One question, in the words that Jina, Cohere, llama.cpp and vLLM share."""
    return orjson.dumps({"model": model, "query": query, "documents": documents, "top_n": len(documents)})


def decode_rerank(source: str, raw: bytes, count: int) -> RerankAnswer:
    """Its answer: a score for each document. A model without a head for ranks gives none."""
    try:
        told = msgspec.json.decode(raw, type=_Scores)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UpstreamInvalid(provider=source, problem=N_("its scores cannot be read")) from exc
    ordered = sorted(told.results, key=lambda one: one.index)
    if [one.index for one in ordered] != [*range(count)]:
        raise UpstreamInvalid(provider=source, problem=N_("it sent another number of scores than it was asked for"))
    scores = tuple(one.relevance_score for one in ordered if one.relevance_score is not None)
    if len(scores) != count:
        raise UpstreamInvalid(provider=source, problem=N_("a score is missing: the model has no head that ranks"))
    usage = told.usage
    return RerankAnswer(scores, max(usage.prompt_tokens, usage.total_tokens) if usage is not None else 0)


def unpacked(text: str) -> array[float]:
    """Numbers as OpenAI packs them.

    >>> unpacked("AACAPwAAAEA=")
    array('f', [1.0, 2.0])
    """
    numbers = array("f", base64.b64decode(text, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers

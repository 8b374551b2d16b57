"""Our own paths to models, embeddings and rerank in the OpenAPI document: the shapes of bodies and answers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from .embedding_bodies import EmbeddingsBody
from .ollama_body import CallBody, OllamaChatBody, OllamaEmbedBody, OllamaGenerateBody
from .rerank import RerankBody

REFERENCE = "#/components/schemas/{name}"


class _Answer(msgspec.Struct, kw_only=True):
    model: str
    node: str | None = None  # who answered; of a stream its last line tells
    total_duration: int | None = None  # nanoseconds; this and what follows is left out where it is 0 or unknown
    load_duration: int | None = None
    prompt_eval_count: int | None = None  # tokens


class _Timed(_Answer, kw_only=True):
    created_at: str
    done: bool
    done_reason: str | None = None  # stop, length, content_filter, load, unload
    prompt_eval_duration: int | None = None
    eval_count: int | None = None
    eval_duration: int | None = None
    logprobs: list[dict[str, Any]] | None = None
    modelyard: dict[str, Any] | None = None  # what was given up so that there is an answer


class LlmMessage(msgspec.Struct):
    """What the model said."""

    role: str
    content: str
    thinking: str | None = None
    tool_calls: list[CallBody] | None = None


class LlmChat(_Timed, kw_only=True):
    """The answer to a chat; one line of a stream has the same shape."""

    message: LlmMessage


class LlmText(_Timed, kw_only=True):
    """The answer to a prompt; one line of a stream has the same shape."""

    response: str
    thinking: str | None = None


class LlmEmbeddings(_Answer, kw_only=True):
    """One vector per input, in their order."""

    embeddings: list[list[float]]


class Tokens(msgspec.Struct):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingData(msgspec.Struct):
    """One vector, as numbers or packed as base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(msgspec.Struct, kw_only=True):
    """One vector per input, in their order, in OpenAI's words."""

    object: Literal["list"]
    data: list[EmbeddingData]
    model: str
    usage: Tokens
    modelyard: dict[str, Any] | None = None


class RankedDocument(msgspec.Struct):
    """What was asked about."""

    text: str


class Ranked(msgspec.Struct, kw_only=True):
    """One document: its place among those that were given, and how well it answers."""

    index: int
    relevance_score: float
    document: RankedDocument | None = None


class Reranked(msgspec.Struct, kw_only=True):
    """Documents, the best first."""

    object: Literal["list"]
    model: str
    results: list[Ranked]
    usage: Tokens
    modelyard: dict[str, Any] | None = None


class LlmErrorDetail(msgspec.Struct):
    """What is wrong and what to do about it."""

    message: str
    type: str
    code: str
    param: str | None
    backend: str | None
    suggestions: list[str]
    request_id: str


class LlmError(msgspec.Struct):
    """An error, as a whole answer or as the last line of a stream."""

    error: LlmErrorDetail


_PATHS: tuple[tuple[str, str, type, type], ...] = (
    ("/api/v1/llm/generate", "Answer or continue a text, where the model is.", OllamaGenerateBody, LlmText),
    ("/api/v1/llm/chat", "Answer a chat, where the model is.", OllamaChatBody, LlmChat),
    ("/v1/embeddings", "Embed texts, in OpenAI's words.", EmbeddingsBody, Embeddings),
    ("/v1/rerank", "Order documents, by how well they answer a query.", RerankBody, Reranked),
    ("/api/v1/llm/embeddings", "Turn texts into vectors, where the model is.", OllamaEmbedBody, LlmEmbeddings),
)  # fmt: skip


def described(document: dict[str, Any]) -> dict[str, Any]:
    """The document with our own paths to models in it."""
    shapes = [shape for _path, _summary, *both in _PATHS for shape in both]
    _schemas, components = msgspec.json.schema_components([*shapes, LlmError], ref_template=REFERENCE)
    paths = {path: {"post": _operation(summary, asked, answer)} for path, summary, asked, answer in _PATHS}
    known = document.get("components", {})
    return {
        **document,
        "paths": {**document.get("paths", {}), **paths},
        "components": {**known, "schemas": {**known.get("schemas", {}), **components}},
    }


def _operation(summary: str, asked: type, answer: type) -> dict[str, Any]:
    whole: dict[str, Any] = {"application/json": {"schema": _of(answer)}}
    if issubclass(answer, _Timed):
        whole["application/x-ndjson"] = {"schema": _of(answer)}
    return {
        "summary": summary,
        "operationId": summary.partition(",")[0].lower().replace(" ", "_"),
        "requestBody": {"required": True, "content": {"application/json": {"schema": _of(asked)}}},
        "responses": {
            "200": {"description": "The answer; as lines of JSON with `stream`.", "content": whole},
            "default": {"description": "An error.", "content": {"application/json": {"schema": _of(LlmError)}}},
        },
    }


def _of(shape: type) -> dict[str, str]:
    return {"$ref": REFERENCE.format(name=shape.__name__)}

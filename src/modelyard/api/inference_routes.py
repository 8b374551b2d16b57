"""The routes that ask models, and those about them: OpenAI's, Ollama's and our own. Each line says what it asks for."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.routing import Route

from modelyard.gateway.keys import Right

from .ollama_models import version
from .ollama_store import not_built
from .problems import Dialect
from .security import Endpoint, Guard
from .table import MODEL_RIGHTS


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceEndpoints:
    """What the data plane hands in."""

    chat_completions: Endpoint
    completions: Endpoint
    embeddings: Endpoint
    rerank: Endpoint
    models: Endpoint
    model: Endpoint
    ollama_chat: Endpoint
    ollama_generate: Endpoint
    ollama_embed: Endpoint
    ollama_embeddings: Endpoint
    ollama_tags: Endpoint
    ollama_ps: Endpoint
    ollama_show: Endpoint
    ollama_pull: Endpoint
    ollama_delete: Endpoint
    ollama_copy: Endpoint
    llm_chat: Endpoint
    llm_generate: Endpoint
    llm_embeddings: Endpoint


def inference_routes(guard: Guard, inference: InferenceEndpoints) -> list[Route]:
    """The table of what is served to who asks models."""

    def asks(path: str, endpoint: Endpoint, dialect: Dialect = Dialect.OPENAI) -> Route:
        return guard.secured(path, endpoint, ("POST",), Right.INFER, limited=True, dialect=dialect)

    return [
        asks("/v1/chat/completions", inference.chat_completions),
        asks("/v1/completions", inference.completions),
        asks("/v1/embeddings", inference.embeddings),
        asks("/v1/rerank", inference.rerank),
        guard.secured("/v1/models", inference.models, ("GET",), MODEL_RIGHTS),
        guard.secured("/v1/models/{id:path}", inference.model, ("GET",), MODEL_RIGHTS),
        asks("/api/chat", inference.ollama_chat, Dialect.OLLAMA),
        asks("/api/generate", inference.ollama_generate, Dialect.OLLAMA),
        asks("/api/embed", inference.ollama_embed, Dialect.OLLAMA),
        asks("/api/embeddings", inference.ollama_embeddings, Dialect.OLLAMA),
        *_ollama_models(guard, inference),
        asks("/api/v1/llm/chat", inference.llm_chat),
        asks("/api/v1/llm/generate", inference.llm_generate),
        asks("/api/v1/llm/embeddings", inference.llm_embeddings),
    ]


def _ollama_models(guard: Guard, inference: InferenceEndpoints) -> list[Route]:
    def about(path: str, endpoint: Endpoint, method: str) -> Route:
        return guard.secured(path, endpoint, (method,), MODEL_RIGHTS, dialect=Dialect.OLLAMA)

    def acts(path: str, endpoint: Endpoint, *methods: str) -> Route:
        return guard.secured(path, endpoint, methods, Right.ADMIN, dialect=Dialect.OLLAMA)

    return [
        about("/api/version", version, "GET"),
        about("/api/tags", inference.ollama_tags, "GET"),
        about("/api/ps", inference.ollama_ps, "GET"),
        about("/api/show", inference.ollama_show, "POST"),
        acts("/api/pull", inference.ollama_pull, "POST"),
        acts("/api/delete", inference.ollama_delete, "DELETE"),
        acts("/api/copy", inference.ollama_copy, "POST"),
        acts("/api/push", not_built, "POST"),
        acts("/api/create", not_built, "POST"),
        acts("/api/blobs/{digest:path}", not_built, "HEAD", "POST"),
    ]

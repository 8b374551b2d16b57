"""Vectors for texts, asked for in OpenAI's way, in Ollama's two and in our own. Reads, asks and writes."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from modelyard.gateway.keys import Caller
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import InferenceRequest
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, Vector

from .embedding_bodies import EmbedAsked, read_embeddings, read_ollama_embed, read_ollama_embeddings
from .exchange import Exchange, Surface
from .frames import note_of
from .ollama import Standby
from .ollama_answer import NANO
from .problems import Dialect


class Embeds(Protocol):
    """Who embeds."""

    async def embed(self, caller: Caller, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer: ...


Vectors = Callable[[Caller, EmbedRequest, Ticket], Awaitable[EmbedAnswer]]
Write = Callable[[EmbedAsked, EmbedAnswer, Ticket, float], dict[str, object]]


@dataclass(frozen=True, slots=True)
class EmbedFormat:
    """One way to ask for vectors and to get them; `write` is told how long it took, in seconds."""

    route: str
    read: Callable[[bytes], EmbedAsked]
    write: Write
    dialect: Dialect = Dialect.OPENAI
    is_plain_read: bool = False


def _openai(asked: EmbedAsked, answer: EmbedAnswer, _ticket: Ticket, _took_s: float) -> dict[str, object]:
    is_text = asked.encoding == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if is_text else list(vector)}
        for index, vector in enumerate(answer.vectors)
    ]
    usage = {"prompt_tokens": answer.input_tokens, "total_tokens": answer.input_tokens}
    return {"object": "list", "data": data, "model": asked.request.model, "usage": usage}


def _ollama(asked: EmbedAsked, answer: EmbedAnswer, ticket: Ticket, took_s: float) -> dict[str, object]:
    figures = {
        "total_duration": round(took_s * NANO),
        "load_duration": round((ticket.load_s or 0) * NANO),
        "prompt_eval_count": answer.input_tokens,
    }
    told = {name: value for name, value in figures.items() if value > 0}
    return {"model": asked.request.model, "embeddings": [list(vector) for vector in answer.vectors], **told}


def _legacy(_asked: EmbedAsked, answer: EmbedAnswer, _ticket: Ticket, _took_s: float) -> dict[str, object]:
    return {"embedding": list(answer.vectors[0]) if answer.vectors else []}


def _llm(asked: EmbedAsked, answer: EmbedAnswer, ticket: Ticket, took_s: float) -> dict[str, object]:
    return _ollama(asked, answer, ticket, took_s) | {"node": ticket.provider}


OPENAI = EmbedFormat("/v1/embeddings", read_embeddings, _openai)
OLLAMA = EmbedFormat("/api/embed", read_ollama_embed, _ollama, Dialect.OLLAMA, is_plain_read=True)
LEGACY = EmbedFormat("/api/embeddings", read_ollama_embeddings, _legacy, Dialect.OLLAMA, is_plain_read=True)
LLM = EmbedFormat("/api/v1/llm/embeddings", read_ollama_embed, _llm)


class EmbeddingEndpoints:
    """The endpoints of one node."""

    def __init__(self, surface: Surface, embeds: Embeds, standby: Standby) -> None:
        self._surface, self._embeds, self._standby = surface, embeds, standby

    async def openai(self, request: Request, caller: Caller) -> Response:
        """POST /v1/embeddings."""
        return self._answer(OPENAI, request, caller)

    async def ollama(self, request: Request, caller: Caller) -> Response:
        """POST /api/embed."""
        return self._answer(OLLAMA, request, caller)

    async def legacy(self, request: Request, caller: Caller) -> Response:
        """POST /api/embeddings."""
        return self._answer(LEGACY, request, caller)

    async def llm(self, request: Request, caller: Caller) -> Response:
        """POST /api/v1/llm/embeddings."""
        return self._answer(LLM, request, caller)

    def _answer(self, format: EmbedFormat, request: Request, caller: Caller) -> Response:
        return Embedding(self._surface, self._vectors, format, request, caller)

    async def _vectors(self, caller: Caller, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        """The vectors. Nothing to embed is how Ollama's clients load and unload."""
        if request.inputs:
            return await self._embeds.embed(caller, request, ticket)
        act = self._standby.unload if request.keep_alive_s == 0 else self._standby.load
        await act(caller, InferenceRequest(request.model, keep_alive_s=request.keep_alive_s), ticket)
        return EmbedAnswer((), 0)


class Embedding(Exchange):
    """One request for vectors."""

    def __init__(
        self, surface: Surface, vectors: Vectors, format: EmbedFormat, request: Request, caller: Caller
    ) -> None:
        super().__init__(
            surface, request, caller,
            route=format.route, dialect=format.dialect, is_plain_read=format.is_plain_read,
        )  # fmt: skip
        self._vectors, self._format = vectors, format

    def _read(self, data: bytes) -> Callable[[Ticket, Send], Awaitable[None]]:
        asked = self._format.read(data)
        if not asked.request.model:
            asked = replace(asked, request=replace(asked.request, model=self._surface.default_name()))

        async def answer(ticket: Ticket, send: Send) -> None:
            found = await self._vectors(self._caller, asked.request, ticket)
            took_s = self._surface.clock.monotonic() - ticket.started_at
            body = self._format.write(asked, found, ticket, took_s)
            if note := note_of(ticket):
                body["modelyard"] = orjson.Fragment(note)
            await self._send_whole(orjson.dumps(body), ticket, send)

        return answer


def _packed(vector: Vector) -> str:
    """The numbers as OpenAI packs them: 32 bits each, the lowest byte first.

    >>> _packed([1.0])
    'AACAPw=='
    """
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode("ascii")

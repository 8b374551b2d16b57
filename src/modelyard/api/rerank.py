"""Documents ordered by how well they answer a query: POST /v1/rerank, in the words that Jina, Cohere and vLLM share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Protocol

import msgspec
import orjson
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from modelyard.errors import N_, said
from modelyard.gateway.keys import Caller
from modelyard.providers.ticket import Ticket
from modelyard.types.embeddings import RerankAnswer, RerankRequest

from .bodies import decode_body, invalid
from .exchange import Exchange, Surface
from .frames import note_of
from .ollama_body import INPUTS_MAX, ModelName
from .openai_codec import keep_alive_s

ROUTE = "/v1/rerank"


class Reranks(Protocol):
    """Who orders."""

    async def rerank(self, caller: Caller, request: RerankRequest, ticket: Ticket) -> RerankAnswer: ...


class RerankBody(msgspec.Struct, kw_only=True):
    """POST /v1/rerank."""

    query: Annotated[str, Meta(min_length=1)]
    documents: list[Any]
    model: ModelName = ""
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None
    keep_alive: str | float | None = None


@dataclass(frozen=True, slots=True)
class RerankAsked:
    """What is wanted, and how its answer is to be written."""

    request: RerankRequest
    top_n: int | None = None
    returns_documents: bool = False


_rerank = msgspec.json.Decoder(RerankBody)


def read_rerank(data: bytes) -> RerankAsked:
    """The body: documents are texts, or objects with a `text`."""
    body = decode_body(data, _rerank)
    if not body.documents or len(body.documents) > INPUTS_MAX:
        raise invalid("documents", said("1 to {inputs_max} documents are expected", inputs_max=INPUTS_MAX))
    texts = tuple(_text(one, at) for at, one in enumerate(body.documents))
    request = RerankRequest(body.model, body.query, texts, keep_alive_s(body.keep_alive))
    return RerankAsked(request, body.top_n, body.return_documents is True)


def _text(document: object, at: int) -> str:
    text = document.get("text") if isinstance(document, dict) else document
    if not isinstance(text, str) or not text:
        raise invalid(f"documents[{at}]", N_("a text that is not empty, or an object with a text, is expected"))
    return text


def write_rerank(asked: RerankAsked, answer: RerankAnswer) -> dict[str, object]:
    """The best first; of equals the one that was given first."""
    order = sorted(range(len(answer.scores)), key=lambda at: -answer.scores[at])
    results: list[dict[str, object]] = [
        {"index": at, "relevance_score": answer.scores[at]} for at in order[: asked.top_n]
    ]
    if asked.returns_documents:
        for one, at in zip(results, order, strict=False):
            one["document"] = {"text": asked.request.documents[at]}
    usage = {"prompt_tokens": answer.input_tokens, "total_tokens": answer.input_tokens}
    return {"object": "list", "model": asked.request.model, "results": results, "usage": usage}


class RerankEndpoints:
    """The endpoint of one node."""

    def __init__(self, surface: Surface, reranks: Reranks) -> None:
        self._surface, self._reranks = surface, reranks

    async def rerank(self, request: Request, caller: Caller) -> Response:
        """POST /v1/rerank."""
        return Reranking(self._surface, self._reranks, request, caller)


class Reranking(Exchange):
    """One request for an order."""

    def __init__(self, surface: Surface, reranks: Reranks, request: Request, caller: Caller) -> None:
        super().__init__(surface, request, caller, route=ROUTE)
        self._reranks = reranks

    def _read(self, data: bytes) -> Callable[[Ticket, Send], Awaitable[None]]:
        asked = read_rerank(data)
        if not asked.request.model:
            asked = replace(asked, request=replace(asked.request, model=self._surface.default_name()))

        async def answer(ticket: Ticket, send: Send) -> None:
            found = await self._reranks.rerank(self._caller, asked.request, ticket)
            body = write_rerank(asked, found)
            if note := note_of(ticket):
                body["modelyard"] = orjson.Fragment(note)
            await self._send_whole(orjson.dumps(body), ticket, send)

        return answer

"""A router without a choice: the first model, asked of one provider."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from modelyard.providers.base import ChunkStream, Provider
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import InferenceRequest
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, RerankAnswer, RerankRequest
from modelyard.types.model import Candidates


class OnlyHere:
    """Implements what the gateway needs of a router."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    def answer(
        self, candidates: Candidates, request: InferenceRequest, ticket: Ticket
    ) -> AbstractAsyncContextManager[ChunkStream]:
        return self.provider.answer(candidates.models[0], request, ticket)

    async def embed(self, candidates: Candidates, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        ticket.provider = self.provider.name
        vectors = tuple([float(len(text)), 0.0] for text in request.inputs)
        return EmbedAnswer(vectors, input_tokens=sum(len(text) for text in request.inputs))

    async def rerank(self, candidates: Candidates, request: RerankRequest, ticket: Ticket) -> RerankAnswer:
        ticket.provider = self.provider.name
        return RerankAnswer(tuple(float(len(text)) for text in request.documents), 1)

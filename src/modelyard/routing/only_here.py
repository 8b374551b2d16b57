"""The router of a server that knows no other node: its own workers answer."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from modelyard.providers.base import ChunkStream, NodeProvider
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import InferenceRequest
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, RerankAnswer, RerankRequest
from modelyard.types.model import Candidates

ONLY = "only"  # why this node answers: there is no other


class OnlyHere:
    """Asks the only one there is."""

    def __init__(self, local: NodeProvider) -> None:
        self._local = local

    def answer(
        self, candidates: Candidates, request: InferenceRequest, ticket: Ticket
    ) -> AbstractAsyncContextManager[ChunkStream]:
        """The answer of this node."""
        ticket.attempts, ticket.why = ticket.attempts + 1, ONLY
        return self._local.answer(candidates.models[0], request, ticket)

    async def embed(self, candidates: Candidates, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        """The vectors of this node."""
        ticket.attempts, ticket.why = ticket.attempts + 1, ONLY
        return await self._local.embed(candidates.models[0], request, ticket)

    async def rerank(self, candidates: Candidates, request: RerankRequest, ticket: Ticket) -> RerankAnswer:
        """The scores of this node."""
        ticket.attempts, ticket.why = ticket.attempts + 1, ONLY
        return await self._local.rerank(candidates.models[0], request, ticket)

"""A node as a provider whose prompts keep our limits. Nodes have no tokenizer to ask: what counts is an estimate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from modelyard.types.chat import InferenceRequest
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, RerankAnswer, RerankRequest
from modelyard.types.model import Model

from .base import ChunkStream, NodeProvider
from .fitting import NO_LIMITS, LimitsOf, NoCounter, fitted
from .ticket import Ticket


class LimitedProvider:
    """Wraps the provider of one node."""

    def __init__(self, node: NodeProvider, limits_of: LimitsOf) -> None:
        self.name = node.name
        self._node, self._limits_of = node, limits_of

    def answer(
        self, model: Model, request: InferenceRequest, ticket: Ticket
    ) -> AbstractAsyncContextManager[ChunkStream]:
        """The node's answer to what is within the limits."""
        if self._limits_of(model.name) == NO_LIMITS:
            ticket.trimmed = None
            return self._node.answer(model, request, ticket)
        return self._fitted(model, request, ticket)

    @asynccontextmanager
    async def _fitted(self, model: Model, request: InferenceRequest, ticket: Ticket) -> AsyncIterator[ChunkStream]:
        limits = self._limits_of(model.name)
        request = await fitted(request, limits, NoCounter(), ticket, model=model.name)
        async with self._node.answer(model, request, ticket) as chunks:
            yield chunks

    async def embed(self, model: Model, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        """The node's own vectors."""
        return await self._node.embed(model, request, ticket)

    async def rerank(self, model: Model, request: RerankRequest, ticket: Ticket) -> RerankAnswer:
        """The node's own scores."""
        return await self._node.rerank(model, request, ticket)

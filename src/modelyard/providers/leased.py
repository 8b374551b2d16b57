"""A node that uses our devices as a provider: our ledger gives the right to use its model, the node gives the answer.

While the lease lasts the model stays in memory; what must leave for it has left, here or there, before the node is
asked. Decides nothing about memory; the lease does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from modelyard.clock import Clock
from modelyard.residency.use import Wish
from modelyard.types.chat import InferenceRequest
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, RerankAnswer, RerankRequest
from modelyard.types.model import Model

from .base import ChunkStream, NodeProvider
from .local import Leases, patience_s
from .ticket import Ticket


class LeasedProvider:
    """Wraps the provider of one such node."""

    def __init__(self, node: NodeProvider, leases: Leases, clock: Clock, *, queue_s: float) -> None:
        self.name = node.name
        self._node, self._leases, self._clock, self._queue_s = node, leases, clock, queue_s

    @asynccontextmanager
    async def answer(self, model: Model, request: InferenceRequest, ticket: Ticket) -> AsyncIterator[ChunkStream]:
        """Wait for the model and a slot, and let the node answer."""
        async with AsyncExitStack() as stack:
            await self._lease(stack, model, request.keep_alive_s, ticket)
            yield await stack.enter_async_context(self._node.answer(model, request, ticket))

    async def embed(self, model: Model, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        """Wait for the model and a slot, and let the node embed."""
        async with AsyncExitStack() as stack:
            await self._lease(stack, model, request.keep_alive_s, ticket)
            return await self._node.embed(model, request, ticket)

    async def rerank(self, model: Model, request: RerankRequest, ticket: Ticket) -> RerankAnswer:
        """Wait for the model and a slot, and let the node order."""
        async with AsyncExitStack() as stack:
            await self._lease(stack, model, request.keep_alive_s, ticket)
            return await self._node.rerank(model, request, ticket)

    async def _lease(self, stack: AsyncExitStack, model: Model, keep_alive_s: float | None, ticket: Ticket) -> None:
        ticket.provider, ticket.phase = self.name, "queued"
        lease = await stack.enter_async_context(
            self._leases.lease(
                model, ticket=ticket.id, caller=ticket.caller_id, keep_alive_s=keep_alive_s,
                deadline=self._clock.monotonic() + patience_s(ticket, self._queue_s),
                wish=Wish(None, ticket.priority, ticket.role),
            )
        )  # fmt: skip
        ticket.queue_s, ticket.load_s = lease.queue_s, lease.load_s
        ticket.degraded += lease.degraded

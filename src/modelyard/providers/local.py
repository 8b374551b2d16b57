"""This node's own workers as a provider: a lease for as long as the answer lasts, and the answer over a socket.

One connection per request, closed with it: closing is how a worker learns that nobody listens any more. A worker that
exits or goes quiet ends the answer with an error that says so. Decides nothing about memory; the lease does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Protocol

from modelyard.clock import Clock
from modelyard.errors import UpstreamUnreachable
from modelyard.residency.use import NO_WISH, Wish
from modelyard.types.chat import InferenceRequest
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, RerankAnswer, RerankRequest
from modelyard.types.model import Model

from .deadlines import Deadlines
from .fitting import NO_LIMITS, LimitsOf, fitted
from .ticket import Ticket
from .worker_ask import WorkerAsk
from .worker_end import WorkerLease
from .worker_stream import WorkerStream
from .worker_tokens import WorkerCounter
from .worker_vectors import embedded, reranked

AT_ONCE_S = 0.1  # within this a request is granted that nobody is in front of


class Leases(Protocol):
    """What we need of the residency: the right to use a model, which may take a queue and a load to get."""

    def lease(
        self,
        model: Model,
        *,
        ticket: str,
        caller: str,
        deadline: float,
        keep_alive_s: float | None = None,
        wish: Wish = NO_WISH,
    ) -> AbstractAsyncContextManager[WorkerLease]: ...


class LocalProvider:
    """Answers with the workers of this node."""

    def __init__(
        self,
        leases: Leases,
        clock: Clock,
        deadlines: Deadlines | None = None,
        *,
        name: str = "local",
        limits_of: LimitsOf = lambda _model: NO_LIMITS,
    ) -> None:
        self.name = name
        self._limits_of = limits_of
        self._leases = leases
        self._clock = clock
        self.deadlines = deadlines or Deadlines()

    @asynccontextmanager
    async def answer(self, model: Model, request: InferenceRequest, ticket: Ticket) -> AsyncIterator[WorkerStream]:
        """Wait for the model and a slot, ask the worker, and hand out its stream."""
        ticket.provider = self.name
        ticket.phase = "queued"
        async with self._leases.lease(
            model,
            ticket=ticket.id,
            caller=ticket.caller_id,
            deadline=self._clock.monotonic() + patience_s(ticket, self.deadlines.queue_s),
            keep_alive_s=request.keep_alive_s,
            wish=_wish(request, ticket),
        ) as lease:
            ticket.queue_s, ticket.load_s = lease.queue_s, lease.load_s
            ticket.degraded += lease.degraded
            ticket.phase = "prefill"
            request = await self._fitted(model, request, ticket, lease)
            if model.node_model:  # what its worker calls it
                request = replace(request, model=model.node_model)
            stream = WorkerStream(lease, model.name, request, ticket, self.deadlines)
            try:
                ticket.sent_at = self._clock.monotonic()
                await stream.open()
                yield stream
            except (asyncio.CancelledError, UpstreamUnreachable):
                if stream.broken is not None:
                    await lease.fail(stream.broken)
                raise
            finally:
                stream.close()

    async def _fitted(
        self, model: Model, request: InferenceRequest, ticket: Ticket, lease: WorkerLease
    ) -> InferenceRequest:
        """The request within the limits of its model, counted by the worker that is to answer it."""
        counter = WorkerCounter(lease.worker, ticket.request_id, self.deadlines.connect_s)
        return await fitted(
            request, self._limits_of(model.name), counter, ticket, model=model.name,
            context_length=lease.context_length,
        )  # fmt: skip

    async def embed(self, model: Model, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        """Vectors in the order of the inputs."""
        async with self._asking(model, request.keep_alive_s, ticket) as (ask, lease):
            return await embedded(ask, model, request, lease.context_length)

    async def rerank(self, model: Model, request: RerankRequest, ticket: Ticket) -> RerankAnswer:
        """Scores in the order of the documents."""
        async with self._asking(model, request.keep_alive_s, ticket) as (ask, _lease):
            return await reranked(ask, model, request)

    @asynccontextmanager
    async def _asking(
        self, model: Model, keep_alive_s: float | None, ticket: Ticket
    ) -> AsyncIterator[tuple[WorkerAsk, WorkerLease]]:
        """Wait for the model and a slot, and hand out who asks its worker."""
        ticket.provider, ticket.phase = self.name, "queued"
        async with self._leases.lease(
            model, ticket=ticket.id, caller=ticket.caller_id, keep_alive_s=keep_alive_s,
            deadline=self._clock.monotonic() + patience_s(ticket, self.deadlines.queue_s),
            wish=Wish(None, ticket.priority, ticket.role),
        ) as lease:  # fmt: skip
            ticket.queue_s, ticket.load_s = lease.queue_s, lease.load_s
            ticket.degraded += lease.degraded
            ticket.phase, ticket.sent_at = "prefill", self._clock.monotonic()
            ask = WorkerAsk(lease, model.name, ticket, self.deadlines)
            try:
                yield ask, lease
            except (asyncio.CancelledError, UpstreamUnreachable):
                if ask.broken is not None:
                    await lease.fail(ask.broken)
                raise
            finally:
                ask.close()


def patience_s(ticket: Ticket, queue_s: float) -> float:
    """How long a request waits for memory and a slot. Who does not want to wait still gets a slot that is free."""
    wanted_s = queue_s if ticket.wait_s_max is None else ticket.wait_s_max
    return min(max(wanted_s, AT_ONCE_S), queue_s)


def _wish(request: InferenceRequest, ticket: Ticket) -> Wish:
    if request.context_length is None and not ticket.priority and not ticket.role:
        return NO_WISH
    return Wish(request.context_length, ticket.priority, ticket.role)

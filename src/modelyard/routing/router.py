"""Who answers: ranks the nodes that have a model, asks the best, and the next if it fails before its first content.

Promises: a caller gets the content of one attempt alone; after the first content nobody else is asked; at most
`attempts_max` nodes are, within the budget for retries; every attempt leaves exactly one verdict on its node. Reads
aloud in `_first_content`. Knows nothing about HTTP or any dialect, and never asks a node what it has: the fleet knows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass
from typing import Self, TypeVar

import structlog

from modelyard.clock import Clock
from modelyard.errors import N_, InsufficientMemory, LoadFailed, NoNodeAvailable, QueueFull, YardError
from modelyard.providers.base import ChunkStream, NodeProvider
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import Chunk, Delta, InferenceRequest
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, RerankAnswer, RerankRequest
from modelyard.types.model import Candidates, Model

from .affinity import Affinities, affinity_key
from .attempt import Attempt
from .continuation import Continuing, is_continuable
from .failures import may_try_another
from .fleet import Fleet
from .only_here import OnlyHere
from .ranking import Ranked, Strategy, Turns, rank
from .retries import RetryBudget
from .standings import Standings
from .wanted import Wanted, wanted_chat, wanted_embeddings

FAILOVER = "failover"
FULL_HERE = (InsufficientMemory, LoadFailed, QueueFull)  # it cannot be brought in here: another node may have it
Answer = TypeVar("Answer")

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class RoutingRules:
    """How nodes are chosen, and how often another is."""

    strategy: Strategy = "best"
    attempts_max: int = 3
    retry_on_timeout: bool = False
    continue_streams: bool = False


class Router:
    """Chooses nodes for requests. One per node of ours."""

    def __init__(
        self,
        fleet: Fleet,
        standings: Standings,
        local: NodeProvider,
        clock: Clock,
        *,
        rules: RoutingRules | None = None,
        budget: RetryBudget | None = None,
    ) -> None:
        self.rules = rules or RoutingRules()
        self.budget = budget or RetryBudget()
        self._fleet, self._standings, self._local, self._clock = fleet, standings, local, clock
        self._only_here = OnlyHere(local)
        self._turns = Turns()
        self._affinities = Affinities()

    def answer(
        self, candidates: Candidates, request: InferenceRequest, ticket: Ticket
    ) -> AbstractAsyncContextManager[ChunkStream]:
        """The answer of whoever is best placed to give it. Raises what the last one asked said."""
        if len(candidates.models) == 1 and not candidates.models[0].node:
            return self._only_here.answer(candidates, request, ticket)
        return self._best_answer(candidates, request, ticket)

    def chosen(self, candidates: Candidates) -> Model:
        """Whom a request would go to now; the first where nobody may be asked. Nobody loses a turn by the question."""
        ranked = rank(
            self._standings.of(candidates.models, None), strategy=self.rules.strategy, pick=candidates.pick,
            group=candidates.name, turns=Turns(),
        )  # fmt: skip
        wanted = ranked[0].standing.model if ranked else ""
        return next((one for one in candidates.models if one.name == wanted), candidates.models[0])

    async def embed(self, candidates: Candidates, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        """Vectors by whoever is best placed to make them."""
        wanted = wanted_embeddings(request.inputs, ticket, request.keep_alive_s)
        return await self._asked_whole(
            candidates, wanted, ticket, lambda model: self._provider(model).embed(model, request, ticket)
        )

    async def rerank(self, candidates: Candidates, request: RerankRequest, ticket: Ticket) -> RerankAnswer:
        """Scores by whoever is best placed to give them."""
        wanted = wanted_embeddings((request.query, *request.documents), ticket)
        return await self._asked_whole(
            candidates, wanted, ticket, lambda model: self._provider(model).rerank(model, request, ticket)
        )

    async def _asked_whole(
        self, candidates: Candidates, wanted: Wanted, ticket: Ticket, ask: Callable[[Model], Awaitable[Answer]]
    ) -> Answer:
        async def asked(model: Model) -> Answer:
            with self._attempt(model, wanted, ticket) as attempt:
                with self._or_another(model, ticket):
                    answer = await ask(model)
                if attempt is not None:
                    attempt.began(self._clock.monotonic())
                return answer

        return await self._tried(candidates, wanted, ticket, asked)

    @asynccontextmanager
    async def _best_answer(
        self, candidates: Candidates, request: InferenceRequest, ticket: Ticket
    ) -> AsyncIterator[ChunkStream]:
        wanted = wanted_chat(request, ticket)
        async with AsyncExitStack() as stack:

            async def asked(model: Model) -> ChunkStream:
                return await self._begun(stack, candidates, model, request, wanted, ticket)

            yield await self._tried(candidates, wanted, ticket, asked)

    async def _tried(
        self, candidates: Candidates, wanted: Wanted, ticket: Ticket, ask: Callable[[Model], Awaitable[Answer]]
    ) -> Answer:
        """Ask one after the other, the best first, until one answers. Each is asked once."""
        failed: dict[str, YardError] = {}
        self.budget.requested(self._clock.monotonic())
        key = affinity_key(ticket.caller_id, candidates.name, wanted.session, wanted.beginning)
        while True:
            ranked = self._ranked(candidates, wanted, key, failed)
            if not ranked:
                raise self._nobody(candidates, failed)
            model = next(one for one in candidates.models if one.name == ranked[0].standing.model)
            self._note(ticket, model, ranked)
            try:
                answer = await ask(model)
            except YardError as error:
                failed[model.name] = error
                if not self._may_go_on(error, model, ticket):
                    raise
                _log.info("route.failover", node=model.node or ticket.provider, model=model.name, code=error.code)
            else:
                self._affinities.remember(key, model.node, self._clock.monotonic())
                return answer

    async def _begun(
        self,
        stack: AsyncExitStack,
        candidates: Candidates,
        model: Model,
        request: InferenceRequest,
        wanted: Wanted,
        ticket: Ticket,
    ) -> ChunkStream:
        """One attempt up to its first content. From there on it belongs to the caller's stack, whatever comes."""
        chunks, own = await self._opened(model, request, wanted, ticket)
        if not self.rules.continue_streams or not is_continuable(request):
            stack.push_async_exit(own)
            return chunks

        async def move_on(rest: InferenceRequest, cause: YardError) -> tuple[ChunkStream, AsyncExitStack] | None:
            asked.add(ticket.model)
            others = [one for one in candidates.models if one.name not in asked and self._fleet.continues(one)]
            ranked = self._ranked(Candidates(candidates.name, tuple(others), candidates.pick), wanted, "", {})
            if not ranked or not self.budget.take(self._clock.monotonic()):
                return None
            chosen = next(one for one in others if one.name == ranked[0].standing.model)
            _log.info("route.continued", node=chosen.node or "local", model=chosen.name, code=cause.code)
            self._note(ticket, chosen, ranked)
            return await self._opened(chosen, rest, wanted, ticket)

        asked: set[str] = set()
        continuing = Continuing(request, ticket, chunks, own, move_on)
        stack.push_async_exit(continuing.__aexit__)
        return continuing

    async def _opened(
        self, model: Model, request: InferenceRequest, wanted: Wanted, ticket: Ticket
    ) -> tuple[ChunkStream, AsyncExitStack]:
        """One attempt up to its first content, and what ends it."""
        async with AsyncExitStack() as own:
            attempt = own.enter_context(self._attempt(model, wanted, ticket))
            with self._or_another(model, ticket):
                chunks = await own.enter_async_context(self._provider(model).answer(model, request, ticket))
                first = await first_content(chunks)
            if attempt is not None:
                attempt.began(self._clock.monotonic())
            return Begun(first, chunks), own.pop_all()
        raise AssertionError("nothing in the block is swallowed")

    @contextmanager
    def _or_another(self, model: Model, ticket: Ticket) -> Iterator[None]:
        """What we ourselves hold against a node ends its attempt and not the request, if another may be asked."""
        try:
            yield
        except asyncio.CancelledError:
            error = ticket.interrupted_by
            if error is None or not model.node:
                raise
            if not may_try_another(error, retry_on_timeout=self.rules.retry_on_timeout) or not ticket.reprieve():
                raise
            raise error from None

    def _attempt(self, model: Model, wanted: Wanted, ticket: Ticket) -> AbstractContextManager[Attempt | None]:
        """Of a local model residency keeps account."""
        return self._fleet.attempt(model, wanted, ticket) if model.node else nullcontext()

    def _provider(self, model: Model) -> NodeProvider:
        return self._fleet.node(model.node).parts.provider if model.node else self._local

    def _ranked(
        self, candidates: Candidates, wanted: Wanted, key: str, failed: Mapping[str, YardError]
    ) -> tuple[Ranked, ...]:
        favoured = self._affinities.node_for(key, self._clock.monotonic()) if key else None
        models = [model for model in candidates.models if model.name not in failed]
        return rank(
            self._standings.of(models, favoured), strategy=self.rules.strategy, pick=candidates.pick,
            group=candidates.name, turns=self._turns, prompt_tokens=wanted.prompt_tokens,
        )  # fmt: skip

    def _note(self, ticket: Ticket, model: Model, ranked: Sequence[Ranked]) -> None:
        ticket.attempts += 1
        ticket.why = FAILOVER if ticket.attempts > 1 else ranked[0].reason
        ticket.has_others = len(ranked) > 1 and not ticket.is_retry
        ticket.model, ticket.engine, ticket.provider = model.name, model.engine, model.node
        ticket.queue_s = ticket.load_s = ticket.sent_at = None

    def _may_go_on(self, error: YardError, model: Model, ticket: Ticket) -> bool:
        """Whether another node may be asked after this."""
        if ticket.is_retry or ticket.attempts >= self.rules.attempts_max:
            return False
        if not model.node and isinstance(error, FULL_HERE):
            return True
        if not may_try_another(error, retry_on_timeout=self.rules.retry_on_timeout):
            return False
        return self.budget.take(self._clock.monotonic())

    def _nobody(self, candidates: Candidates, failed: Mapping[str, YardError]) -> YardError:
        """The error of who was asked last; else why nobody could be asked, and when somebody can."""
        if failed:
            return [*failed.values()][-1]
        standings = self._standings.of(candidates.models, None)
        reasons = "; ".join(f"{one.node or 'local'}: {one.reason_not or N_('not usable')}" for one in standings)
        wait_s = self._standings.next_chance_s(candidates.models)
        return NoNodeAvailable(model=candidates.name, reasons=reasons, retry_after_s=wait_s)


class Begun:
    """A stream whose first pieces were read already."""

    __slots__ = ("_chunks", "_first")

    def __init__(self, first: list[list[Chunk]], chunks: ChunkStream) -> None:
        self._first, self._chunks = deque(first), chunks

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Chunk]:
        return self._first.popleft() if self._first else await self._chunks.__anext__()


async def first_content(chunks: ChunkStream) -> list[list[Chunk]]:
    """Read a stream up to its first content, or to its end if it is an answer without any."""
    read: list[list[Chunk]] = []
    async for together in chunks:
        read.append(together)
        if any(type(chunk) is Delta and (chunk.has_content or chunk.finish) for chunk in together):
            break
    return read

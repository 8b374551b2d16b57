"""The data plane's use case: serve one request, in the order a request lives. Also the list of those in flight.

Name, permission, node, lease, tokens, outcome; the caller was admitted by the guard at the door, before its body was
read. Where the configuration says so, another model answers for one that nobody can bring in. Knows nothing about HTTP
or any dialect.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from typing import Protocol

import structlog

from modelyard.clock import Clock
from modelyard.errors import (
    DeadlineExceeded,
    InsufficientMemory,
    LoadFailed,
    ModelFileError,
    ModelNotFound,
    NoNodeAvailable,
    RequestCancelled,
    UpstreamError,
    UpstreamUnreachable,
    YardError,
)
from modelyard.providers.base import ChunkStream
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import InferenceRequest, Usage
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, RerankAnswer, RerankRequest
from modelyard.types.model import Candidates
from modelyard.types.status import RequestStatus, WaitStatus

from .admission import Asked, Missed, fit_for, name_of
from .cached_vectors import CachedVectors
from .figures import Figures
from .keys import Caller
from .metered import MeteredStream
from .prompt_guards import PromptGuards
from .usage import Usage as UsageRecorder
from .vector_cache import VectorCache
from .vectors import check_scores

log = structlog.get_logger()

FALLBACK_CAUSES = (InsufficientMemory, LoadFailed, ModelFileError, NoNodeAvailable, UpstreamUnreachable)


def is_for_fallback(error: YardError, ticket: Ticket) -> bool:
    """Whether another model may answer: this one cannot be brought in, or every node that has it failed."""
    return isinstance(error, FALLBACK_CAUSES) or (isinstance(error, UpstreamError) and "@" in ticket.model)


class Names(Protocol):
    """What we need of the catalog."""

    def candidates(self, text: str) -> Candidates: ...


class Answers(Protocol):
    """What we need of the router: the answer of whoever of the candidates is best placed to give it."""

    def answer(
        self, candidates: Candidates, request: InferenceRequest, ticket: Ticket
    ) -> AbstractAsyncContextManager[ChunkStream]: ...

    async def embed(self, candidates: Candidates, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer: ...

    async def rerank(self, candidates: Candidates, request: RerankRequest, ticket: Ticket) -> RerankAnswer: ...


class Inference:
    """Serves requests. One per node."""

    def __init__(
        self,
        *,
        catalog: Names,
        router: Answers,
        usage: UsageRecorder,
        metrics: Figures,
        clock: Clock,
        loading: Callable[[], Collection[str]] = tuple,
        waits: Callable[[str], WaitStatus | None] = lambda _ticket: None,
        fallbacks: Callable[[str], Sequence[str]] = lambda _model: (),
        role_of: Callable[[str], str] = lambda _name: "",
        total_s: Callable[[str], float | None] = lambda _model: None,
        guards: PromptGuards | None = None,
        vector_cache: VectorCache | None = None,
    ) -> None:
        self.vectors = CachedVectors(vector_cache or VectorCache(0), metrics, router.embed)
        self.guards = guards or PromptGuards()
        self._catalog = catalog
        self._router = router
        self._usage = usage
        self._metrics = metrics
        self._clock = clock
        self._loading = loading  # names of the models being loaded: who waits for one of them is not queued
        self._total_s = total_s  # by a model's name: how long a whole answer may take, if that is limited
        self._role_of = role_of  # the role that a name is, if it is one
        self._fallbacks = fallbacks  # by a model's name: those that answer for it if it cannot be brought in
        self._waits = waits  # by a ticket's id: how it stands with it while it waits
        self._serial = itertools.count(1)
        self._in_flight: dict[str, Ticket] = {}

    @contextmanager
    def ticket(self, caller: Caller, route: str, request_id: str) -> Iterator[Ticket]:
        """A request from the door to its last byte: listed, interruptible by id, and with exactly one outcome."""
        ticket = Ticket(
            f"r{next(self._serial)}",
            request_id=request_id,
            route=route,
            caller_id=caller.id,
            started_at=self._clock.monotonic(),
        )
        self._in_flight[ticket.id] = ticket
        error: BaseException | None = None
        try:
            with ticket:
                yield ticket
        except BaseException as exc:
            error = exc
            if isinstance(exc, LoadFailed | UpstreamError) and ticket.engine:
                exc.fields.setdefault("engine", ticket.engine)
            raise
        finally:
            del self._in_flight[ticket.id]
            self._usage.record(ticket, error)

    @asynccontextmanager
    async def open(self, caller: Caller, request: InferenceRequest, ticket: Ticket) -> AsyncIterator[ChunkStream]:
        """Serve one request, in the order a request lives. The stream's chunks are metered as they pass."""
        candidates = self._admitted_or_missed(caller, request, ticket)
        with self._deadline(ticket):
            await self.guards.check(request, ticket)
            async with AsyncExitStack() as stack:
                chunks = await self._first_answer(stack, caller, candidates, request, ticket)
                yield MeteredStream(chunks, ticket, self._clock, self._metrics.gaps_of(ticket.model))

    async def embed(self, caller: Caller, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        """One vector per input."""
        candidates = self._admitted(caller, request.model, request, ticket)
        with self._deadline(ticket):
            answer = await self.vectors.embed(candidates, request, ticket)
        ticket.usage = Usage(answer.input_tokens, 0)
        return answer

    async def rerank(self, caller: Caller, request: RerankRequest, ticket: Ticket) -> RerankAnswer:
        """One score per document."""
        candidates = self._admitted(caller, request.model, request, ticket)
        with self._deadline(ticket):
            answer = await self._router.rerank(candidates, request, ticket)
        check_scores(request, answer, ticket)
        ticket.usage = Usage(answer.input_tokens, 0)
        return answer

    def _admitted(self, caller: Caller, name: str, request: Asked, ticket: Ticket) -> Candidates:
        """The models that may answer, by their names and by what this caller and this request need."""
        candidates = self._catalog.candidates(name)
        first = candidates.models[0]
        ticket.model, ticket.engine = first.name if len(candidates.models) == 1 else candidates.name, first.engine
        ticket.role, ticket.priority = self._role_of(name), caller.priority
        return fit_for(caller, candidates, request)

    def _admitted_or_missed(self, caller: Caller, request: InferenceRequest, ticket: Ticket) -> Candidates | Missed:
        """The same, or why there is none of a model that others stand in for."""
        try:
            return self._admitted(caller, request.model, request, ticket)
        except (ModelNotFound, ModelFileError, NoNodeAvailable) as missed:
            name = name_of(missed)
            if not self._fallbacks(name) or not caller.may_use(name):
                raise
            ticket.role, ticket.priority = self._role_of(request.model), caller.priority
            return missed

    @contextmanager
    def _deadline(self, ticket: Ticket) -> Iterator[None]:
        """End the request when the time its caller, or the configuration, gave for the whole of it is over."""
        limit_s, now = self._total_s(ticket.model), self._clock.monotonic()
        if limit_s is not None and (ticket.deadline_at is None or ticket.started_at + limit_s < ticket.deadline_at):
            ticket.deadline_at = ticket.started_at + limit_s
        if ticket.deadline_at is None:
            yield
            return
        error = DeadlineExceeded(budget_s=round(ticket.deadline_at - ticket.started_at, 3))
        if ticket.deadline_at <= now:
            raise error
        timer = asyncio.get_running_loop().call_later(ticket.deadline_at - now, ticket.interrupt, error)
        try:
            yield
        finally:
            timer.cancel()

    async def _first_answer(
        self,
        stack: AsyncExitStack,
        caller: Caller,
        candidates: Candidates | Missed,
        request: InferenceRequest,
        ticket: Ticket,
    ) -> ChunkStream:
        """The model's answer; if it cannot be brought in, that of the first that stands in for it. Each is asked once.

        If none can, the error is the model's own: the others are not what was asked for.
        """
        try:
            if isinstance(candidates, YardError):
                raise candidates
            return await stack.enter_async_context(self._router.answer(candidates, request, ticket))
        except YardError as cause:
            if cause is not candidates and not is_for_fallback(cause, ticket):
                raise
            name = candidates.name if isinstance(candidates, Candidates) else name_of(candidates)
            told, seen, waiting = (ticket.model, ticket.engine), {name}, deque(self._fallbacks(name))
            while waiting:
                other = self._stand_in(waiting.popleft(), caller, request)
                if other is None or other.name in seen:
                    continue
                seen.add(other.name)
                first = other.models[0]
                ticket.model, ticket.engine, ticket.degraded = first.name, first.engine, (f"model={other.name}",)
                try:
                    chunks = await stack.enter_async_context(self._router.answer(other, request, ticket))
                except YardError as error:
                    if not is_for_fallback(error, ticket):
                        raise
                    waiting.extend(self._fallbacks(other.name))
                    continue
                ticket.fallback_reason = cause.code
                self._metrics.fell_back(name, other.name, cause.code)
                return chunks
            (ticket.model, ticket.engine), ticket.degraded = told, ()
            raise

    def _stand_in(self, name: str, caller: Caller, request: InferenceRequest) -> Candidates | None:
        """The models of that name, if this caller may use one and it can do what is asked."""
        try:
            return fit_for(caller, self._catalog.candidates(name), request)
        except YardError as why:
            log.info("fallback.skipped", model=name, code=why.code)
            return None

    def wait_of(self, ticket: Ticket) -> WaitStatus | None:
        """How it stands with a request that waits for memory or a slot; None if it does not."""
        return self._waits(ticket.id) if ticket.phase == "queued" else None

    def cancel(self, request_id: str) -> bool:
        """End the requests of this id with `request_cancelled`; tell whether there was one."""
        found = [ticket for ticket in self._in_flight.values() if ticket.request_id == request_id]
        for ticket in found:
            ticket.interrupt(RequestCancelled())
        return bool(found)

    def interrupt_callers(self, is_out: Callable[[str, str], bool], error: YardError) -> int:
        """End the requests whose caller may no longer use their model; tell how many there were."""
        found = [ticket for ticket in self._in_flight.values() if is_out(ticket.caller_id, ticket.model)]
        for ticket in found:
            ticket.interrupt(error)
        return len(found)

    def interrupt_all(self, error: YardError) -> int:
        """End every request with this error; tell how many there were."""
        tickets = list(self._in_flight.values())
        for ticket in tickets:
            ticket.interrupt(error)
        return len(tickets)

    @property
    def in_flight_count(self) -> int:
        """Requests between their first and their last byte."""
        return len(self._in_flight)

    @property
    def running_count(self) -> int:
        """Requests that hold a slot."""
        return sum(ticket.phase in ("prefill", "generating") for ticket in self._in_flight.values())

    def snapshot(self) -> tuple[RequestStatus, ...]:
        """Those in flight, oldest first."""
        now = self._clock.monotonic()
        loading = self._loading()
        return tuple(
            RequestStatus(
                id=ticket.request_id,
                model=ticket.model,
                caller=ticket.caller_id,
                phase="loading" if ticket.phase == "queued" and ticket.model in loading else ticket.phase,
                age_s=now - ticket.started_at,
                output_tokens=ticket.usage.output_tokens if ticket.usage else ticket.output_chunks,
                prompt_ratio=ticket.prompt_ratio,
                wait=self.wait_of(ticket),
            )
            for ticket in self._in_flight.values()
        )

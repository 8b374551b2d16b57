"""The data plane's use case: serve one request, in the order a request lives. Also the list of those in flight.

Name, permission, provider, lease, tokens, outcome; the caller was admitted by the guard at the door, before its body
was read. Where the configuration says so, another model answers for one that cannot be brought in. Knows nothing about
HTTP or any dialect.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Protocol, Self

import structlog

from modelyard.clock import Clock
from modelyard.errors import (
    CapabilityMissing,
    ContextLengthExceeded,
    InsufficientMemory,
    LoadFailed,
    ModelFileError,
    ModelNotAllowed,
    RequestCancelled,
    UpstreamError,
    YardError,
)
from modelyard.providers.base import ChunkStream, Provider
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import Chunk, Delta, ImagePart, InferenceRequest, Usage
from modelyard.types.model import Capability, Model
from modelyard.types.status import RequestStatus, WaitStatus

from .keys import Caller
from .metrics import Metrics
from .usage import Usage as UsageRecorder

log = structlog.get_logger()

FALLBACK_CAUSES = (InsufficientMemory, LoadFailed, ModelFileError)  # it cannot be brought in: another one may


class Names(Protocol):
    """What we need of the catalog."""

    def resolve(self, text: str) -> Model: ...


class Inference:
    """Serves requests. One per node."""

    def __init__(
        self,
        *,
        catalog: Names,
        provider: Provider,
        usage: UsageRecorder,
        metrics: Metrics,
        clock: Clock,
        loading: Callable[[], Collection[str]] = tuple,
        waits: Callable[[str], WaitStatus | None] = lambda _ticket: None,
        fallbacks: Callable[[str], Sequence[str]] = lambda _model: (),
        role_of: Callable[[str], str] = lambda _name: "",
    ) -> None:
        self._catalog = catalog
        self._provider = provider
        self._usage = usage
        self._metrics = metrics
        self._clock = clock
        self._loading = loading  # names of the models being loaded: who waits for one of them is not queued
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
        model = self._catalog.resolve(request.model)
        ticket.model, ticket.engine = model.name, model.engine
        ticket.role, ticket.priority = self._role_of(request.model), caller.priority
        check_allowed(caller, model)
        check_possible(model, request)
        async with AsyncExitStack() as stack:
            chunks = await self._first_answer(stack, caller, model, request, ticket)
            yield MeteredStream(chunks, ticket, self._clock, self._metrics.gaps.gaps_of(ticket.model))

    async def _first_answer(
        self, stack: AsyncExitStack, caller: Caller, model: Model, request: InferenceRequest, ticket: Ticket
    ) -> ChunkStream:
        """The model's answer; if it cannot be brought in, that of the first that stands in for it. Each is asked once.

        If none can, the error is the model's own: the others are not what was asked for.
        """
        try:
            return await stack.enter_async_context(self._provider.answer(model, request, ticket))
        except FALLBACK_CAUSES as cause:
            seen, waiting = {model.name}, deque(self._fallbacks(model.name))
            while waiting:
                other = self._stand_in(waiting.popleft(), caller, request)
                if other is None or other.name in seen:
                    continue
                seen.add(other.name)
                ticket.model, ticket.engine, ticket.degraded = other.name, other.engine, (f"model={other.name}",)
                try:
                    chunks = await stack.enter_async_context(self._provider.answer(other, request, ticket))
                except FALLBACK_CAUSES:
                    waiting.extend(self._fallbacks(other.name))
                    continue
                ticket.fallback_reason = cause.code
                self._metrics.fallbacks.labels(model.name, other.name, cause.code).inc()
                return chunks
            ticket.model, ticket.engine, ticket.degraded = model.name, model.engine, ()
            raise

    def _stand_in(self, name: str, caller: Caller, request: InferenceRequest) -> Model | None:
        """The model of that name, if this caller may use it and it can do what is asked."""
        try:
            model = self._catalog.resolve(name)
            check_allowed(caller, model)
            check_possible(model, request)
        except YardError as why:
            log.info("fallback.skipped", model=name, code=why.code)
            return None
        return model

    def wait_of(self, ticket: Ticket) -> WaitStatus | None:
        """How it stands with a request that waits for memory or a slot; None if it does not."""
        return self._waits(ticket.id) if ticket.phase == "queued" else None

    def cancel(self, request_id: str) -> bool:
        """End the requests of this id with `request_cancelled`; tell whether there was one."""
        found = [ticket for ticket in self._in_flight.values() if ticket.request_id == request_id]
        for ticket in found:
            ticket.interrupt(RequestCancelled())
        return bool(found)

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
                wait=self.wait_of(ticket),
            )
            for ticket in self._in_flight.values()
        )


class MeteredStream:
    """A stream whose passing is noted on its ticket."""

    __slots__ = ("_chunks", "_clock", "_count_gap", "_ticket")

    def __init__(self, chunks: ChunkStream, ticket: Ticket, clock: Clock, count_gap: Callable[[float], None]) -> None:
        self._chunks = chunks
        self._ticket = ticket
        self._clock = clock
        self._count_gap = count_gap

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Chunk]:
        chunks = await self._chunks.__anext__()
        ticket = self._ticket
        content_count = 0
        for chunk in chunks:
            if type(chunk) is Delta:
                content_count += 1
                if chunk.finish is not None:
                    ticket.finish = chunk.finish
                    content_count -= 1
            elif type(chunk) is Usage:
                ticket.usage = chunk
        if content_count:
            now = self._clock.monotonic()
            if ticket.answered_at is None:
                ticket.first_token_at = now
                ticket.phase = "generating"
            else:
                self._count_gap(now - ticket.answered_at)
            ticket.answered_at = now
            ticket.output_chunks += content_count
        return chunks


def check_allowed(caller: Caller, model: Model) -> None:
    """Refuse a model that this caller's key is not for."""
    if not caller.may_use(model.name):
        raise ModelNotAllowed(model=model.name)


def check_possible(model: Model, request: InferenceRequest) -> None:
    """Refuse what this model cannot do, before anything is loaded for it."""
    needed = Capability.CHAT if request.is_chat else Capability.COMPLETION
    if needed not in model.capabilities:
        raise CapabilityMissing(model=model.name, capability=needed.value)
    if Capability.IMAGES not in model.capabilities and _has_image(request):
        raise CapabilityMissing(model=model.name, capability=Capability.IMAGES.value)
    if request.tools and Capability.TOOLS not in model.capabilities:
        raise CapabilityMissing(model=model.name, capability=Capability.TOOLS.value)
    if isinstance(request.prompt, tuple) and model.context_length and len(request.prompt) >= model.context_length:
        raise ContextLengthExceeded(
            prompt_tokens=len(request.prompt), model=model.name, context_length=model.context_length
        )


def _has_image(request: InferenceRequest) -> bool:
    return any(
        isinstance(message.content, tuple) and any(isinstance(part, ImagePart) for part in message.content)
        for message in request.messages
    )

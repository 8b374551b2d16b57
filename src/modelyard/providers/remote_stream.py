"""One answer of one other node: its bytes as chunks, and the deadlines that end it.

Before the head of an answer the node may load its model; then it reads the prompt; then tokens come. Each has its time,
and the whole may have one. A request whose time is over is not sent. Generic over the node's dialect: a decoder turns
bytes into chunks and knows when the answer is complete.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

from modelyard.clock import Clock
from modelyard.errors import N_, DeadlineExceeded, UpstreamInvalid, UpstreamUnreachable, YardError
from modelyard.types.chat import Chunk, Progress

from .deadlines import Deadlines
from .node_http import NodeAnswer, NodeConnections
from .quiet_watch import QuietWatch
from .ticket import Ticket
from .upstream_errors import node_failure
from .worker_http import BrokenConnection, NoConnection

ERROR_BODY_BYTES_MAX = 64 * 1024
BODY_BYTES_MAX = 64 * 1024**2


Failure = Callable[[Any, int | None], YardError]  # what was reported, and with which status


class Decoder(Protocol):
    """Turns the bytes of one answer into chunks."""

    @property
    def done(self) -> bool: ...

    def feed(self, data: bytes) -> list[Chunk]: ...

    def end(self) -> YardError | None:
        """Why the end of the connection is too early, or None if the answer is complete."""
        ...


@dataclass(frozen=True, slots=True)
class RemoteRequest:
    """What is sent to a node."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    media_type: bytes  # of the answer


class Alone:
    """Nothing is known of the node's other answers, so only this one's silence counts."""

    def progressed(self) -> None: ...

    def worker_quiet_s(self) -> float:
        return math.inf


class RemoteStream:
    """A node's answer under way. `open` asks, iterating reads, `close` ends it at any point."""

    def __init__(
        self,
        connections: NodeConnections,
        source: str,
        model: str,
        ticket: Ticket,
        deadlines: Deadlines,
        clock: Clock,
        decoder: Callable[[], Decoder],
        failure: Failure | None = None,
    ) -> None:
        """`failure` reads what the node's dialect reports; OpenAI's if not given."""
        self._failure = failure
        self._connections, self._source, self._model = connections, source, model
        self._ticket, self._clock = ticket, clock
        self._connect_s = deadlines.connect_s
        self._make_decoder = decoder
        self._decoder = decoder()
        self._answer: NodeAnswer | None = None
        self._load_until = clock.monotonic() + deadlines.first_token_s + deadlines.load_s
        self._watch = QuietWatch(Alone(), ticket, deadlines, source)

    async def open(self, request: RemoteRequest) -> None:
        """Send the request and wait for the head of the answer. Once more after an answer is complete, if need be."""
        self._leave()
        self._decoder = self._make_decoder()
        self._watch.wait()
        headers = {**yard_headers(self._ticket, self._clock.monotonic()), **request.headers}
        try:
            self._answer = answer = await self._connections.request(
                "POST", request.path, request.body, headers, connect_s=self._connect_s
            )
            if answer.status != 200:
                body = await read_bounded(answer, ERROR_BODY_BYTES_MAX)
                raise self._refusal(answer, body, request.path)
            if answer.content_type != request.media_type:
                raise await self._wrong_type(answer, request.path)
        except (NoConnection, BrokenConnection) as exc:
            raise connection_error(self._source, exc) from exc

    @property
    def is_complete(self) -> bool:
        return self._decoder.done

    def close(self) -> None:
        """Stop listening; the node stops working when it sees the closed connection."""
        self._watch.close()
        self._leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Chunk]:
        decoder, watch = self._decoder, self._watch
        watch.wait()
        while not decoder.done:
            assert self._answer is not None, "the answer was opened"
            try:
                data = await self._answer.read()
            except BrokenConnection as exc:
                raise connection_error(self._source, exc) from exc
            if not data:
                early = decoder.end()
                assert early is not None, "only an unfinished answer is cut"
                raise early
            if chunks := decoder.feed(data):
                watch.hear()
                if not watch.has_token and any(type(chunk) is not Progress for chunk in chunks):
                    watch.first_token()
                return chunks
            if not watch.has_token and self._clock.monotonic() < self._load_until:
                watch.wait()  # comments, or lines that say nothing: it loads. Later only tokens are signs of life
        raise StopAsyncIteration

    def _leave(self) -> None:
        if self._answer is not None:
            self._connections.done(self._answer, is_complete=self._decoder.done)
            self._answer = None

    def _refusal(self, answer: NodeAnswer, body: bytes, path: str) -> YardError:
        status = answer.status if answer.status != 200 else 0
        return node_failure(self._source, self._model, status, body, answer.retry_after_s, self._failure, path=path)

    async def _wrong_type(self, answer: NodeAnswer, path: str) -> YardError:
        """An error in the place of a stream, perhaps; else something that is not what we asked for."""
        body = await read_bounded(answer, ERROR_BODY_BYTES_MAX)
        if answer.content_type == b"application/json" and body[:9] == b'{"error":':
            return self._refusal(answer, body, path)
        return UpstreamInvalid(provider=self._source, problem=N_("its answer is not of the type it should be"))


async def ask_whole(
    connections: NodeConnections,
    source: str,
    model: str,
    request: RemoteRequest,
    ticket: Ticket,
    clock: Clock,
    *,
    connect_s: float,
    failure: Failure | None = None,
) -> bytes:
    """A whole answer of bounded size. The caller sets the time for it."""
    headers = {**yard_headers(ticket, clock.monotonic()), **request.headers}
    try:
        answer = await connections.request("POST", request.path, request.body, headers, connect_s=connect_s)
        is_complete = False
        try:
            body = await read_bounded(answer, BODY_BYTES_MAX + 1)
            is_complete = len(body) <= BODY_BYTES_MAX
        finally:
            connections.done(answer, is_complete=is_complete)
    except (NoConnection, BrokenConnection) as exc:
        raise connection_error(source, exc) from exc
    if answer.status != 200:
        told = body[:ERROR_BODY_BYTES_MAX]
        raise node_failure(source, model, answer.status, told, answer.retry_after_s, failure, path=request.path)
    if not is_complete:
        raise UpstreamInvalid(provider=source, problem=N_("its answer is too large"))
    if answer.content_type != request.media_type:
        raise UpstreamInvalid(provider=source, problem=N_("its answer is not of the type it should be"))
    return body


def yard_headers(ticket: Ticket, now: float) -> dict[str, str]:
    """What the next server should know of a request, if it is one like us. Raises if its time is over."""
    headers = {"X-Request-Id": ticket.request_id, "X-Modelyard-Hops": str(ticket.hops + 1)}
    if ticket.is_retry or ticket.has_others or ticket.attempts > 1:
        headers["X-Modelyard-Retry"] = "1"
    if ticket.deadline_at is not None:
        left_ms = int((ticket.deadline_at - now) * 1000)
        if left_ms < 1:
            raise DeadlineExceeded(budget_s=round(ticket.deadline_at - ticket.started_at, 3))
        headers["X-Modelyard-Deadline-Ms"] = str(left_ms)
    return headers


def for_model(deadlines: Deadlines, size_bytes: int, *, is_resident: bool) -> Deadlines:
    """The deadlines of one request: a node that has to load the model first gets the time for it."""
    if is_resident:
        return deadlines
    load_s = deadlines.load_s + deadlines.load_s_per_gib * size_bytes / 1024**3
    return replace(deadlines, first_token_s=deadlines.first_token_s + load_s)


def connection_error(source: str, exc: NoConnection | BrokenConnection) -> YardError:
    """The one place where a connection's failures become ours."""
    if isinstance(exc, NoConnection):
        return UpstreamUnreachable(provider=source, problem=str(exc))
    return UpstreamInvalid(provider=source, problem=N_("the connection broke"))


async def read_bounded(answer: NodeAnswer, bytes_max: int) -> bytes:
    body = bytearray()
    while len(body) < bytes_max and (data := await answer.read()):
        body += data
    return bytes(body[:bytes_max])

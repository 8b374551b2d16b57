"""One request and its answer inside one ticket, for any dialect: from the headers to the last byte.

Until the head is out an error is raised, for whoever gives it a status. Afterwards it is the last frame. What a body
means and how a frame looks is a `Format`'s business; nothing here knows a dialect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelyard.clock import Clock
from modelyard.errors import N_, BadRequest, ClientClosed, YardError
from modelyard.gateway.inference import Inference
from modelyard.gateway.keys import Caller
from modelyard.providers.base import ChunkStream
from modelyard.providers.ticket import Ticket
from modelyard.types.status import WaitStatus

from .asked import Asked
from .bodies import BODY_BYTES_MAX, LARGE_BYTES, read_body
from .frames import Collector, Frames, note_of
from .problems import Dialect, body_of
from .streaming import BLOCKED_S, KEEPALIVE_S, CallerWatch, EventWriter
from .yard_headers import RawHeaders, asked_headers, take_headers, told_headers


@dataclass(frozen=True, slots=True)
class Format:
    """One way to ask and to answer. `frames` and `whole` are told the ticket and the time on the wall."""

    route: str
    read: Callable[[bytes], Asked]
    frames: Callable[[Asked, Ticket, Clock], Frames]
    whole: Callable[[Asked, Ticket, Clock], Collector]
    failure: Callable[[dict[str, object]], bytes]  # an error as the last frame
    silence: Callable[[Frames, WaitStatus | None], bytes]  # what fills it
    stream_headers: tuple[tuple[bytes, bytes], ...]
    dialect: Dialect = Dialect.OPENAI
    is_plain_read: bool = False  # bodies are read as JSON even if nobody said that they are


class Surface:
    """What the exchanges of one node share."""

    def __init__(
        self,
        *,
        inference: Inference,
        clock: Clock,
        default_model: Callable[[], str | None] = lambda: None,
        body_bytes_max: int = BODY_BYTES_MAX,
        keepalive_s: float = KEEPALIVE_S,
        blocked_s: float = BLOCKED_S,
    ) -> None:
        self.inference = inference
        self.clock = clock
        self.body_bytes_max = body_bytes_max
        self.keepalive_s = keepalive_s
        self.blocked_s = blocked_s
        self._default_model = default_model

    def open(self, caller: Caller, asked: Asked, ticket: Ticket) -> AbstractAsyncContextManager[ChunkStream]:
        """The chunks that answer."""
        return self.inference.open(caller, asked.request, ticket)

    def named(self, asked: Asked) -> Asked:
        """The request with the default model's name if it names none."""
        if asked.request.model:
            return asked
        return replace(asked, request=replace(asked.request, model=self.default_name()))

    def default_name(self) -> str:
        """The name of the model that answers who names none."""
        model = self._default_model()
        if model is None:
            raise BadRequest(
                N_("The request names no model."), param="model", hints=(N_("GET /v1/models lists them."),)
            )
        return model


class Exchange(Response):
    """A request that is answered inside a ticket. Subclasses say how."""

    def __init__(
        self,
        surface: Surface,
        request: Request,
        caller: Caller,
        *,
        route: str,
        dialect: Dialect = Dialect.OPENAI,
        is_plain_read: bool = False,
    ) -> None:
        # Nothing of a plain response is set up: its head is not known before there is something to send.
        self._surface = surface
        self._request = request
        self._caller = caller
        self._route, self._dialect, self._is_plain_read = route, dialect, is_plain_read
        self._writer: EventWriter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        request_id: str = state["request_id"]
        surface = self._surface
        try:
            with surface.inference.ticket(self._caller, self._route, request_id) as ticket:
                state["asked"] = partial(asked_headers, ticket)  # for whoever writes an error in place of an answer
                take_headers(scope["headers"], ticket)
                data = await read_body(
                    self._request, bytes_max=surface.body_bytes_max, is_plain_read=self._is_plain_read
                )
                answer = self._read(data)
                if len(data) > LARGE_BYTES:
                    await asyncio.sleep(0)
                del data  # else it stays until the last token
                with CallerWatch(receive, ticket, state.get("reader")):
                    await answer(ticket, send)
        except ClientClosed:
            return  # nobody is there to be told
        except Exception as failure:
            if self._writer is None or not self._writer.started:
                raise
            error = failure if isinstance(failure, YardError) else YardError()
            body = body_of(self._dialect, error, request_id, state.get("language", "en"))
            await self._writer.fail(self._failure(body))
        finally:
            if self._writer is not None:
                self._writer.close()

    def _read(self, data: bytes) -> Callable[[Ticket, Send], Awaitable[None]]:
        """What answers this body."""
        raise NotImplementedError

    def _failure(self, body: dict[str, object]) -> bytes:
        raise NotImplementedError

    async def _send_whole(self, body: bytes, ticket: Ticket, send: Send) -> None:
        headers: RawHeaders = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *told_headers(ticket, self._surface.clock),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class Answering(Exchange):
    """A request whose answer is made of chunks, whole or as a stream."""

    def __init__(self, surface: Surface, format: Format, request: Request, caller: Caller) -> None:
        super().__init__(
            surface, request, caller,
            route=format.route, dialect=format.dialect, is_plain_read=format.is_plain_read,
        )  # fmt: skip
        self._format = format

    def _read(self, data: bytes) -> Callable[[Ticket, Send], Awaitable[None]]:
        asked = self._surface.named(self._format.read(data))

        async def answer(ticket: Ticket, send: Send) -> None:
            ticket.streamed = asked.stream
            await (self._stream if asked.stream else self._whole)(asked, ticket, send)

        return answer

    def _failure(self, body: dict[str, object]) -> bytes:
        return self._format.failure(body)

    async def _stream(self, asked: Asked, ticket: Ticket, send: Send) -> None:
        surface, format = self._surface, self._format
        frames = format.frames(asked, ticket, surface.clock)
        self._writer = writer = EventWriter(
            send,
            ticket,
            lambda: [*format.stream_headers, *told_headers(ticket, surface.clock)],
            keepalive_s=surface.keepalive_s,
            blocked_s=surface.blocked_s,
            reader=self._request.scope["state"].get("reader"),
            comment=lambda: format.silence(frames, surface.inference.wait_of(ticket)),
        )
        async with surface.open(self._caller, asked, ticket) as stream:
            async for chunks in stream:
                frames.note = note_of(ticket)  # what is given up may turn out on the way
                if data := frames.encode(chunks):
                    await writer.write(data)
        await writer.finish(frames.end())

    async def _whole(self, asked: Asked, ticket: Ticket, send: Send) -> None:
        whole = self._format.whole(asked, ticket, self._surface.clock)
        async with self._surface.open(self._caller, asked, ticket) as stream:
            async for chunks in stream:
                whole.add(chunks)
        await self._send_whole(whole.body(note_of(ticket)), ticket, send)

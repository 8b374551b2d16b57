"""OpenAI's endpoints: chat completions and plain completions. Reads, asks, writes; decides nothing."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelyard.clock import Clock
from modelyard.errors import N_, BadRequest, ClientClosed, YardError
from modelyard.gateway.inference import Inference
from modelyard.gateway.keys import Caller
from modelyard.providers.ticket import Ticket

from .bodies import BODY_BYTES_MAX, LARGE_BYTES, invalid, read_body
from .openai_answer import ChatAnswer, ChatFrames, Collector, CompletionAnswer, CompletionFrames, Frames
from .openai_codec import Asked, read_chat, read_completion
from .problems import error_body
from .streaming import BLOCKED_S, HEADERS, KEEPALIVE_S, CallerWatch, EventWriter, RawHeaders, wait_comment


@dataclass(frozen=True, slots=True)
class Format:
    """One way to ask and to answer."""

    route: str
    id_prefix: str
    read: Callable[[bytes], Asked]
    frames: Callable[[str, int, str, bool], Frames]
    whole: Callable[[str, int, str], Collector]


_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)

CHAT = Format("/v1/chat/completions", "chatcmpl-", read_chat, ChatFrames, ChatAnswer)
COMPLETION = Format("/v1/completions", "cmpl-", read_completion, CompletionFrames, CompletionAnswer)


class OpenAIEndpoints:
    """The endpoints of one node."""

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

    async def chat_completions(self, request: Request, caller: Caller) -> Response:
        """POST /v1/chat/completions."""
        return Exchange(self, CHAT, request, caller)

    async def completions(self, request: Request, caller: Caller) -> Response:
        """POST /v1/completions."""
        return Exchange(self, COMPLETION, request, caller)

    def named(self, asked: Asked) -> Asked:
        """The request with the default model's name if it names none."""
        if asked.request.model:
            return asked
        model = self._default_model()
        if model is None:
            raise BadRequest(
                N_("The request names no model."), param="model", hints=(N_("GET /v1/models lists them."),)
            )
        return replace(asked, request=replace(asked.request, model=model))


class Exchange(Response):
    """One request and its answer, from the body to the last byte, inside one ticket.

    Until the headers are out an error is raised, for whoever gives it a status. Afterwards it is the last frame.
    """

    def __init__(self, endpoints: OpenAIEndpoints, format: Format, request: Request, caller: Caller) -> None:
        # Nothing of a plain response is set up: its head is not known before there is something to send.
        self._endpoints = endpoints
        self._format = format
        self._request = request
        self._caller = caller
        self._writer: EventWriter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        request_id: str = state["request_id"]
        format, inference = self._format, self._endpoints.inference
        try:
            with inference.ticket(self._caller, format.route, request_id) as ticket:
                data = await read_body(self._request, bytes_max=self._endpoints.body_bytes_max)
                asked = self._endpoints.named(format.read(data))
                if len(data) > LARGE_BYTES:
                    await asyncio.sleep(0)
                del data  # else it stays until the last token
                ticket.streamed = asked.stream
                ticket.wait_s_max = patience(self._request.headers.get("x-modelyard-wait-seconds"))
                answer = self._stream if asked.stream else self._whole
                with CallerWatch(receive, ticket, state.get("reader")):
                    await answer(asked, ticket, send)
        except ClientClosed:
            return  # nobody is there to be told
        except Exception as failure:
            if self._writer is None or not self._writer.started:
                raise
            error = failure if isinstance(failure, YardError) else YardError()
            body = error_body(error, request_id, state.get("language", "en"))
            await self._writer.fail(b"data: " + orjson.dumps(body, default=str) + b"\n\n")
        finally:
            if self._writer is not None:
                self._writer.close()

    async def _stream(self, asked: Asked, ticket: Ticket, send: Send) -> None:
        endpoints = self._endpoints
        self._writer = writer = EventWriter(
            send,
            ticket,
            lambda: [*HEADERS, *self._facts(ticket)],
            keepalive_s=endpoints.keepalive_s,
            blocked_s=endpoints.blocked_s,
            reader=self._request.scope["state"].get("reader"),
            comment=lambda: wait_comment(endpoints.inference.wait_of(ticket)),
        )
        frames = self._format.frames(self._new_id(), self._now(), asked.request.model, asked.include_usage)
        async with endpoints.inference.open(self._caller, asked.request, ticket) as stream:
            frames.note = note_of(ticket)
            async for chunks in stream:
                if data := frames.encode(chunks):
                    await writer.write(data)
        await writer.finish(frames.end())

    async def _whole(self, asked: Asked, ticket: Ticket, send: Send) -> None:
        whole = self._format.whole(self._new_id(), self._now(), asked.request.model)
        async with self._endpoints.inference.open(self._caller, asked.request, ticket) as stream:
            async for chunks in stream:
                whole.add(chunks)
        body = whole.body(note_of(ticket))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *self._facts(ticket),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _facts(self, ticket: Ticket) -> RawHeaders:
        """What happened to this answer, as far as it is known when the head goes out."""
        now = self._endpoints.clock.monotonic()
        took_s = now - ticket.started_at
        facts = [(b"openai-processing-ms", _ms(took_s))]
        if ticket.model:
            facts.append((b"x-modelyard-model", ticket.model.encode("ascii", "replace")))
        if ticket.provider:
            facts.append((b"x-modelyard-node", ticket.provider.encode("ascii", "replace")))
        if ticket.degraded:
            facts.append((b"x-modelyard-degraded", ", ".join(ticket.degraded).encode("ascii", "replace")))
        if ticket.queue_s is None or ticket.load_s is None:
            return facts
        facts.append((b"x-modelyard-queue-ms", _ms(ticket.queue_s)))
        facts.append((b"x-modelyard-load-ms", _ms(ticket.load_s)))
        if ticket.sent_at is not None:
            answered_at = ticket.answered_at or now
            ours_s = took_s - ticket.queue_s - ticket.load_s - (answered_at - ticket.sent_at)
            facts.append((b"x-modelyard-overhead-ms", b"%.2f" % (max(ours_s, 0.0) * 1000)))
        return facts

    def _new_id(self) -> str:
        return self._format.id_prefix + os.urandom(12).hex()

    def _now(self) -> int:
        return int(self._endpoints.clock.wall())


def patience(text: str | None) -> float | None:
    """How long the caller wants to wait for memory and a slot, in seconds; None: as long as we let it."""
    if text is None:
        return None
    if not _SECONDS.fullmatch(text):
        raise invalid("X-Modelyard-Wait-Seconds", "it is a number of seconds, such as 0 or 2.5")
    return float(text)


def _ms(seconds: float) -> bytes:
    return b"%d" % round(seconds * 1000)


def note_of(ticket: Ticket) -> bytes:
    """What is to be said about this answer inside its body, as JSON; empty where all is as it was asked for."""
    if not ticket.degraded:
        return b""
    note: dict[str, object] = {"model": ticket.model, "degraded": ticket.degraded}
    if ticket.fallback_reason:
        note["fallback_reason"] = ticket.fallback_reason
    return orjson.dumps(note)

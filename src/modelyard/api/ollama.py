"""Ollama's endpoints that ask models: chat and generate, with loading and unloading by an empty question.

`/api/v1/llm/*` asks and answers in the same way, except that it streams only when told to, writes errors as OpenAI
does, and names the node that answered. Reads, asks, writes; decides nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Protocol, cast

from starlette.requests import Request
from starlette.responses import Response

from modelyard.clock import Clock
from modelyard.gateway.keys import Caller
from modelyard.providers.base import ChunkStream
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import Chunk, InferenceRequest
from modelyard.types.status import WaitStatus

from .asked import Asked
from .exchange import Answering, Format, Surface
from .frames import Collector, Frames
from .ollama_answer import OllamaFrames, OllamaWhole, Shape, dumps
from .ollama_codec import read_ollama_chat, read_ollama_generate
from .problems import Dialect

NDJSON = b"application/x-ndjson"
STREAM_HEADERS = (
    (b"content-type", NDJSON),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)


class Standby(Protocol):
    """Who brings models in and lets go of them for callers that ask for nothing else."""

    async def load(self, caller: Caller, request: InferenceRequest, ticket: Ticket) -> None: ...

    async def unload(self, caller: Caller, request: InferenceRequest, ticket: Ticket) -> None: ...


def _format(route: str, read: Callable[[bytes], Asked], shape: Shape) -> Format:
    def frames(asked: Asked, ticket: Ticket, clock: Clock) -> Frames:
        return OllamaFrames(shape, asked, ticket, clock)

    def whole(asked: Asked, ticket: Ticket, clock: Clock) -> Collector:
        return OllamaWhole(shape, asked, ticket, clock)

    return Format(route, read, frames, whole, line, _silence, STREAM_HEADERS, Dialect.OLLAMA, is_plain_read=True)


def _llm_format(route: str, read: Callable[..., Asked], shape: Shape) -> Format:
    def frames(asked: Asked, ticket: Ticket, clock: Clock) -> Frames:
        return OllamaFrames(shape, asked, ticket, clock, names_node=True)

    def whole(asked: Asked, ticket: Ticket, clock: Clock) -> Collector:
        return OllamaWhole(shape, asked, ticket, clock, names_node=True)

    return Format(route, partial(read, streams=False), frames, whole, line, _silence, STREAM_HEADERS)


def line(body: dict[str, Any]) -> bytes:
    """One object as one line."""
    return dumps(body) + b"\n"


def _silence(frames: Frames, _wait: WaitStatus | None) -> bytes:
    return cast(OllamaFrames, frames).silence()


CHAT = _format("/api/chat", read_ollama_chat, "message")
GENERATE = _format("/api/generate", read_ollama_generate, "response")
LLM_CHAT = _llm_format("/api/v1/llm/chat", read_ollama_chat, "message")
LLM_GENERATE = _llm_format("/api/v1/llm/generate", read_ollama_generate, "response")


class OllamaEndpoints(Surface):
    """The endpoints of one node."""

    def __init__(self, *, standby: Standby, **shared: Any) -> None:
        super().__init__(**shared)
        self._standby = standby

    async def chat(self, request: Request, caller: Caller) -> Response:
        """POST /api/chat."""
        return Answering(self, CHAT, request, caller)

    async def generate(self, request: Request, caller: Caller) -> Response:
        """POST /api/generate."""
        return Answering(self, GENERATE, request, caller)

    async def llm_chat(self, request: Request, caller: Caller) -> Response:
        """POST /api/v1/llm/chat."""
        return Answering(self, LLM_CHAT, request, caller)

    async def llm_generate(self, request: Request, caller: Caller) -> Response:
        """POST /api/v1/llm/generate."""
        return Answering(self, LLM_GENERATE, request, caller)

    def open(self, caller: Caller, asked: Asked, ticket: Ticket) -> AbstractAsyncContextManager[ChunkStream]:
        """The chunks that answer; none where a model is only to come or go."""
        if not asked.act:
            return self.inference.open(caller, asked.request, ticket)
        return self._acted(caller, asked, ticket)

    @asynccontextmanager
    async def _acted(self, caller: Caller, asked: Asked, ticket: Ticket) -> AsyncIterator[ChunkStream]:
        act = self._standby.load if asked.act == "load" else self._standby.unload
        await act(caller, asked.request, ticket)
        yield _Nothing()


class _Nothing:
    """An answer without chunks."""

    def __aiter__(self) -> _Nothing:
        return self

    async def __anext__(self) -> list[Chunk]:
        raise StopAsyncIteration

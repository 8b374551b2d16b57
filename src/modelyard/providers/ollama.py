"""An Ollama node as a provider, over its own API: its OpenAI one loses errors in mid-stream.

It sends nothing, not even a head, until the model is in its memory, so the first sign of life has the time for a load.
Several choices are asked for one after the other.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Self

import msgspec
import orjson

from modelyard.clock import Clock
from modelyard.errors import N_, CapabilityMissing, UpstreamInvalid, UpstreamTimeout
from modelyard.types.chat import Chunk, InferenceRequest, Usage
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, RerankAnswer, RerankRequest
from modelyard.types.model import Capability, Model

from .deadlines import Deadlines
from .node_http import NodeConnections
from .ollama_request import encode_ollama, path_of
from .ollama_wire import OllamaDecoder, ollama_failure
from .remote_stream import RemoteRequest, RemoteStream, ask_whole, for_model
from .ticket import Ticket
from .told import Tokens

LINES, JSON = b"application/x-ndjson", b"application/json"


class _Embeddings(msgspec.Struct):
    embeddings: list[list[float]]
    prompt_eval_count: Tokens = 0


class OllamaProvider:
    """Answers with one Ollama server."""

    def __init__(
        self,
        name: str,
        connections: NodeConnections,
        clock: Clock,
        deadlines: Deadlines,
        *,
        key: str = "",
        is_resident: Callable[[Model], bool] = lambda _model: False,
    ) -> None:
        """`is_resident` tells, as far as is known, whether a model has to be loaded first."""
        self.name = name
        self._connections, self._clock, self._deadlines = connections, clock, deadlines
        self._is_resident = is_resident
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def __repr__(self) -> str:
        return f"OllamaProvider({self.name!r})"

    @asynccontextmanager
    async def answer(self, model: Model, request: InferenceRequest, ticket: Ticket) -> AsyncIterator[OllamaStream]:
        """Ask, and hand out the stream."""
        ticket.provider, ticket.phase = self.name, "prefill"
        ticket.queue_s, ticket.load_s = ticket.queue_s or 0.0, ticket.load_s or 0.0
        deadlines = for_model(self._deadlines, model.size_bytes, is_resident=self._is_resident(model))
        if request.think and Capability.THINKING not in model.capabilities:
            request = replace(request, think=None)  # Ollama refuses it; whoever asks here is answered all the same
        stream = OllamaStream(self, model, request, ticket, deadlines)
        try:
            ticket.sent_at = self._clock.monotonic()
            await stream.open()
            yield stream
        finally:
            stream.close()

    async def embed(self, model: Model, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        """Vectors in the order of the inputs. Token numbers are refused: Ollama takes texts."""
        if not all(isinstance(text, str) for text in request.inputs):
            raise ollama_failure(self.name, model.name, "this model does not support token numbers as input")
        ticket.provider, ticket.phase = self.name, "prefill"
        body: dict[str, object] = {
            "model": model.node_model, "input": request.inputs, "truncate": request.truncate,
        }  # fmt: skip
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        if request.keep_alive_s is not None:
            body["keep_alive"] = -1 if request.keep_alive_s < 0 else request.keep_alive_s
        asked = self.request("/api/embed", orjson.dumps(body), JSON)
        deadlines = for_model(self._deadlines, model.size_bytes, is_resident=self._is_resident(model))
        ticket.sent_at = self._clock.monotonic()
        try:
            async with asyncio.timeout(deadlines.first_token_s):
                raw = await ask_whole(
                    self._connections, self.name, model.node_model, asked, ticket, self._clock,
                    connect_s=deadlines.connect_s, failure=partial(ollama_failure, self.name, model.name),
                )  # fmt: skip
        except TimeoutError as exc:
            raise UpstreamTimeout(model=model.name, budget_s=deadlines.first_token_s) from exc
        return self._vectors(raw, len(request.inputs))

    async def rerank(self, model: Model, request: RerankRequest, ticket: Ticket) -> RerankAnswer:
        """Ollama has no API for it."""
        raise CapabilityMissing(model=model.name, capability=Capability.RERANK.value)

    def stream(self, model: Model, ticket: Ticket, deadlines: Deadlines, choice: Callable[[], int]) -> RemoteStream:
        """The bytes of one answer, with its deadlines."""
        return RemoteStream(
            self._connections, self.name, model.node_model, ticket, deadlines, self._clock,
            lambda: OllamaDecoder(self.name, model.node_model, choice=choice(), tag=os.urandom(6).hex()),
            failure=partial(ollama_failure, self.name, model.node_model),
        )  # fmt: skip

    def request(self, path: str, body: bytes, media_type: bytes) -> RemoteRequest:
        return RemoteRequest(path, body, {**self._headers, "Accept": media_type.decode()}, media_type)

    def _vectors(self, raw: bytes, count: int) -> EmbedAnswer:
        try:
            told = msgspec.json.decode(raw, type=_Embeddings)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise UpstreamInvalid(provider=self.name, problem=N_("its vectors cannot be read")) from exc
        if len(told.embeddings) != count:
            raise UpstreamInvalid(
                provider=self.name, problem=N_("it sent another number of vectors than it was asked for")
            )
        return EmbedAnswer(tuple(told.embeddings), told.prompt_eval_count)


class OllamaStream:
    """All choices of one answer, one after the other: the prompt counts once, answers add up."""

    def __init__(
        self, provider: OllamaProvider, model: Model, request: InferenceRequest, ticket: Ticket, deadlines: Deadlines
    ) -> None:
        self._provider, self._model, self._request = provider, model, request
        self._choice = 0
        self._usage: Usage | None = None
        self._stream = provider.stream(model, ticket, deadlines, lambda: self._choice)

    async def open(self) -> None:
        body = encode_ollama(self._request, self._model.node_model, choice=self._choice)
        await self._stream.open(self._provider.request(path_of(self._request), body, LINES))

    def close(self) -> None:
        self._stream.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Chunk]:
        while True:
            try:
                chunks = await self._stream.__anext__()
            except StopAsyncIteration:
                if self._choice + 1 >= self._request.choices:
                    raise
                self._choice += 1
                await self.open()
                continue
            return chunks if self._request.choices == 1 else self._summed(chunks)

    def _summed(self, chunks: list[Chunk]) -> list[Chunk]:
        kept: list[Chunk] = []
        for chunk in chunks:
            if not isinstance(chunk, Usage):
                kept.append(chunk)
            elif self._usage is None:
                self._usage = chunk
            else:
                self._usage = Usage(self._usage.input_tokens, self._usage.output_tokens + chunk.output_tokens)
        if self._stream.is_complete and self._choice + 1 == self._request.choices and self._usage is not None:
            kept.append(self._usage)
        return kept

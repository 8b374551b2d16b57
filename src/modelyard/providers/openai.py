"""Any OpenAI-compatible server as a provider: vLLM, llama-server, LM Studio, a cloud API, another server like us.

Always asked for a stream, whatever our caller wants: only a stream can be watched. What the server need not understand
is not sent: fields beyond OpenAI's own can be switched off per node. The key goes into one header and nowhere else.
"""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import msgspec
import orjson

from modelyard.clock import Clock
from modelyard.errors import N_, UpstreamInvalid, UpstreamTimeout
from modelyard.types.chat import InferenceRequest
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, RerankAnswer, RerankRequest
from modelyard.types.model import Model

from .deadlines import Deadlines
from .node_http import NodeConnections
from .openai_request import encode_request, path_of
from .openai_wire import AnswerDecoder
from .remote_stream import RemoteRequest, RemoteStream, ask_whole, for_model
from .ticket import Ticket
from .told import Tokens
from .vectors_wire import EMBED_PATH, RERANK_PATH, decode_rerank, encode_rerank

EVENTS, JSON = b"text/event-stream", b"application/json"
# What OpenAI's own API knows of sampling; servers of others know more, and may refuse nothing or everything else.
OWN_OPTIONS = frozenset((
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "logit_bias", "logprobs", "top_logprobs",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class OpenAIDialect:
    """What one server wants to be asked in which way."""

    extra_options: bool = True  # sampling fields beyond OpenAI's own may be sent
    new_token_limit: bool = False  # `max_completion_tokens` in place of `max_tokens`
    continues: bool = False  # it goes on from an assistant's turn that comes last, asked in vLLM's way


class _Vector(msgspec.Struct):
    index: int
    embedding: list[float] | str


class _Count(msgspec.Struct):
    prompt_tokens: Tokens = 0


class _Embeddings(msgspec.Struct):
    data: list[_Vector]
    usage: _Count | None = None


class OpenAIProvider:
    """Answers with one OpenAI-compatible server."""

    def __init__(
        self,
        name: str,
        connections: NodeConnections,
        clock: Clock,
        deadlines: Deadlines,
        *,
        key: str = "",
        dialect: OpenAIDialect | None = None,
        is_resident: Callable[[Model], bool] = lambda _model: True,
    ) -> None:
        """`is_resident` tells, as far as is known, whether a model is there already; most servers have it there."""
        self._is_resident = is_resident
        self.name = name
        self._connections, self._clock, self._deadlines = connections, clock, deadlines
        self._dialect = dialect or OpenAIDialect()
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def __repr__(self) -> str:
        return f"OpenAIProvider({self.name!r})"

    @asynccontextmanager
    async def answer(self, model: Model, request: InferenceRequest, ticket: Ticket) -> AsyncIterator[RemoteStream]:
        """Ask, and hand out the stream."""
        ticket.provider, ticket.phase = self.name, "prefill"
        ticket.queue_s, ticket.load_s = ticket.queue_s or 0.0, ticket.load_s or 0.0
        decoder = partial(AnswerDecoder, self.name, request.choices)
        deadlines = for_model(self._deadlines, model.size_bytes, is_resident=self._is_resident(model))
        stream = RemoteStream(self._connections, self.name, model.node_model, ticket, deadlines, self._clock, decoder)
        try:
            ticket.sent_at = self._clock.monotonic()
            await stream.open(self._request(path_of(request), encode(request, model.node_model, self._dialect), EVENTS))
            yield stream
        finally:
            stream.close()

    async def embed(self, model: Model, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        """Vectors in the order of the inputs."""
        ticket.provider, ticket.phase = self.name, "prefill"
        body: dict[str, object] = {"model": model.node_model, "input": request.inputs, "encoding_format": "float"}
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        return self._vectors(await self._asked(EMBED_PATH, orjson.dumps(body), model, ticket), len(request.inputs))

    async def rerank(self, model: Model, request: RerankRequest, ticket: Ticket) -> RerankAnswer:
        """Scores in the order of the documents."""
        ticket.provider, ticket.phase = self.name, "prefill"
        body = encode_rerank(model.node_model, request.query, request.documents)
        raw = await self._asked(RERANK_PATH, body, model, ticket)
        return decode_rerank(self.name, raw, len(request.documents))

    async def _asked(self, path: str, body: bytes, model: Model, ticket: Ticket) -> bytes:
        asked = self._request(path, body, JSON)
        deadlines = for_model(self._deadlines, model.size_bytes, is_resident=self._is_resident(model))
        budget_s, ticket.sent_at = deadlines.first_token_s, self._clock.monotonic()
        try:
            async with asyncio.timeout(budget_s):
                return await ask_whole(
                    self._connections, self.name, model.node_model, asked, ticket, self._clock,
                    connect_s=self._deadlines.connect_s,
                )  # fmt: skip
        except TimeoutError as exc:
            raise UpstreamTimeout(model=model.name, budget_s=budget_s) from exc

    def _vectors(self, raw: bytes, count: int) -> EmbedAnswer:
        try:
            told = msgspec.json.decode(raw, type=_Embeddings)
            ordered = sorted(told.data, key=lambda one: one.index)
            vectors = [_floats(one.embedding) for one in ordered]
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, struct.error, RecursionError) as exc:
            raise UpstreamInvalid(provider=self.name, problem=N_("its vectors cannot be read")) from exc
        if len(vectors) != count or [one.index for one in sorted(told.data, key=lambda one: one.index)] != [
            *range(count)
        ]:
            raise UpstreamInvalid(
                provider=self.name, problem=N_("it sent another number of vectors than it was asked for")
            )
        return EmbedAnswer(tuple(vectors), told.usage.prompt_tokens if told.usage is not None else 0)

    def _request(self, path: str, body: bytes, media_type: bytes) -> RemoteRequest:
        return RemoteRequest(path, body, {**self._headers, "Accept": media_type.decode()}, media_type)


def encode(request: InferenceRequest, name: str, dialect: OpenAIDialect) -> bytes:
    """The body for one server."""
    options = dict(request.options)
    if not dialect.extra_options:
        options = {key: value for key, value in options.items() if key in OWN_OPTIONS}
    if request.think is not None:
        options |= _thinking(request.think, extra=dialect.extra_options)
    max_tokens = request.max_tokens
    if dialect.new_token_limit and max_tokens is not None and request.is_chat:
        options["max_completion_tokens"], max_tokens = max_tokens, None
    if dialect.continues and request.messages and request.messages[-1].role == "assistant":
        options |= {"continue_final_message": True, "add_generation_prompt": False}
    if request.suffix:
        options["suffix"] = request.suffix
    return encode_request(replace(request, model=name, options=options, max_tokens=max_tokens, think=None, suffix=None))


def _thinking(think: bool | str, *, extra: bool) -> dict[str, object]:
    found: dict[str, object] = {}
    if isinstance(think, str):
        found["reasoning_effort"] = think
    if extra:
        found["chat_template_kwargs"] = {"enable_thinking": bool(think)}
    return found


def _floats(vector: list[float] | str) -> list[float]:
    if isinstance(vector, str):
        raw = base64.b64decode(vector, validate=True)
        return list(struct.unpack(f"<{len(raw) // 4}f", raw))
    return vector

"""Ollama's endpoints that change which models there are: pull, delete, copy, in our store or at a chosen node.

A name is a name, or to pull what a registry calls a model: nothing that could be a path or a digest goes any further.
What Ollama does beyond that (push, create, blobs) is refused with a clear word.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelyard.clock import Clock
from modelyard.errors import N_, ClientClosed, NotBuilt, UpstreamInvalid, YardError
from modelyard.gateway.keys import Caller
from modelyard.providers.ticket import Ticket
from modelyard.registry.reference import parse
from modelyard.types.model import ModelRef

from .answers import json_answer
from .bodies import decode_body, invalid, read_body
from .ollama import STREAM_HEADERS, line
from .ollama_body import OllamaCopyBody, OllamaModelBody
from .ollama_codec import required_name
from .problems import ollama_body
from .streaming import BLOCKED_S, KEEPALIVE_S, CallerWatch, EventWriter

BODY_BYTES_MAX = 64 * 1024
_NODE = re.compile(r"[\w.-]{1,64}", re.ASCII)
_DIGEST = re.compile(r"sha256[:-]?[0-9a-f]*", re.ASCII)
_SUCCESS = {"status": "success"}
_model = msgspec.json.Decoder(OllamaModelBody)
_copy = msgspec.json.Decoder(OllamaCopyBody)


class ModelStore(Protocol):
    """Who changes which models there are. A node of None is for the store to choose."""

    def pull(self, caller: Caller, name: str, node: str | None = None) -> AsyncIterator[Mapping[str, object]]: ...

    async def delete(self, caller: Caller, name: str, node: str | None = None) -> None: ...

    async def copy(self, caller: Caller, name: str, to: str, node: str | None = None) -> None: ...


class OllamaStoreEndpoints:
    """The endpoints of one node."""

    def __init__(self, store: ModelStore, clock: Clock, *, keepalive_s: float = KEEPALIVE_S) -> None:
        self._store, self._clock, self._keepalive_s = store, clock, keepalive_s

    async def pull(self, request: Request, caller: Caller) -> Response:
        """POST /api/pull: progress as lines of JSON, the last one with the status `success`."""
        body = decode_body(await read_body(request, bytes_max=BODY_BYTES_MAX), _model)
        if body.insecure:
            raise invalid("insecure", N_("models are fetched over checked connections only"))
        name, node = checked_wish(required_name(body.wanted)), checked_node(body.node)
        steps = self._store.pull(caller, name, node)
        if body.stream is not False:
            return Pull(steps, caller, self._clock, self._keepalive_s)
        last: Mapping[str, object] = {}
        async for last in steps:
            _check_step(last, name)
        return json_answer(_checked_end(last, name))

    async def delete(self, request: Request, caller: Caller) -> Response:
        """DELETE /api/delete."""
        body = decode_body(await read_body(request, bytes_max=BODY_BYTES_MAX), _model)
        name = checked_name(required_name(body.wanted), "model")
        await self._store.delete(caller, name, checked_node(body.node))
        return Response()

    async def copy(self, request: Request, caller: Caller) -> Response:
        """POST /api/copy."""
        body = decode_body(await read_body(request, bytes_max=BODY_BYTES_MAX), _copy)
        source = checked_name(required_name(body.source), "source")
        to = checked_name(body.destination, "destination")
        await self._store.copy(caller, source, to, checked_node(body.node))
        return Response()


async def not_built(request: Request, _caller: Caller) -> Response:
    """What we do not have of Ollama's API."""
    path: str = request.scope["path"]
    raise NotBuilt(what=path[:64])


class Pull(Response):
    """A pull under way, told line by line. Whoever hangs up ends it."""

    def __init__(
        self, steps: AsyncIterator[Mapping[str, object]], caller: Caller, clock: Clock, keepalive_s: float
    ) -> None:
        self._steps, self._caller, self._clock, self._keepalive_s = steps, caller, clock, keepalive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        request_id: str = state["request_id"]
        ticket = Ticket(
            request_id, request_id=request_id, route="/api/pull", caller_id=self._caller.id,
            started_at=self._clock.monotonic(),
        )  # fmt: skip
        last: Mapping[str, object] = {"status": "pulling manifest"}
        writer = EventWriter(
            send, ticket, lambda: list(STREAM_HEADERS), keepalive_s=self._keepalive_s, blocked_s=BLOCKED_S,
            reader=state.get("reader"), comment=lambda: line(dict(last)),
        )  # fmt: skip
        try:
            with ticket, CallerWatch(receive, ticket, state.get("reader")):
                async with aclosing(self._steps) as steps:  # type: ignore[type-var]
                    async for step in steps:  # to its end: only then is the act over
                        _check_step(step, "the node")
                        if last.get("status") == "success":
                            continue
                        last = step
                        if step.get("status") != "success":
                            await writer.write(line(dict(step)))
                await writer.finish(line(dict(_checked_end(last, "the node"))))
        except ClientClosed:
            return
        except Exception as failure:
            if not writer.started:
                raise
            error = failure if isinstance(failure, YardError) else YardError()
            await writer.fail(line(ollama_body(error, request_id, state.get("language", "en"))))
        finally:
            writer.close()


def _check_step(step: Mapping[str, object], source: str) -> None:
    if "error" in step:
        raise UpstreamInvalid(provider=source, problem=str(step["error"])[:200])


def _checked_end(last: Mapping[str, object], source: str) -> Mapping[str, object]:
    """A pull that ends without saying so was cut."""
    if last.get("status") != "success":
        raise UpstreamInvalid(provider=source, problem=N_("the pull ended before it was done"))
    return last


def checked_name(text: str, param: str) -> str:
    """A model's name, with or without its node; nothing that could be a path or a digest.

    >>> checked_name("org/qwen:4b@studio", "model")
    'org/qwen:4b@studio'
    """
    try:
        ref = ModelRef.parse(text)
    except ValueError as exc:
        raise invalid(param, str(exc)) from None
    parts = [*ref.name.split("/"), ref.tag]
    if not text.isascii() or any(_DIGEST.fullmatch(part.lower()) for part in parts):
        raise invalid(param, N_("it must be a name, not a digest, of plain letters, digits and . _ - + /"))
    return text


def checked_wish(text: str) -> str:
    """What may be pulled: a model's name, or a reference to a registry.

    >>> checked_wish("hf:org/Repo-GGUF:Q4_K_M"), checked_wish("qwen:4b")
    ('hf:org/Repo-GGUF:Q4_K_M', 'qwen:4b')
    """
    try:
        found = parse(text)
    except ValueError as exc:
        raise invalid("model", str(exc)) from None
    return text if found is not None else checked_name(text, "model")


def checked_node(text: str) -> str | None:
    """A node's name; None where none is given."""
    if not text:
        return None
    if not _NODE.fullmatch(text):
        raise invalid("node", N_("it is not the name of a node"))
    return text

"""The admin API as a FastAPI app, for its OpenAPI description and its checking of bodies; off the hot path.

It is never served by itself: each of its paths is listed in the route table with the right it asks for, and reached
only after that. Errors are problem+json.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelyard import __version__
from modelyard.errors import N_, BadRequest, ClientClosed, RequestTooLarge, Unavailable, UnsupportedMediaType
from modelyard.events import Event, EventBus
from modelyard.gateway.operations import DRAINING, Operations
from modelyard.types.memory import Receipt
from modelyard.types.status import NodeStatus
from modelyard.words import receipts

from .admin_nodes import add_nodes
from .admin_store import add_store
from .answers import json_answer
from .callers import By
from .problems import failure_response

BODY_BYTES_MAX = 64 * 1024
KEEPALIVE_S = 10.0
SCHEMA_VERSION = 1


class LoadBody(BaseModel):
    """How to load."""

    model_config = ConfigDict(extra="forbid", strict=True)
    pinned: bool | None = None


class UnloadBody(BaseModel):
    """How to unload."""

    model_config = ConfigDict(extra="forbid", strict=True)
    force: bool = False


class PinBody(BaseModel):
    """Whether the model stays in memory whatever else wants the room."""

    model_config = ConfigDict(extra="forbid", strict=True)
    pinned: bool = True


class ProblemRoute(APIRoute):
    """A route whose failures become problem+json."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        run = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await run(request)
            except RequestValidationError as failure:
                error = BadRequest(problems=[_pointed(problem) for problem in failure.errors()])
                return failure_response(error, request.scope["state"])
            except Exception as failure:
                return failure_response(failure, request.scope["state"], path=request.scope["path"])

        return handle


def build_admin(operations: Operations, *, keepalive_s: float = KEEPALIVE_S) -> FastAPI:
    """The admin API of one node."""
    api = FastAPI(
        title="Modelyard", version=__version__, docs_url=None, redoc_url=None, openapi_url=None,
        redirect_slashes=False, strict_content_type=False,
    )  # fmt: skip
    api.router.route_class = ProblemRoute
    _add_reads(api, operations, keepalive_s)
    _add_acts(api, operations)
    if operations.nodes is not None:
        add_nodes(api, operations.nodes)
    add_store(api, operations)
    return api


def _add_reads(api: FastAPI, operations: Operations, keepalive_s: float) -> None:
    @api.get("/admin/status", responses={200: {"model": NodeStatus}})
    async def status() -> Response:
        """The node at this moment."""
        return json_answer({"schema_version": SCHEMA_VERSION, **asdict(await operations.fresh_status())})

    @api.get("/admin/events", response_class=StreamingResponse)
    async def events(request: Request) -> Response:
        """What happens in this node, as server-sent events. `Last-Event-ID` continues after an earlier one."""
        if operations.events.is_full:
            raise Unavailable(N_("As many readers follow the events as may."), retry_after_s=5.0)
        after = _last_event_id(request)
        lines = _follow(operations.events, after, lambda: operations.is_draining, keepalive_s, _language(request))
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(lines, media_type="text/event-stream", headers=headers)

    @api.get("/admin/config")
    async def config() -> Response:
        """Every setting in effect and where it came from; secrets are masked."""
        return json_answer(operations.effective_settings())


def _add_acts(api: FastAPI, operations: Operations) -> None:
    @api.post("/admin/models/rescan")
    async def rescan(caller: By) -> Response:
        """Read the model folders again."""
        models = await operations.rescan(caller)
        return json_answer({"models": [{"id": model.name, "problem": model.problem or None} for model in models]})

    @api.post("/admin/models/{name:path}/load")
    async def load(request: Request, name: str, caller: By, body: LoadBody | None = None) -> Response:
        """Bring a model into memory. The receipt is null if it was there already."""
        receipt = await operations.load(caller, name, pinned=body.pinned if body else None)
        return _receipt(receipt, _language(request), "there")

    @api.post("/admin/models/{name:path}/unload")
    async def unload(request: Request, name: str, caller: By, body: UnloadBody | None = None) -> Response:
        """Take a model out of memory. The receipt is null if it was not there."""
        receipt = await operations.unload(caller, name, force=body.force if body else False)
        return _receipt(receipt, _language(request))

    @api.post("/admin/models/{name:path}/pin")
    async def pin(name: str, caller: By, body: PinBody | None = None) -> Response:
        """Keep a model in memory whatever else wants the room, or no longer."""
        pinned = body.pinned if body else True
        operations.pin(caller, name, pinned=pinned)
        return json_answer({"pinned": pinned})

    @api.delete("/admin/requests/{request_id}")
    async def cancel(request_id: str, caller: By) -> Response:
        """Stop one request in flight."""
        operations.cancel(caller, request_id)
        return json_answer({"cancelled": request_id})


class SmallJsonBodies:
    """Reads a body to its end before the app behind runs: JSON only, small, and empty where there is none."""

    def __init__(self, app: ASGIApp, *, bytes_max: int = BODY_BYTES_MAX) -> None:
        self._app = app
        self._bytes_max = bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if media_type not in (b"", b"application/json"):  # a form of a foreign page always names its own
            raise UnsupportedMediaType(media_type=ascii(media_type.decode("latin-1")))
        self._check(int(headers.get(b"content-length", b"0")))
        body = await self._read(receive)
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientClosed()
            body += message.get("body", b"")
            self._check(len(body))
            more = message.get("more_body", False)
        return bytes(body)

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._bytes_max:
            raise RequestTooLarge(what=N_("the body"), limit=f"{self._bytes_max} bytes", hints=())


async def _follow(
    bus: EventBus, after: int | None, is_draining: Callable[[], bool], keepalive_s: float, language: str
) -> AsyncIterator[bytes]:
    with bus.subscribe(after) as subscription:
        lost_count, is_over = 0, is_draining()  # before anything is awaited: what comes later is in the backlog
        yield b": connected\n\n"
        while not is_over:
            try:
                event = await asyncio.wait_for(subscription.next(), keepalive_s)
            except TimeoutError:
                is_over = is_draining()
                yield b": keepalive\n\n"
                continue
            if subscription.lost_count > lost_count:
                lost_count = subscription.lost_count
                yield b'event: events.lost\ndata: {"count":%d}\n\n' % lost_count
            yield event_frame(event, language)
            is_over = event.name == DRAINING


def event_frame(event: Event, language: str = "en") -> bytes:
    """One event as a server-sent event, with words for people where it has some.

    JSON text has no line breaks, and event names are ours.
    """
    words = receipts.lines(event.name, event.fields, language)
    message = {"message": "\n".join(words)} if words else {}
    data = orjson.dumps(
        {"event": event.name, "at": event.at, **event.fields, **message}, default=str, option=orjson.OPT_NON_STR_KEYS
    )
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.number, event.name.encode("ascii"), data)


def _last_event_id(request: Request) -> int | None:
    text = request.headers.get("last-event-id", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def _language(request: Request) -> str:
    return str(getattr(request.state, "language", "en"))


def _receipt(receipt: Receipt | None, language: str, otherwise: str = "") -> Response:
    """What memory did, for programs, and the words for it."""
    told = None if receipt is None else asdict(receipt)
    words = receipts.lines(f"model.{receipt.action}ed" if receipt else otherwise, told or {}, language)
    return json_answer({"receipt": told, "message": "\n".join(words)} if words else {"receipt": told})


def _pointed(problem: Any) -> dict[str, str]:
    """One finding of the body's check, without the value that was sent."""
    pointer = "".join(f"/{part}" for part in problem.get("loc", ())[1:])
    return {"pointer": pointer[:200], "detail": str(problem.get("msg", ""))[:200]}

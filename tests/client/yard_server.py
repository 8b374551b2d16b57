"""A small real server that speaks our wire format, scripted by the name of the model that is asked for.

good      three tokens, usage, the end           slow     one token, then silence until the client leaves
cut       one token, then the connection closes  broken   one token, then an error frame
waiting   silence until the client leaves        full     503 with numbers
garbage   what is not JSON                       page     200, and a web page
code      two blocks, with a key in the second   long     400: the prompt is longer than the context
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from modelyard.types.memory import DeviceReading, Holder, ProcessMemory, Receipt
from modelyard.types.status import DeviceStatus, NodeStatus, RequestStatus, Residency, ResidentStatus

GIB = 1024**3
DEADLINE_S = 20.0
RECEIPT = Receipt(
    "load", "good", "operator", {"ram": 1 * GIB}, {"ram": 3 * GIB}, {"ram": -2 * GIB}, ProcessMemory(), 1.5
)
STATUS = NodeStatus(
    version="0.1.0",
    started_at=1_790_000_000.0,
    ready=True,
    draining=False,
    devices=(
        DeviceStatus(
            DeviceReading("ram", "RAM", 16 * GIB, 8 * GIB), GIB, 15 * GIB, 2 * GIB, 5 * GIB,
            held_bytes={"resident": 2 * GIB, "promised": 0}, free_bytes=8 * GIB,
            holders=(Holder(7, "game", {"ram": 3 * GIB}), Holder(8, "browser", {"ram": GIB})),
        ),
    ),
    residents=(
        ResidentStatus(
            model="good", engine="llamacpp", state=Residency.RESIDENT, epoch=1, pinned=False, slots=4, leases=1,
            waiting=0, context_length=4096, reserved_bytes={"ram": 2 * GIB}, measured_bytes={"ram": 2 * GIB},
            footprint_source="oracle", loaded_at=1_790_000_100.0, load_s=1.5, expires_in_s=None,
        ),
        ResidentStatus(
            model="mixed", engine="llamacpp", state=Residency.RESIDENT, epoch=2, pinned=True, slots=1, leases=0,
            waiting=0, context_length=None, reserved_bytes={"ram": GIB, "gpu0": 3 * GIB}, measured_bytes={},
            footprint_source="formula", loaded_at=None, load_s=None, expires_in_s=None,
        ),
    ),
    queue=1,
    requests=(RequestStatus("r-1", "good", "local", "generating", 2.0, 12),),
    failures={"full": "out of memory"},
)  # fmt: skip
MODELS: list[dict[str, object]] = [
    {
        "id": "good", "object": "model", "created": 1_790_000_000, "owned_by": "modelyard",
        "modelyard": {
            "state": "resident", "size_bytes": 512 * 1024**2, "context_length": 4096, "engine": "llamacpp",
            "capabilities": ["chat", "completion"], "aliases": ["best"], "problem": "",
            "launch": {"values": {"threads": 2}, "reasons": {"threads": "2 physical cores"}},
        },
    },
    {
        "id": "模型", "object": "model", "created": 1_790_000_000, "owned_by": "modelyard",
        "modelyard": {"state": "absent", "size_bytes": 1024, "engine": "llamacpp", "problem": "the file is cut"},
    },
    {"id": "foreign", "object": "model", "created": 1, "owned_by": "someone"},
]  # fmt: skip


@dataclass
class YardServer:
    """What the tests look at."""

    url: str = ""
    key: str | None = None
    left: threading.Event = field(default_factory=threading.Event)  # set when a client left a running answer
    speaking: threading.Event = field(default_factory=threading.Event)  # set when a first token is out
    seen: list[tuple[str, str, dict[str, object]]] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)


def _error(status: int, code: str, message: str, **members: object) -> Response:
    inner = {"message": message, "type": "x", "param": None, "code": code, **members}
    return Response(orjson.dumps({"error": inner}), status, {"x-request-id": "r-9"}, "application/json")


def _frame(**body: object) -> bytes:
    return b"data: " + orjson.dumps({"id": "c", "object": "chat.completion.chunk", "model": "m", **body}) + b"\n\n"


def _text(text: str) -> bytes:
    return _frame(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}], usage=None)


async def _answer(server: YardServer, model: str, request: Request) -> AsyncIterator[bytes]:
    try:
        yield b": queued\n\n"
        if model == "waiting":
            server.speaking.set()
            await asyncio.Event().wait()
        if model == "garbage":
            yield b"data: {nonsense\n\n"
        yield _frame(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
        yield _text("one\u2028 ")
        server.speaking.set()
        if model == "code":
            yield _text("\n```\nls\n```\n~~~sh\nrm \x1b\n~~~\n")
        if model == "slow":
            await asyncio.Event().wait()
        if model == "cut":
            return
        if model == "broken":
            yield b'data: {"error": {"message": "it died", "code": "worker_crashed", "suggestions": ["again"]}}\n\n'
            return
        yield _text("two ") + _text("三")
        yield _frame(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=None)
        yield _frame(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8})
        yield b"data: [DONE]\n\n"
    except asyncio.CancelledError:
        server.left.set()
        raise


def _app(server: YardServer) -> Starlette:
    def refused(request: Request) -> Response | None:
        server.languages.append(request.headers.get("accept-language", ""))
        if server.key and request.headers.get("authorization") != f"Bearer {server.key}":
            return _error(401, "invalid_api_key", "A valid API key is needed.", suggestions=["Send one."])
        return None

    async def chat(request: Request) -> Response:
        if no := refused(request):
            return no
        body = orjson.loads(await request.body())
        server.seen.append(("POST", request.url.path, body))
        model = body["model"]
        if model == "full":
            numbers = "full needs 9.0 GiB; ram has 4.0 GiB {for} models"
            return _error(503, "insufficient_memory", numbers, suggestions=["Unload another."])
        if model == "long":
            return _error(400, "context_length_exceeded", "The prompt has 9,000 tokens; long has a context of 4,096.")
        if model == "page":
            return HTMLResponse("<h1>router</h1>")
        if model == "absent":
            return _error(
                404, "model_not_found", "There is no model named absent.", suggestions=["Did you mean: good?"]
            )
        return StreamingResponse(
            _answer(server, model, request), media_type="text/event-stream", headers={"x-request-id": "r-7"}
        )

    async def models(request: Request) -> Response:
        return refused(request) or Response(orjson.dumps({"object": "list", "data": MODELS}))

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        found = next((entry for entry in MODELS if entry["id"] == name), None)
        if found is None:
            return _error(404, "model_not_found", f"There is no model named {name}.")
        return Response(orjson.dumps(found))

    async def status(request: Request) -> Response:
        return refused(request) or Response(orjson.dumps({"schema_version": 1, "newer": True, **asdict(STATUS)}))

    async def act(request: Request) -> Response:
        raw = await request.body()
        server.seen.append(("POST", request.url.path, orjson.loads(raw) if raw else {}))
        if request.path_params["name"] == "absent":
            problem = {"status": 404, "detail": "There is no model named absent.", "code": "model_not_found"}
            return Response(orjson.dumps(problem), 404, media_type="application/problem+json")
        act = request.path_params["act"]
        return Response(orjson.dumps({"pinned": True} if act == "pin" else {"receipt": asdict(RECEIPT)}))

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/admin/status", status),
            Route("/admin/models/{name:path}/{act}", act, methods=["POST"]),
        ]
    )


@contextmanager
def yard_server(key: str | None = None) -> Iterator[YardServer]:
    """Run the server in a thread on a free port."""
    told = YardServer(key=key)
    config = uvicorn.Config(_app(told), port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + DEADLINE_S
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    told.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield told
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)

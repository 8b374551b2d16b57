"""A whole data plane over a scripted worker, on a real TCP socket, and a plain HTTP client that sees every byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from modelyard.api.models import ModelEndpoints
from modelyard.api.ollama import OllamaEndpoints
from modelyard.api.openai import OpenAIEndpoints
from modelyard.api.problems import dialect_of, error_response
from modelyard.clock import SystemClock
from modelyard.errors import ModelNotFound, YardError
from modelyard.gateway.inference import Inference
from modelyard.gateway.keys import ALL_RIGHTS, Caller
from modelyard.gateway.metrics import Metrics
from modelyard.gateway.usage import Usage
from modelyard.providers.deadlines import Deadlines
from modelyard.providers.local import LocalProvider
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import InferenceRequest
from modelyard.types.model import Candidates, Model
from tests.providers.fake_worker import MODEL, FakeResidency, FakeWorker, Script, fake_worker, until
from tests.support.only_here import OnlyHere


class OneModel:
    """A catalog of one."""

    def resolve(self, text: str) -> Model:
        if text.lower() not in (MODEL.name, *MODEL.aliases):
            raise ModelNotFound(model=text, near=MODEL.name)
        return MODEL

    def candidates(self, text: str) -> Candidates:
        return Candidates(MODEL.name, (self.resolve(text),))

    def find(self, text: str) -> Model | None:
        return MODEL if text.lower() in (MODEL.name, *MODEL.aliases) else None

    def list(self) -> tuple[Model, ...]:
        return (MODEL,)


@dataclass
class FakeStandby:
    """Remembers what was to come and go."""

    asked: list[tuple[str, str, float | None]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    refusal: YardError | None = None

    async def load(self, caller: Caller, request: InferenceRequest, ticket: Ticket) -> None:
        await self._done("load", request, ticket)

    async def unload(self, caller: Caller, request: InferenceRequest, ticket: Ticket) -> None:
        await self._done("unload", request, ticket)

    async def _done(self, act: str, request: InferenceRequest, ticket: Ticket) -> None:
        self.asked.append((act, request.model, request.keep_alive_s))
        ticket.provider = "local"
        if self.gate is not None:
            await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal


@dataclass
class DataPlane:
    """Everything a test may want to look at."""

    port: int
    worker: FakeWorker
    residency: FakeResidency
    inference: Inference
    metrics: Metrics
    standby: FakeStandby
    connections: list[Connection] = field(default_factory=list)

    def outcomes(self) -> dict[str, float]:
        """Requests by outcome, over all other labels."""
        found: dict[str, float] = {}
        for sample in next(iter(self.metrics.requests.collect())).samples:
            if sample.name.endswith("_total"):
                found[sample.labels["code"]] = found.get(sample.labels["code"], 0) + sample.value
        return found

    async def settled(self, **outcomes: int) -> None:
        """Nothing is left of any request, and these were their outcomes."""
        await until(lambda: self.inference.in_flight_count == 0, "no request in flight")
        await until(lambda: self.worker.running == 0, "the worker idle")
        assert self.residency.held == self.residency.waiting == 0
        assert self.outcomes() == outcomes

    async def connect(self) -> Connection:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        self.connections.append(connection)
        return connection

    async def hang_up(self) -> None:
        """Close whatever a test left open."""
        for connection in self.connections:
            connection.writer.close()
            with contextlib.suppress(ConnectionError):
                await connection.writer.wait_closed()

    async def ask(self, body: object, path: str = "/v1/chat/completions") -> Answer:
        connection = await self.connect()
        await connection.send(body, path)
        return await connection.answer()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The data of every event; `[DONE]` as it is."""
        frames = [frame for frame in self.body.decode().split("\n\n") if frame.startswith("data: ")]
        return [frame[6:] if frame == "data: [DONE]" else json.loads(frame[6:]) for frame in frames]

    def lines(self) -> list[Any]:
        """Every line of JSON; the last one ends with a line end, too."""
        assert self.body.endswith(b"\n")
        return [json.loads(line) for line in self.body[:-1].split(b"\n")]

    def text(self) -> str:
        return "".join(
            choice["delta"].get("content") or ""
            for event in self.events()
            if isinstance(event, dict)
            for choice in event.get("choices", ())
        )


@dataclass
class Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, body: object, path: str = "/v1/chat/completions", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"Host": "test", "Content-Type": "application/json", "Content-Length": str(len(data)),
                  "X-Request-Id": "req-1", "Connection": "close"} | headers  # fmt: skip
        head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.writer.write(head.encode() + b"\r\n" + data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        lines = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split()[1]), headers

    async def answer(self) -> Answer:
        status, headers = await self.head()
        raw = await asyncio.wait_for(self.reader.read(), 20)
        self.writer.close()
        return Answer(status, headers, _unchunk(raw) if "transfer-encoding" in headers else raw)

    async def leave(self, *, reset: bool = False) -> None:
        if reset:
            self.writer.transport.abort()
        else:
            self.writer.close()


def _unchunk(raw: bytes) -> bytes:
    body = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        count = int(size, 16)
        body, raw = body + raw[:count], raw[count + 2 :]
    return body


class App:
    """The endpoints behind the least of a server: a request id, a caller, and errors with their status."""

    def __init__(
        self, endpoints: OpenAIEndpoints, ollama: OllamaEndpoints, listing: ModelEndpoints, caller: Caller
    ) -> None:
        self._table = {
            "/v1/chat/completions": endpoints.chat_completions,
            "/v1/completions": endpoints.completions,
            "/v1/models": listing.models,
            "/api/chat": ollama.chat,
            "/api/generate": ollama.generate,
            "/api/v1/llm/chat": ollama.llm_chat,
            "/api/v1/llm/generate": ollama.llm_generate,
        }
        self._listing = listing
        self._caller = caller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        scope["state"] = {"request_id": headers.get(b"x-request-id", b"req-0").decode(), "language": "en"}
        path: str = scope["path"]
        endpoint = self._table.get(path, self._listing.model)
        scope["path_params"] = {"id": path.removeprefix("/v1/models/")}
        started = False

        async def watched_send(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            response = await endpoint(Request(scope, receive, send), self._caller)
            await response(scope, receive, watched_send)
        except YardError as error:
            assert not started, "an error after the head must be a frame"
            dialect = dialect_of(path)
            await error_response(error, dialect, request_id=scope["state"]["request_id"])(scope, receive, send)


async def no_details(_model: Model) -> dict[str, object]:
    return {}


@asynccontextmanager
async def data_plane(
    script: Script | None = None,
    *,
    deadlines: Deadlines | None = None,
    caller: Caller | None = None,
    keepalive_s: float = 10.0,
    blocked_s: float = 30.0,
    default_model: str | None = None,
) -> AsyncIterator[DataPlane]:
    async with fake_worker(script) as worker:
        clock, metrics = SystemClock(), Metrics()
        residency = FakeResidency(worker)
        provider = LocalProvider(residency, clock, deadlines)
        catalog = OneModel()
        inference = Inference(
            catalog=catalog, router=OnlyHere(provider), usage=Usage(metrics, clock), metrics=metrics, clock=clock
        )
        endpoints = OpenAIEndpoints(
            inference=inference, clock=clock, keepalive_s=keepalive_s, blocked_s=blocked_s,
            default_model=lambda: default_model,
        )  # fmt: skip
        standby = FakeStandby()
        ollama = OllamaEndpoints(
            inference=inference, clock=clock, keepalive_s=keepalive_s, blocked_s=blocked_s,
            default_model=lambda: default_model, standby=standby,
        )  # fmt: skip
        listing = ModelEndpoints(catalog, tuple, no_details)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        app = App(endpoints, ollama, listing, caller or Caller("me", ALL_RIGHTS))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=5))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started or serving.done(), "the server listens")
        plane = DataPlane(listener.getsockname()[1], worker, residency, inference, metrics, standby)
        try:
            yield plane
        finally:
            await plane.hang_up()
            server.should_exit = True
            await serving
            with contextlib.suppress(OSError):
                listener.close()

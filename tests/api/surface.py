"""A whole HTTP surface with a small fake node behind it, and raw sockets to talk to it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields

import orjson
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from uvicorn import Server

from modelyard.api.app import build_app
from modelyard.api.hosts import HostPolicy, OriginPolicy
from modelyard.api.http_protocol import HttpProtocol, listen, server_config
from modelyard.api.inference_routes import InferenceEndpoints
from modelyard.api.security import Guard
from modelyard.clock import SystemClock
from modelyard.errors import ModelNotFound
from modelyard.events import EventBus
from modelyard.gateway.keys import Caller, KeyEntry, KeyRing, Right
from modelyard.gateway.limits import Limits
from modelyard.gateway.memory_history import MemoryHistory
from modelyard.gateway.node_operations import NodeOperations
from modelyard.gateway.operations import Operations
from modelyard.routing.fleet import Fleet
from modelyard.routing.prober import Prober
from modelyard.types.memory import DeviceReading, Holder, ProcessMemory, Receipt
from modelyard.types.model import Candidates, Model
from modelyard.types.status import DeviceStatus, RequestStatus, Residency, ResidentStatus, WaitStatus

USER_KEY, ADMIN_KEY, SCRAPE_KEY = "user-key-0001", "admin-key-0001", "scrape-key-0001"
KEYS = (
    KeyEntry("user", USER_KEY, frozenset((Right.INFER,))),
    KeyEntry("boss", ADMIN_KEY, frozenset((Right.INFER, Right.ADMIN))),
    KeyEntry("scraper", SCRAPE_KEY, frozenset((Right.METRICS,))),
)
DEADLINE_S = 20.0


class FakeResidency:
    """Loads at once and remembers what was asked."""

    def __init__(self) -> None:
        self.loaded: dict[str, bool] = {}
        self.asked: list[tuple[object, ...]] = []

    async def load(self, model: Model, *, pinned: bool | None = None, role: str = "") -> Receipt | None:
        self.asked.append(("load", model.name, pinned))
        if model.name in self.loaded:
            return None
        self.loaded[model.name] = bool(pinned)
        return _receipt("load", model.name)

    async def unload(self, name: str, *, force: bool = False, role: str = "") -> Receipt | None:
        self.asked.append(("unload", name, force))
        return _receipt("unload", name) if self.loaded.pop(name, None) is not None else None

    def pin(self, name: str, *, pinned: bool) -> None:
        self.asked.append(("pin", name, pinned))

    def residents(self) -> tuple[ResidentStatus, ...]:
        return tuple(
            ResidentStatus(
                name, "echo", Residency.RESIDENT, 1, pinned, 1, 0, 0, 4096, {"ram": 10}, {"ram": 9}, "declared",
                1.0, 0.1, None,
            )
            for name, pinned in self.loaded.items()
        )  # fmt: skip

    def devices(self) -> tuple[DeviceStatus, ...]:
        reading, held = DeviceReading("ram", "RAM", 100, 60), {"resident": 10, "promised": 0}
        game = Holder(77, "game", {"ram": 25})
        return (DeviceStatus(reading, 10, 90, 10, 30, held_bytes=held, holders=(game,), free_bytes=50),)

    def waiting(self) -> tuple[WaitStatus, ...]:
        return ()

    def failures(self) -> Mapping[str, str]:
        return {}

    async def refresh(self) -> None:
        pass

    @property
    def queue_length(self) -> int:
        return 0


class FakeCatalog:
    """A handful of names."""

    def __init__(self, *names: str) -> None:
        self.models = tuple(Model(name, "echo") for name in names)

    def role_of(self, text: str) -> str:
        return ""

    def resolve(self, text: str) -> Model:
        for model in self.models:
            if model.name == text.lower():
                return model
        raise ModelNotFound(model=text)

    def candidates(self, text: str) -> Candidates:
        return Candidates(text.lower(), (self.resolve(text),))

    def find(self, text: str) -> Model | None:
        return next((model for model in self.models if model.name == text.lower()), None)

    def list(self) -> tuple[Model, ...]:
        return self.models

    def replace(self, models: Sequence[Model]) -> None:
        self.models = tuple(models)

    def replace_node(self, node: str, models: tuple[Model, ...]) -> bool:
        return False


class FakeRequests:
    """One request in flight."""

    def __init__(self) -> None:
        self.ids = {"req-1"}

    def snapshot(self) -> tuple[RequestStatus, ...]:
        return tuple(RequestStatus(id, "tiny", "user", "generating", 1.0, 3) for id in self.ids)

    def cancel(self, request_id: str) -> bool:
        if request_id not in self.ids:
            return False
        self.ids.remove(request_id)
        return True


@dataclass
class Yard:
    """The app and everything behind it."""

    app: Starlette
    operations: Operations
    residency: FakeResidency
    requests: FakeRequests
    events: EventBus
    limits: Limits
    history: MemoryHistory
    callers: list[Caller] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    failure: Exception | None = None


def build_yard(
    *,
    keys: Sequence[KeyEntry] = (),
    bind_host: str = "127.0.0.1",
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
    trusted_proxies: Sequence[str] = (),
    allow_open: bool = False,
    requests_max: int | None = None,
    concurrent_max: int | None = None,
    failed_logins_max: int = 10_000,
) -> Yard:
    clock, events, residency, requests = SystemClock(), EventBus(), FakeResidency(), FakeRequests()
    catalog = FakeCatalog("tiny", "org/other:q4")
    fleet = Fleet(clock, catalog, events)
    prober = Prober(fleet, clock)
    operations = Operations(
        clock=clock, events=events, residency=residency, catalog=catalog, requests=requests,
        nodes=NodeOperations(fleet, prober.look, clock),
        scan=lambda: (Model("tiny", "echo"), Model("new", "echo")),
        effective_settings=lambda: {"server.port": {"value": 11435, "origin": "default"}},
    )  # fmt: skip
    limits = Limits(
        clock, requests_max=requests_max, concurrent_max=concurrent_max, failed_logins_max=failed_logins_max
    )
    guard = Guard(
        keys=KeyRing(keys), limits=limits, hosts=HostPolicy(bind_host=bind_host, declared=allowed_hosts),
        origins=OriginPolicy(allowed_origins), trusted_proxies=trusted_proxies, allow_open=allow_open,
    )  # fmt: skip
    history = MemoryHistory(
        clock, events, node_memory=lambda: ProcessMemory(1_000_000, 500_000), devices=residency.devices,
        residents=residency.residents,
    )  # fmt: skip
    yard = Yard(Starlette(), operations, residency, requests, events, limits, history)

    async def answer(request: Request, caller: Caller) -> Response:
        yard.callers.append(caller)
        if yard.failure is not None:
            raise yard.failure
        if request.method == "POST":
            yard.bodies.append(await request.body())
        return Response(orjson.dumps({"caller": caller.id}), media_type="application/json")

    everything = InferenceEndpoints(**{one.name: answer for one in fields(InferenceEndpoints)})
    yard.app = build_app(
        inference=everything, operations=operations, history=history, guard=guard, registry=CollectorRegistry(),
    )  # fmt: skip
    operations.mark_started()
    return yard


@dataclass(frozen=True)
class Reply:
    """One HTTP answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, object]:
        answer: dict[str, object] = orjson.loads(self.body)
        return answer

    @property
    def error(self) -> dict[str, object]:
        error = self.json["error"]
        assert isinstance(error, dict)
        return error


@dataclass(frozen=True)
class Listener:
    """A running server and ways to talk to it."""

    port: int

    @contextmanager
    def connect(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S) as connection:
            yield connection

    def send(self, raw: bytes) -> bytes:
        """Send bytes, and read until the server hangs up."""
        with self.connect() as connection:
            with suppress(ConnectionError):  # hanging up before it has everything is an answer too
                connection.sendall(raw)
            return read_all(connection)

    def ask(
        self, method: str = "GET", path: str = "/", headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        """One well-formed request on a connection of its own."""
        fields = {"host": f"127.0.0.1:{self.port}", "connection": "close", **(headers or {})}
        if body:
            fields["content-length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return parse_reply(self.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body))


def read_all(connection: socket.socket) -> bytes:
    """Everything until the end, at most `DEADLINE_S` without a byte."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return bytes(received)


def statuses(raw: bytes) -> list[int]:
    """The status of each answer in what a server sent."""
    found, rest = [], raw
    while rest.startswith(b"HTTP/1.1 "):
        found.append(int(rest[9:12]))
        head, _blank, rest = rest.partition(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                rest = rest[int(line.partition(b":")[2]) :]
    assert not rest, f"not an answer: {rest[:80]!r}"
    return found


def parse_reply(raw: bytes) -> Reply:
    head, _blank, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 "), f"no answer: {raw[:80]!r}"
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.lower().partition(":") for line in lines)
    headers = {name: value.strip() for name, _colon, value in fields}
    return Reply(int(first.split()[1]), headers, body)


@contextmanager
def listening(yard: Yard, protocol: type[HttpProtocol] = HttpProtocol, host: str = "127.0.0.1") -> Iterator[Listener]:
    """The app behind uvicorn and our protocol, in a thread of its own."""
    sockets = listen(host, 0)
    server = Server(server_config(yard.app, drain_s=1, protocol=protocol))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=sockets)))
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield Listener(sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)


def wait_until(condition: object) -> None:
    """Wait for a condition, not for long."""
    assert callable(condition)
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def _receipt(action: str, model: str) -> Receipt:
    assert action in ("load", "unload")
    return Receipt(
        "load" if action == "load" else "unload", model, "operator", {"ram": 1}, {"ram": 2}, {"ram": -1},
        ProcessMemory(5, 6), 0.1,
    )  # fmt: skip

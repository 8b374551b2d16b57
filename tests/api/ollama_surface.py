"""Ollama's endpoints behind the real route table and guard, with a fake fleet, store and embedder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from prometheus_client import CollectorRegistry
from starlette.testclient import TestClient

from modelyard.api.app import build_app
from modelyard.api.endpoints import Behind, inference_endpoints
from modelyard.api.hosts import HostPolicy, OriginPolicy
from modelyard.api.security import Guard
from modelyard.clock import SystemClock
from modelyard.errors import CapabilityMissing, YardError
from modelyard.events import EventBus
from modelyard.gateway.inference import Inference
from modelyard.gateway.keys import Caller, KeyEntry, KeyRing, Right
from modelyard.gateway.limits import Limits
from modelyard.gateway.memory_history import MemoryHistory
from modelyard.gateway.metrics import Metrics
from modelyard.gateway.usage import Usage
from modelyard.models.catalog import Catalog
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import InferenceRequest
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, RerankAnswer, RerankRequest
from modelyard.types.fleet import FleetNodeStatus, Health, ResidentCopy
from modelyard.types.memory import ProcessMemory
from modelyard.types.model import Candidates, Capability, Model, model_at
from modelyard.types.status import Residency, ResidentStatus

from .surface import KEYS, build_yard

EMBEDS = frozenset((Capability.EMBED,))
TINY = Model(
    "tiny", "echo", size_bytes=1000, modified_at=1_700_000_000.0, format="gguf", architecture="qwen2",
    parameter_count=3_150_080, quantization="F16", context_length=2048, identity="tiny:1",
    capabilities=frozenset((Capability.CHAT, Capability.COMPLETION, Capability.TOOLS)),
)  # fmt: skip
RANKS = Model("ranks", "echo", capabilities=frozenset((Capability.RERANK,)), identity="r")
MODELS = (
    TINY,
    Model("vectors", "echo", capabilities=EMBEDS, identity="v"),
    RANKS,
    Model("cut", "echo", problem="it is cut"),
)
STUDIO = (
    model_at("studio", "ollama", "tiny:latest", size_bytes=2000, digest="ab" * 32, capabilities=TINY.capabilities),
    model_at("studio", "ollama", "llama3.1:8b", size_bytes=5000, capabilities=TINY.capabilities),
)
CLOUD = (model_at("cloud", "openai", "gpt-x"),)


def resident(name: str, **known: Any) -> ResidentStatus:
    given: dict[str, Any] = {
        "model": name, "engine": "echo", "state": Residency.RESIDENT, "epoch": 1, "pinned": False, "slots": 1,
        "leases": 0, "waiting": 0, "context_length": 2048, "measured_bytes": {},
        "reserved_bytes": {"ram": 30, "gpu0": 70},
        "footprint_source": "declared", "loaded_at": 1.0, "load_s": 0.1, "expires_in_s": 60.0, **known,
    }  # fmt: skip
    return ResidentStatus(**given)


def node(name: str, kind: Any, *held: ResidentCopy, **known: Any) -> FleetNodeStatus:
    return FleetNodeStatus(
        name, kind, "http://x", Health.HEALTHY, "", 1.0, 1.0, False, 0, 1, residents=held, seen_s_ago=2.0, **known
    )


@dataclass
class FakeStore:
    """Remembers what was asked, and tells scripted progress."""

    asked: list[tuple[object, ...]] = field(default_factory=list)
    steps: Sequence[Mapping[str, object]] = ({"status": "pulling manifest"}, {"status": "success"})
    failure: YardError | None = None
    ended: int = 0

    async def pull(self, caller: Caller, name: str, node: str | None = None) -> AsyncIterator[Mapping[str, object]]:
        self.asked.append(("pull", caller.id, name, node))
        try:
            for step in self.steps:
                yield step
            if self.failure is not None:
                raise self.failure
        finally:
            self.ended += 1

    async def delete(self, caller: Caller, name: str, node: str | None = None) -> None:
        self.asked.append(("delete", caller.id, name, node))
        if self.failure is not None:
            raise self.failure

    async def copy(self, caller: Caller, name: str, to: str, node: str | None = None) -> None:
        self.asked.append(("copy", caller.id, name, to, node))


@dataclass
class FakeStandby:
    asked: list[tuple[str, str]] = field(default_factory=list)

    async def load(self, caller: Caller, request: InferenceRequest, ticket: Ticket) -> None:
        self.asked.append(("load", request.model))

    async def unload(self, caller: Caller, request: InferenceRequest, ticket: Ticket) -> None:
        self.asked.append(("unload", request.model))


@dataclass
class FakeRouter:
    """Embeds: each vector is the length of its input and its place."""

    asked: list[EmbedRequest] = field(default_factory=list)
    spoil: Callable[[list[list[float]]], None] = lambda _vectors: None
    ranked: list[RerankRequest] = field(default_factory=list)
    spoil_scores: Callable[[list[float]], None] = lambda _scores: None

    def answer(self, candidates: Candidates, request: InferenceRequest, ticket: Ticket) -> Any:
        raise CapabilityMissing(model=candidates.name, capability="chat")

    async def embed(self, candidates: Candidates, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        self.asked.append(request)
        ticket.provider, ticket.why, ticket.attempts, ticket.load_s = "studio", "resident", 2, 0.5
        vectors = [[float(len(one)), float(place)] for place, one in enumerate(request.inputs)]
        self.spoil(vectors)
        return EmbedAnswer(tuple(vectors), sum(len(one) for one in request.inputs))

    async def rerank(self, candidates: Candidates, request: RerankRequest, ticket: Ticket) -> RerankAnswer:
        self.ranked.append(request)
        ticket.provider = "studio"
        scores = [float(len(one)) for one in request.documents]
        self.spoil_scores(scores)
        return RerankAnswer(tuple(scores), 7)


@dataclass
class OllamaYard:
    """A client of the app, and everything behind it."""

    client: TestClient
    catalog: Catalog
    store: FakeStore = field(default_factory=FakeStore)
    standby: FakeStandby = field(default_factory=FakeStandby)
    router: FakeRouter = field(default_factory=FakeRouter)
    residents: list[ResidentStatus] = field(default_factory=list)
    fleet: list[FleetNodeStatus] = field(default_factory=list)

    def post(self, path: str, body: object, **headers: str) -> Any:
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return self.client.post(path, content=data, headers={"content-type": "application/json", **headers})

    def delete(self, path: str, body: object) -> Any:
        return self.client.request(
            "DELETE", path, content=orjson.dumps(body), headers={"content-type": "application/json"}
        )


@contextmanager
def ollama_yard(*, key: str = "", models: frozenset[str] | None = None) -> Iterator[OllamaYard]:
    """The app. With a `key` there are keys, and every request of the client carries that one."""
    clock, metrics, catalog = SystemClock(), Metrics(), Catalog(MODELS, {"small": "tiny"})
    catalog.replace_node("studio", STUDIO)
    catalog.replace_node("cloud", CLOUD)
    yard = OllamaYard(None, catalog)  # type: ignore[arg-type]
    inference = Inference(
        catalog=catalog, router=yard.router, usage=Usage(metrics, clock), metrics=metrics, clock=clock
    )
    behind = Behind(
        inference=inference, catalog=catalog, standby=yard.standby, store=yard.store, clock=clock,
        residents=lambda: yard.residents, details=_no_details, fleet=lambda: yard.fleet,
    )  # fmt: skip
    narrow = KeyEntry("narrow", "narrow-key-0001", frozenset((Right.INFER,)), models=models)
    guard = Guard(
        keys=KeyRing((*KEYS, narrow) if key else ()), limits=Limits(clock), hosts=HostPolicy(bind_host="127.0.0.1"),
        origins=OriginPolicy(()),
    )  # fmt: skip
    history = MemoryHistory(clock, EventBus(), node_memory=lambda: ProcessMemory(1, 1), devices=tuple, residents=tuple)
    app = build_app(
        inference=inference_endpoints(behind), operations=build_yard().operations, history=history, guard=guard,
        registry=CollectorRegistry(),
    )  # fmt: skip
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with TestClient(app, base_url="http://127.0.0.1", headers=headers) as client:
        yard.client = client
        yield yard


async def _no_details(_model: Model) -> dict[str, object]:
    return {}

"""The HTTP face of a node: the route table, and the door that every request comes through.

The table below is the whole of what is served; each line says what it asks for. What serves inference is handed in.
"""

from __future__ import annotations

import orjson
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from modelyard.gateway.keys import Caller, Right
from modelyard.gateway.memory_history import MemoryHistory
from modelyard.gateway.operations import Operations

from .admin import SmallJsonBodies, build_admin
from .described import described
from .health import HealthEndpoints
from .inference_routes import InferenceEndpoints, inference_routes
from .metrics import DoorMetrics, MetricsEndpoint, NodeFacts
from .ollama_models import root
from .problems import Dialect
from .security import Guard
from .table import Lifespan, YardApp, health_routes


def build_app(
    *,
    inference: InferenceEndpoints,
    operations: Operations,
    history: MemoryHistory,
    guard: Guard,
    registry: CollectorRegistry,
    language: str = "en",
    lifespan: Lifespan | None = None,
) -> Starlette:
    """The app of one node. `language` is for callers that ask for none of ours."""
    registry.register(NodeFacts(lambda: operations.is_ready))
    count_refusal = DoorMetrics(registry).count_refusal
    health, metrics = HealthEndpoints(operations, history), MetricsEndpoint(registry)
    routes = [
        *inference_routes(guard, inference),
        guard.secured("/", root, ("GET",), public=True),
        *health_routes(guard, health),
        guard.secured("/metrics", metrics.scrape, ("GET",), Right.METRICS),
        *_admin_routes(guard, operations),
    ]
    return YardApp(guard, routes, language=language, count_refusal=count_refusal, lifespan=lifespan)


def _admin_routes(guard: Guard, operations: Operations) -> list[Route]:
    api = build_admin(operations)
    app = SmallJsonBodies(api)

    def admin(path: str, method: str, right: Right) -> Route:
        return guard.secured(path, None, (method,), right, app=app, dialect=Dialect.PROBLEM)

    async def describe(_request: Request, _caller: Caller) -> Response:
        return Response(orjson.dumps(described(api.openapi())), media_type="application/json")

    return [
        guard.secured("/openapi.json", describe, ("GET",), Right.READ),
        admin("/admin/status", "GET", Right.READ),
        admin("/admin/events", "GET", Right.READ),
        admin("/admin/config", "GET", Right.ADMIN),
        admin("/admin/nodes", "GET", Right.READ),
        admin("/admin/nodes/{name}", "GET", Right.READ),
        admin("/admin/nodes/{name}/edit", "POST", Right.ADMIN),
        admin("/admin/nodes/{name}/check", "POST", Right.ADMIN),
        admin("/admin/store", "GET", Right.ADMIN),
        admin("/admin/store/models/{name:path}", "GET", Right.ADMIN),
        admin("/admin/store/blobs/{digest}", "GET", Right.ADMIN),
        admin("/admin/models/rescan", "POST", Right.ADMIN),
        admin("/admin/models/{name:path}/load", "POST", Right.ADMIN),
        admin("/admin/models/{name:path}/unload", "POST", Right.ADMIN),
        admin("/admin/models/{name:path}/pin", "POST", Right.ADMIN),
        admin("/admin/requests/{request_id}", "DELETE", Right.ADMIN),
    ]

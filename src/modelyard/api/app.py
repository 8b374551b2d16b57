"""The HTTP face of a node: the route table, and the door that every request comes through.

The table below is the whole of what is served; each line says what it asks for. What serves inference is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
import starlette
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from modelyard.errors import ConfigError, NotFound
from modelyard.gateway.keys import ALL_RIGHTS, Caller, Right
from modelyard.gateway.memory_history import MemoryHistory
from modelyard.gateway.operations import Operations

from .admin import SmallJsonBodies, build_admin
from .described import described
from .door import Door
from .health import HealthEndpoints
from .inference_routes import InferenceEndpoints, inference_routes
from .metrics import DoorMetrics, MetricsEndpoint, NodeFacts
from .ollama_models import root
from .problems import Dialect, dialect_of
from .security import Guard

STARLETTE_MIN = (1, 0, 1)  # older ones let a Host header change the path that is routed
EVERY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


class YardApp(Starlette):
    """Starlette with our door in the place of its middleware stack."""

    def __init__(self, *, routes: list[Route], door: Callable[[Router], Door], lifespan: Lifespan | None) -> None:
        super().__init__(routes=routes, lifespan=lifespan)
        self.router.redirect_slashes = False
        self._door = door

    def build_middleware_stack(self) -> ASGIApp:
        return self._door(self.router)


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
    check_starlette(starlette.__version__)
    registry.register(NodeFacts(lambda: operations.is_ready))
    count_refusal = DoorMetrics(registry).count_refusal
    health, metrics = HealthEndpoints(operations, history), MetricsEndpoint(registry)
    routes = [
        *inference_routes(guard, inference),
        *_health_routes(guard, health),
        guard.secured("/metrics", metrics.scrape, ("GET",), Right.METRICS),
        *_admin_routes(guard, operations),
        guard.secured("/{path:path}", nothing_here, EVERY_METHOD, ALL_RIGHTS),
    ]
    return YardApp(
        routes=routes, door=lambda router: Door(router, guard, language, count_refusal), lifespan=lifespan
    )  # fmt: skip


def _health_routes(guard: Guard, health: HealthEndpoints) -> list[Route]:
    return [
        guard.secured("/", root, ("GET",), public=True),
        guard.secured("/livez", health.livez, ("GET",), public=True),
        guard.secured("/readyz", health.readyz, ("GET",), public=True),
        guard.secured("/readyz/{check}", health.check, ("GET",), Right.READ),
        guard.secured("/health", health.health, ("GET",), public=True),
        guard.secured("/health/detailed", health.detailed, ("GET",), Right.READ),
        guard.secured("/health/memory", health.memory, ("GET",), Right.READ),
    ]


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
        admin("/admin/models/rescan", "POST", Right.ADMIN),
        admin("/admin/models/{name:path}/load", "POST", Right.ADMIN),
        admin("/admin/models/{name:path}/unload", "POST", Right.ADMIN),
        admin("/admin/models/{name:path}/pin", "POST", Right.ADMIN),
        admin("/admin/requests/{request_id}", "DELETE", Right.ADMIN),
    ]


async def nothing_here(request: Request, _caller: Caller) -> Response:
    """Every path that is not in the table; those without a key do not even learn that."""
    path: str = request.scope["path"]
    request.scope["state"]["dialect"] = dialect_of(path)
    raise NotFound(path=path[:200])


def check_starlette(version: str) -> None:
    """Refuse to serve on a Starlette whose routing could be misled.

    >>> check_starlette("1.2")
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    if numbers < STARLETTE_MIN:
        wanted = ".".join(str(number) for number in STARLETTE_MIN)
        raise ConfigError(where="starlette", problem=f"version {version} is installed; {wanted} or newer is needed")

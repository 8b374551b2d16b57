"""What every route table of ours has: the door in front, the probes, and the last line, for what is not in it."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import starlette
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from modelyard.errors import ConfigError, NotFound, said
from modelyard.gateway.keys import ALL_RIGHTS, Caller, Right

from .door import Door
from .health import HealthEndpoints
from .problems import dialect_of
from .security import Guard

STARLETTE_MIN = (1, 0, 1)  # older ones let a Host header change the path that is routed
MODEL_RIGHTS = (Right.INFER, Right.READ)
EVERY_METHOD = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
Lifespan = Callable[[Any], AbstractAsyncContextManager[None]]


class YardApp(Starlette):
    """Starlette with our door in the place of its middleware stack, and our last line under the table."""

    def __init__(
        self,
        guard: Guard,
        routes: list[Route],
        *,
        language: str = "en",
        count_refusal: Callable[[str], None] = lambda _code: None,
        lifespan: Lifespan | None = None,
    ) -> None:
        """`language` is for callers that ask for none of ours."""
        check_starlette(starlette.__version__)
        last = guard.secured("/{path:path}", nothing_here, EVERY_METHOD, ALL_RIGHTS)
        super().__init__(routes=[*routes, last], lifespan=lifespan)
        self.router.redirect_slashes = False
        self._door: Callable[[Router], Door] = lambda router: Door(router, guard, language, count_refusal)

    def build_middleware_stack(self) -> ASGIApp:
        return self._door(self.router)


def health_routes(guard: Guard, health: HealthEndpoints) -> list[Route]:
    """The probes, and who holds the memory."""
    return [
        guard.secured("/livez", health.livez, ("GET",), public=True),
        guard.secured("/readyz", health.readyz, ("GET",), public=True),
        guard.secured("/readyz/{check}", health.check, ("GET",), Right.READ),
        guard.secured("/health", health.health, ("GET",), public=True),
        guard.secured("/health/detailed", health.detailed, ("GET",), Right.READ),
        guard.secured("/health/memory", health.memory, ("GET",), Right.READ),
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
        raise ConfigError(
            where="starlette",
            problem=said("version {version} is installed; {wanted} or newer is needed", version=version, wanted=wanted),
        )

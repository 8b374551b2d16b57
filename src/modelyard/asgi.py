"""The servers as ASGI apps, for those who run their own: `uvicorn --factory modelyard.asgi:app --port 8001`.

`modelyard.asgi:minimal` is the small one: `modelyard serve --minimal` says what it leaves out.

Settings come from the same files and environment variables as for `modelyard serve`. The node lives as long as the
app's lifespan, and logs as its settings say. Headers and slow clients are then uvicorn's own business, and how long a
stopping server waits is too (`--timeout-graceful-shutdown`): `modelyard serve` is stricter.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from importlib import import_module
from typing import cast

from starlette.types import ASGIApp, Receive, Scope, Send

from modelyard.config.settings import LoadedSettings, load_settings
from modelyard.logs import logging_to
from modelyard.node import Wiring


class NodeApp:
    """An ASGI app that builds its node when the server starts it, and ends it with the server."""

    def __init__(self, loaded: LoadedSettings, wiring: Wiring) -> None:
        self._loaded = loaded
        self._wiring = wiring
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if self._app is None:
            raise RuntimeError("modelyard.asgi needs a server that runs the ASGI lifespan")
        await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        settings = self._loaded.settings.log
        async with AsyncExitStack() as stack:
            stack.enter_context(logging_to(level=settings.level, format=settings.format))
            try:
                node = await stack.enter_async_context(self._wiring(self._loaded))
            except Exception as failure:
                await send({"type": "lifespan.startup.failed", "message": str(failure)})
                raise  # servers go by the message, test clients by this
            self._app = node.app
            node.operations.mark_started()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            node.operations.begin_drain()
        await send({"type": "lifespan.shutdown.complete"})


def app() -> NodeApp:
    """The whole server."""
    return NodeApp(load_settings(), _wiring("compose"))


def minimal() -> NodeApp:
    """Chat with one model, and health."""
    return NodeApp(load_settings(), _wiring("compose_minimal"))


def _wiring(module: str) -> Wiring:
    """Imported when it is asked for: what makes the minimal server small is what it does not import."""
    return cast("Wiring", import_module(f"modelyard.{module}").running_node)

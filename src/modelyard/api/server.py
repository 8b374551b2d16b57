"""uvicorn's server with our order of stopping: not ready, no new connections, running requests finish, then the rest.

Who is connected by then is still served, once: so one server can hand a listening socket over to the next, and nobody
is refused. Signals are not handled here: whoever builds the node decides what they mean.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from modelyard.errors import ConfigError, said

from .http_protocol import CLOSE, SEND_BUFFER_BYTES, server_config

GRACE_S = 1.0  # after the drain limit, for the errors it causes to reach their clients


def inherited(fd: int) -> list[socket.socket]:
    """The listening socket that whoever started us hands on. Two servers that share one refuse no connection."""
    try:
        listener = socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigError(where="server.fd", problem=f"{fd}: {error.strerror or error}") from error
    is_tcp = listener.family in (socket.AF_INET, socket.AF_INET6)
    if not is_tcp or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.close()
        raise ConfigError(where="server.fd", problem=said("{fd}: it is not a listening TCP socket", fd=fd))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    listener.setblocking(False)
    return [listener]


class YardServer(uvicorn.Server):
    """Serves one app. `stop` begins the end; `serve` returns when it is reached."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        drain_s: float,
        on_stopping: Callable[[], None],
        interrupt_all: Callable[[], object],
        on_started: Callable[[], None],
    ) -> None:
        """`on_stopping` runs first of all; `interrupt_all` ends what still runs after `drain_s`."""
        super().__init__(server_config(app, drain_s=math.ceil(drain_s + GRACE_S)))
        self._drain_s = drain_s
        self._on_stopping = on_stopping
        self._interrupt_all = interrupt_all
        self._on_started = on_started

    def stop(self) -> None:
        """Begin to stop: refuse readiness at once, the listeners follow within a tenth of a second."""
        if not self.should_exit:
            self._on_stopping()
            self.should_exit = True
            # Every answer from now on is its connection's last; from the first list the second is made anew.
            self.config.encoded_headers = [*self.config.encoded_headers, CLOSE]
            self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(self._drain_s, self._interrupt_all)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

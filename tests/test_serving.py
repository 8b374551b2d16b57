from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from modelyard.api.http_protocol import HttpProtocol, listen
from modelyard.api.server import YardServer
from modelyard.config.load import Flag
from modelyard.config.settings import load_settings
from modelyard.errors import ConfigError
from modelyard.serving import listening
from tests.support.node import until

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def hello(scope: Scope, _receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[YardServer, int, asyncio.Task[None]]]:
    sockets, up = listen("127.0.0.1", 0), asyncio.Event()
    port: int = sockets[0].getsockname()[1]
    server = YardServer(
        hello, drain_s=600, on_stopping=lambda: None, interrupt_all=lambda: None, on_started=up.set
    )  # fmt: skip
    task = asyncio.create_task(server.serve(sockets))
    await asyncio.wait_for(up.wait(), 60)
    try:
        yield server, port, task
    finally:
        server.force_exit = True
        server.stop()
        await asyncio.wait_for(task, 60)


async def stopping(server: YardServer, port: int) -> None:
    """Return when it takes no more connections."""
    server.stop()

    async def is_refused() -> bool:
        try:
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return True
        writer.close()
        return False

    await until(is_refused, "the listener is closed")


@pytest.mark.parametrize("asked_before", [0, 2])
async def test_who_is_connected_when_it_stops_is_served_once_more(
    monkeypatch: pytest.MonkeyPatch, asked_before: int
) -> None:
    monkeypatch.setattr(HttpProtocol, "LAST_REQUEST_S", 60.0)
    async with serving() as (server, port, _task):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _request in range(asked_before):
            writer.write(REQUEST)
            assert b"close" not in await reader.readuntil(b"\r\n\r\n")

        await stopping(server, port)
        writer.write(REQUEST)

        reply = await asyncio.wait_for(reader.read(), 60)  # to the end: the server hangs up
        assert reply.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in reply
        writer.close()


async def test_who_asks_nothing_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpProtocol, "LAST_REQUEST_S", 0.05)
    async with serving() as (server, port, task):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        await stopping(server, port)

        assert await asyncio.wait_for(reader.read(), 60) == b""
        await asyncio.wait_for(asyncio.shield(task), 60)
        writer.close()


def test_an_inherited_socket_says_where_it_is(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        copy = listener.dup()
        loaded = load_settings(
            [Flag(("server", "fd"), copy.detach(), "--set")], environment={"HOME": str(tmp_path)}, folder=tmp_path
        )

        with listening(loaded) as (seen, _sockets):
            assert (seen.settings.server.host, seen.settings.server.port) == listener.getsockname()
        assert loaded.settings.server.port == 11435


@pytest.mark.parametrize("kind", ["not listening", "unix", "a file"])
def test_what_is_no_listening_tcp_socket_is_refused(tmp_path: Path, kind: str) -> None:
    family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
    with socket.socket(family) as given, (tmp_path / "file").open("w") as file:
        if kind == "unix":
            given.bind("\0modelyard-test-serving")
            given.listen()
        fd = file.fileno() if kind == "a file" else given.fileno()
        loaded = load_settings(
            [Flag(("server", "fd"), fd, "--set")], environment={"HOME": str(tmp_path)}, folder=tmp_path
        )

        with pytest.raises(ConfigError, match=r"server\.fd"), listening(loaded):
            pass
        if kind != "a file":
            given.detach()

"""A proxy for any hop that makes the network bad: slow, narrow, sliced, cut, half closed, or a black hole.

What it does may be changed while connections run through it: each piece goes the way the network is at that moment.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

READ_BYTES = 65_536
HOLE_LOOK_S = 0.02  # how soon a black hole that ended is noticed


@dataclass(slots=True)
class Network:
    """How the way to the server is. Of what comes back, unless it says otherwise."""

    latency_s: float = 0.0  # before each piece
    bytes_per_s: float | None = None
    slice_bytes: int | None = None  # pieces of at most so much
    is_black_hole: bool = False  # connections are taken, and nothing comes, either way, until this ends
    is_refusing: bool = False  # connections are broken off at once; one that is open, at its next piece
    stall_after_bytes: int | None = None
    cut_after_bytes: int | None = None
    cut: str = "reset"  # reset, or end: an orderly close
    half_close: bool = False  # the server sees the end of the client's side at once


class FaultProxy:
    """Listens on a port of its own, and passes on to `target`."""

    def __init__(self, target: str) -> None:
        """`target` is a URL, or HOST:PORT."""
        parts = urlsplit(target if "://" in target else f"http://{target}")
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.network = Network()
        self.connection_count = 0
        self.bytes_back = 0
        self._server: asyncio.Server | None = None
        self._port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        assert self._port, "it listened"
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None, "it listened"
        self._server.close()
        self.cut_all()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_all(self) -> None:
        """Break every connection off, now."""
        for task in self._tasks:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connection_count += 1
        try:
            await self._passable()
            await self._pass_on(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            _reset(writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection(*self._target)
        try:
            there = asyncio.create_task(self._there(reader, back_writer))
            try:
                await self._back(back_reader, writer)
            finally:
                there.cancel()
                with suppress(asyncio.CancelledError, OSError):
                    await there
        finally:
            _reset(back_writer)

    async def _passable(self) -> None:
        """Wait while nothing comes through. Raises where connections are broken off."""
        while self.network.is_black_hole:  # noqa: ASYNC110 - it may be changed by setting a field
            await asyncio.sleep(HOLE_LOOK_S)
        if self.network.is_refusing:
            raise ConnectionResetError

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(READ_BYTES):
                await self._passable()
                writer.write(data)
                await writer.drain()
                if self.network.half_close:
                    writer.write_eof()
                    return
            writer.write_eof()
        writer.transport.abort()  # whoever asked has gone, or was broken off

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        while data := await reader.read(READ_BYTES):
            for piece in _sliced(data, self.network.slice_bytes):
                await self._passable()
                network = self.network
                if network.latency_s:
                    await asyncio.sleep(network.latency_s)
                if network.bytes_per_s:
                    await asyncio.sleep(len(piece) / network.bytes_per_s)
                limits = [one for one in (network.stall_after_bytes, network.cut_after_bytes) if one is not None]
                allowed = piece if not limits else piece[: max(0, min(limits) - passed)]
                writer.write(allowed)
                await writer.drain()
                passed += len(allowed)
                self.bytes_back += len(allowed)
                if len(allowed) < len(piece):
                    if network.stall_after_bytes is not None:
                        await asyncio.Event().wait()
                    if network.cut == "end":
                        writer.close()
                    return
        if self.network.is_refusing:
            return
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _sliced(data: bytes, size: int | None) -> list[bytes]:
    return [data] if size is None else [data[at : at + size] for at in range(0, len(data), size)]


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        with suppress(OSError):
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

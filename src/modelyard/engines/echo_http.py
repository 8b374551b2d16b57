"""Just enough HTTP/1.1 on a Unix socket for a scripted worker. Knows nothing about models.

Like llama.cpp's server it streams in chunks, closes after every stream, and keeps plain connections alive.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

HEAD_BYTES_MAX = 64 * 1024
BODY_BYTES_MAX = 64 * 1024**2
BACKLOG_MAX = 1024


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request, read to its end."""

    method: str
    path: str
    headers: dict[str, str]  # lower-case names
    body: bytes = b""


@dataclass(slots=True)
class Reply:
    """The answer to one request. Cuts the connection after `cut_after_bytes` of body, if it is set."""

    writer: asyncio.StreamWriter
    cut_after_bytes: int | None = None
    is_stream: bool = False
    _sent_bytes: int = field(default=0, init=False)

    async def json(self, status: int, value: object) -> None:
        """Answer with one JSON document."""
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\nContent-Type: application/json; charset=utf-8\r\n"
        self.writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + self._cut(body))
        await self._flushed()

    def begin_stream(self) -> None:
        """Send the head of a stream of events."""
        self.is_stream = True
        self.writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nKeep-Alive: timeout=5, max=100\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )

    async def send(self, data: bytes) -> None:
        """Send a piece of the stream; waits while the client does not read."""
        data = self._cut(data)
        if data:  # an empty chunk would be the end
            self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._flushed()

    async def end_stream(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    def _cut(self, data: bytes) -> bytes:
        if self.cut_after_bytes is not None:
            data = data[: max(0, self.cut_after_bytes - self._sent_bytes)]
        self._sent_bytes += len(data)
        return data

    async def _flushed(self) -> None:
        await self.writer.drain()
        if self.cut_after_bytes is not None and self._sent_bytes >= self.cut_after_bytes:
            raise ConnectionAbortedError("cut, as the script says")


_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}

Handler = Callable[[HttpRequest, Reply], Awaitable[None]]


async def serve(socket: str, handler: Handler) -> asyncio.Server:
    """Listen; every request is handed to `handler`, which is cancelled when the client leaves."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _converse(reader, writer, handler)
        except (ConnectionError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the other side's end, or not HTTP
        finally:
            writer.close()

    server = await asyncio.start_unix_server(connected, socket, limit=HEAD_BYTES_MAX, backlog=BACKLOG_MAX)
    os.chmod(socket, 0o600)
    return server


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
    while (request := await _read(reader)) is not None:
        reply = Reply(writer)
        answering = asyncio.ensure_future(handler(request, reply))
        leaving = asyncio.ensure_future(reader.read(1))  # nothing may come while we answer: data or an end, both end it
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        has_left = leaving.done()
        for task in (answering, leaving):
            task.cancel()
        with suppress(asyncio.CancelledError):
            await leaving
        with suppress(asyncio.CancelledError):
            await answering
        if has_left or reply.is_stream or request.headers.get("connection", "").lower() == "close":
            return


async def _read(reader: asyncio.StreamReader) -> HttpRequest | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, path, _version = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _colon, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= BODY_BYTES_MAX:
        raise ValueError("body too large")
    return HttpRequest(method, path.partition("?")[0], headers, await reader.readexactly(length))

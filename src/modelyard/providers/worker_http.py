"""HTTP to workers on this machine: one request per connection, and nothing that this does not need.

A general client spends more on a request than everything else here together: pools, redirects, cookies, proxies. A
worker's connection is closed after its answer, because closing is how a worker learns that nobody listens any more.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import httptools

from modelyard.diagnosis import Verdict
from modelyard.types.address import LOOPBACK, Address, LoopbackPort

HEAD_BYTES_MAX = 64 * 1024
UNREAD_BYTES_MAX = 256 * 1024  # then the worker waits until we have read
RETRY_S = 0.005  # a worker's backlog may be full for a moment


class RunningWorker(Protocol):
    """A worker process that has loaded its model."""

    @property
    def socket(self) -> Address: ...

    @property
    def has_progress(self) -> bool: ...

    @property
    def exited(self) -> asyncio.Future[str]: ...

    def last_lines(self) -> tuple[str, ...]: ...

    def verdict(self) -> Verdict: ...


class NoConnection(Exception):
    """The worker's socket does not answer. `is_for_good`: nobody listens there, and nobody ever will again."""

    def __init__(self, reason: str, *, is_for_good: bool = False) -> None:
        super().__init__(reason)
        self.is_for_good = is_for_good


class BrokenConnection(Exception):
    """The connection ended with an error, or what came is not HTTP."""


async def post(socket: Address, path: str, body: bytes, *, request_id: str, connect_s: float) -> WorkerAnswer:
    """Send a request and wait for the head of its answer. The caller closes what it gets."""
    answer = await _connected(socket, connect_s)
    headers = socket.headers if isinstance(socket, LoopbackPort) else "Host: worker\r\n"
    try:
        answer.send(
            f"POST {path} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Type: application/json\r\n"
            f"Accept: text/event-stream\r\nX-Request-Id: {request_id}\r\nContent-Length: {len(body)}\r\n\r\n".encode(
                "ascii"
            )
            + body
        )
        await answer.head()
    except BaseException:
        answer.close()
        raise
    return answer


async def _connected(socket: Address, connect_s: float) -> WorkerAnswer:
    """A Unix socket answers at once or refuses at once; refused for a full backlog, it is worth asking again."""
    if isinstance(socket, LoopbackPort):
        return await _connected_by_tcp(socket, connect_s)
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + connect_s
    while True:
        try:
            _transport, answer = await loop.create_unix_connection(WorkerAnswer, str(socket))
        except BlockingIOError as exc:
            if loop.time() >= give_up_at:
                raise NoConnection("its backlog is full") from exc
            await asyncio.sleep(RETRY_S)
        except OSError as exc:
            is_gone = isinstance(exc, FileNotFoundError | ConnectionRefusedError)
            raise NoConnection(exc.strerror or "it refuses connections", is_for_good=is_gone) from exc
        else:
            return answer


async def _connected_by_tcp(port: LoopbackPort, connect_s: float) -> WorkerAnswer:
    """A full backlog is waited for by the kernel."""
    try:
        async with asyncio.timeout(connect_s):
            _transport, answer = await asyncio.get_running_loop().create_connection(WorkerAnswer, LOOPBACK, port.number)
    except TimeoutError as exc:
        raise NoConnection("its backlog is full") from exc
    except OSError as exc:
        is_gone = isinstance(exc, ConnectionRefusedError)
        raise NoConnection(exc.strerror or "it refuses connections", is_for_good=is_gone) from exc
    return answer


class WorkerAnswer(asyncio.Protocol):
    """One connection and the answer that comes over it. Read by one task."""

    def __init__(self) -> None:
        self.status = 0
        self.content_type = b""  # in lower case, without parameters
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self._unread_bytes = 0
        self._head_bytes = 0
        self._has_head = self._has_ended = self._is_paused = False
        self._error: BrokenConnection | None = None
        self._news: asyncio.Future[None] | None = None  # whoever reads waits for it

    async def head(self) -> None:
        """Wait until status and content type are known."""
        while not self._has_head:
            if self._has_ended:
                raise self._error or BrokenConnection("it ended before an answer")
            await self._wait()

    async def read(self) -> bytes:
        """What has come of the body since the last time; empty at its end."""
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._has_ended:
                return b""
            await self._wait()
        pieces, self._pieces = self._pieces, []
        self._unread_bytes = 0
        if self._is_paused and self._transport is not None:
            self._is_paused = False
            self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def send(self, data: bytes) -> None:
        assert self._transport is not None, "it was connected"
        self._transport.write(data)

    def close(self) -> None:
        """Hang up, whatever is still to come."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._parser = None  # it and we hold each other

    def _wait(self) -> asyncio.Future[None]:
        self._news = news = self._loop.create_future()
        return news

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _end(self, error: BrokenConnection | None = None) -> None:
        if not self._has_ended:
            self._has_ended, self._error = True, error
            self._tell()

    # ---- called by the transport ----

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._has_ended or self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._end(BrokenConnection(str(exc)))
            return
        if not self._has_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._end(BrokenConnection("the head of its answer is too long"))
        elif self._unread_bytes > UNREAD_BYTES_MAX and not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end(BrokenConnection(str(exc)) if exc is not None else None)

    # ---- called by the parser ----

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head and name.lower() == b"content-type":  # else a trailer
            self.content_type = value.partition(b";")[0].strip().lower()

    def on_headers_complete(self) -> None:
        assert self._parser is not None, "it is the parser that calls"
        self.status = self._parser.get_status_code()
        self._has_head = True
        self._tell()

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)
        self._unread_bytes += len(data)
        self._tell()

    def on_message_complete(self) -> None:
        self._end()

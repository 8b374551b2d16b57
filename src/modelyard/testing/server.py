"""A small HTTP server with every byte in its own hand: what it answers may be wrong in any way.

One connection, one request after the other. What came is recorded; so is a client that leaves.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from .playing import left_within
from .script import Script

BODY_BYTES_MAX = 64 * 1024**2


@dataclass(slots=True, eq=False)
class Recorded:
    """One request, as it came."""

    number: int  # from 1
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    raw: bytes
    left: asyncio.Event = field(default_factory=asyncio.Event)  # the client hung up before the end
    tokens_sent: int = 0
    is_whole: bool = False  # everything was sent

    @property
    def body(self) -> dict[str, Any]:
        """The body as JSON; empty if it is none."""
        try:
            value = json.loads(self.raw or b"{}")
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


class Reply:
    """The answer to one request, byte by byte."""

    def __init__(self, writer: asyncio.StreamWriter, script: Script, recorded: Recorded) -> None:
        self._writer, self.script, self.recorded = writer, script, recorded
        self._sent = 0
        self.is_open = True

    async def head(self, status: int, content_type: str, *, length: int | None = None) -> None:
        """Status line and headers; without a length the body is chunked."""
        script = self.script
        lines = [f"HTTP/1.1 {status} Scripted", f"Content-Type: {script.content_type or content_type}"]
        lines += [f"{name}: {value}" for name, value in script.headers.items()]
        lines.append("Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}")
        await self._put("\r\n".join((*lines, "", "")).encode())

    async def send(self, data: bytes) -> None:
        """A piece of a chunked body; cut where the script says so."""
        limit = self.script.cut_at
        if limit is not None and self._sent + len(data) > limit:
            data = data[: limit - self._sent]
            await self._chunk(data)
            await self.cut()
            return
        await self._chunk(data)

    async def end(self) -> None:
        """The end of a chunked body."""
        if self.is_open:
            await self._put(b"0\r\n\r\n")
            self.recorded.is_whole = True

    async def whole(self, status: int, content_type: str, body: bytes) -> None:
        await self.head(status, content_type, length=len(body))
        await self._put(body)
        self.recorded.is_whole = True

    async def json(self, value: object, status: int = 200) -> None:
        await self.whole(status, "application/json", json.dumps(value).encode())

    async def stall(self) -> None:
        """Send nothing more until the client leaves."""
        await self.recorded.left.wait()
        self.is_open = False

    async def cut(self) -> None:
        """End it as the script says."""
        match self.script.cut:
            case "stall":
                await self.stall()
            case "reset":
                self.reset()
            case "end":
                await self._put(b"0\r\n\r\n")
        self.is_open = False

    def reset(self) -> None:
        """Break the connection off, so that the other side gets an error and not an end."""
        self.is_open = False
        with suppress(OSError):
            sock: socket.socket = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._writer.transport.abort()

    async def _chunk(self, data: bytes) -> None:
        if data and self.is_open:
            self._sent += len(data)
            await self._put(b"%x\r\n%s\r\n" % (len(data), data))

    async def _put(self, data: bytes) -> None:
        if self.is_open and not self._writer.is_closing():
            self._writer.write(data)
            await self._writer.drain()


class FakeServer:
    """A server that plays scripts. A subclass speaks a dialect."""

    def __init__(self, *, key: str = "", host: str = "127.0.0.1") -> None:
        """With a `key`, requests without it are refused."""
        self.key, self._host = key, host
        self.tls: ssl.SSLContext | None = None  # serve over TLS; set before `start`
        self.requests: list[Recorded] = []
        self.connection_count = 0
        self.script = Script()
        self._queue: list[tuple[Script, str | None]] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0

    @property
    def url(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://{self._host}:{self._port}"

    @property
    def questions(self) -> list[Recorded]:
        """Requests for an answer: all but those that look."""
        return [one for one in self.requests if self.is_question(one)]

    def is_question(self, one: Recorded) -> bool:
        """Whether a request asks for an answer."""
        raise NotImplementedError

    def is_about(self, one: Recorded, model: str) -> bool:
        """Whether a request is about that model."""
        return bool(one.body.get("model") == model)

    def play(self, script: Script, *, times: int | None = None, model: str | None = None) -> None:
        """Answer like this: from now on, or only the next `times` questions; of one model, if it is named."""
        if times is None and model is None:
            self.script = script
            self._queue.clear()
        else:
            self._queue += [(script, model)] * (times or 1)

    async def start(self) -> None:
        """Listen, again if it was stopped: on the same port. Nothing happens if it does."""
        if self._server is not None:
            return
        self._server = await asyncio.start_server(self._serve, self._host, self._port, ssl=self.tls)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, and hang up on everybody."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def answer(self, request: Recorded, reply: Reply) -> None:
        """Answer one request."""
        raise NotImplementedError

    def refusal(self, status: int, text: str) -> object:
        """The body of a refusal in this dialect."""
        raise NotImplementedError

    # ---- inside ----

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connection_count += 1
        try:
            while (request := await self._read(reader)) is not None:
                reply = Reply(writer, self._script_for(request), request)
                watch = asyncio.create_task(_watch(reader, writer, request))
                try:
                    await self._act(request, reply)
                except ConnectionError:
                    request.left.set()
                    raise
                finally:
                    watch.cancel()
                wants_close = request.headers.get("connection", "").lower() == "close"
                if wants_close or not reply.is_open or writer.is_closing():
                    break
        except (ConnectionError, asyncio.IncompleteReadError, ValueError, asyncio.CancelledError):
            pass  # it left, or we stop: nobody but `stop` cancels this
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _act(self, request: Recorded, reply: Reply) -> None:
        script = reply.script
        if not self.is_question(request):
            if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
                await reply.json(self.refusal(401, "unauthorized"), 401)
            else:
                await self.answer(request, reply)
            return
        if script.reset:
            reply.reset()
            return
        if await left_within(request, script.header_after_s):
            return
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            await reply.json(self.refusal(401, "unauthorized"), 401)
        elif script.body is not None:
            await reply.whole(script.status, self.stream_type, script.body)
        elif script.status != 200:
            await reply.json(self.refusal(script.status, script.error), script.status)
        else:
            await self.answer(request, reply)

    stream_type = "text/event-stream"

    async def _read(self, reader: asyncio.StreamReader) -> Recorded | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = head.split("\r\n")
        method, path, *_ = first.split(" ")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if _
        }
        length = min(int(headers.get("content-length", "0")), BODY_BYTES_MAX)
        raw = await reader.readexactly(length) if length else b""
        recorded = Recorded(len(self.requests) + 1, method, path.partition("?")[0], headers, raw)
        self.requests.append(recorded)
        return recorded

    def _script_for(self, request: Recorded) -> Script:
        if self.is_question(request):
            for at, (script, model) in enumerate(self._queue):
                if model is None or self.is_about(request, model):
                    del self._queue[at]
                    return script
        return self.script


async def _watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Recorded) -> None:
    """Notice that the client has gone: nothing else may come while it waits for an answer."""
    while not (reader.at_eof() or reader.exception() or writer.is_closing()):  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.005)
    request.left.set()

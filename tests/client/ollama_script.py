"""A small real server that does what a test tells it: a list of acts for each path, one for each request, the last for
all that follow. It counts connections, and runs in a thread of its own, so that both twins can be tested with it.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

DEADLINE_S = 20.0
Act = Callable[["Visit"], Awaitable[None]]


@dataclass
class Asked:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class OllamaScript:
    """What the tests set and look at."""

    acts: dict[str, list[Act]]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    connections_count: int = 0
    open_count: int = 0
    open_max: int = 0
    left: threading.Event = field(default_factory=threading.Event)  # a client went away before its answer was complete
    gate: threading.Event = field(default_factory=threading.Event)  # what `wait_for_the_gate` waits for
    changed: threading.Condition = field(default_factory=threading.Condition)

    def until(self, is_so: Callable[[], bool]) -> bool:
        """Wait for something to become true of what is counted here. Never from an event loop: `asyncio.to_thread`."""
        with self.changed:
            return self.changed.wait_for(is_so, DEADLINE_S)

    def came_or_went(self, count: int) -> None:
        with self.changed:
            self.connections_count += max(count, 0)
            self.open_count += count
            self.open_max = max(self.open_max, self.open_count)
            self.changed.notify_all()

    def came(self, asked: Asked) -> None:
        with self.changed:
            self.asked.append(asked)
            self.changed.notify_all()

    def count(self, path: str) -> int:
        return sum(one.path == path for one in self.asked)

    def act_for(self, path: str) -> Act:
        acts = self.acts.get(path)
        if not acts:
            return plain("404 page not found", status=404)
        return acts.pop(0) if len(acts) > 1 else acts[0]


@dataclass
class Visit:
    """One request at the server, to be answered somehow."""

    script: OllamaScript
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    keeps: bool = False  # the connection is fit for another request

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        try:
            await self.writer.drain()
        except ConnectionError:  # it left while there was more to come
            self.script.left.set()
            raise

    async def until_left(self) -> None:
        """Until the client is gone."""
        with suppress(ConnectionError):
            while await self.reader.read(1024):
                pass
        self.script.left.set()


def head(status: int = 200, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def line(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


def plain(body: object, status: int = 200, **headers: str) -> Act:
    """A whole answer."""
    data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()

    async def act(visit: Visit) -> None:
        await visit.send(head(status, content_length=str(len(data)), **headers) + data)
        visit.keeps = True

    return act


def stream(*parts: object, ends: bool = True, then: Act | None = None) -> Act:
    """A stream of lines, or of bytes as they are; then the end, or something else."""

    async def act(visit: Visit) -> None:
        await visit.send(head(transfer_encoding="chunked", content_type="application/x-ndjson"))
        for part in parts:
            await visit.send(chunk(part if isinstance(part, bytes) else line(part)))
        if then is not None:
            await then(visit)
        elif ends:
            await visit.send(chunk(b""))
            visit.keeps = True

    return act


def raw(data: bytes) -> Act:
    """These bytes, and the connection closes."""

    async def act(visit: Visit) -> None:
        await visit.send(data)

    return act


async def hang_up(visit: Visit) -> None:
    """No word more."""


async def reset(visit: Visit) -> None:
    """The connection breaks."""
    visit.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    visit.writer.transport.abort()


async def silence(visit: Visit) -> None:
    """Nothing, until the client leaves."""
    await visit.until_left()


def after_the_gate(act: Act) -> Act:
    """The same, once the test opens the gate."""

    async def later(visit: Visit) -> None:
        await asyncio.to_thread(visit.script.gate.wait, DEADLINE_S)
        await act(visit)

    return later


@contextmanager
def scripted(**acts: Act | list[Act]) -> Iterator[OllamaScript]:
    """Serve `/api/NAME` as told; `asked` and the counts say what happened."""
    script = OllamaScript({f"/api/{name}": list(one) if isinstance(one, list) else [one] for name, one in acts.items()})
    ready, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(_serve(script, ready, stop)))
    thread.start()
    try:
        assert ready.wait(DEADLINE_S)
        yield script
    finally:
        script.gate.set()
        loop.call_soon_threadsafe(stop.set)
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
        loop.close()


def nowhere() -> str:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


async def _serve(script: OllamaScript, ready: threading.Event, stop: asyncio.Event) -> None:
    visits: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        visits.add(task)
        script.came_or_went(+1)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while await _one(script, reader, writer):
                    pass
        finally:
            visits.discard(task)
            script.came_or_went(-1)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    ready.set()
    await stop.wait()
    server.close()
    for task in [*visits]:
        task.cancel()
    await asyncio.gather(*visits, return_exceptions=True)


async def _one(script: OllamaScript, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = text.strip().split("\r\n")
    method, path, _version = first.split(" ")
    headers = {name.lower(): value for name, value in (re.split(": *", one, maxsplit=1) for one in rest)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    script.came(Asked(method, path, headers, json.loads(body) if body else None))
    visit = Visit(script, reader, writer)
    await script.act_for(path)(visit)
    return visit.keeps


@contextmanager
def black_hole() -> Iterator[str]:
    """An address where a connection neither comes about nor is refused: its queue is full and nobody takes from it."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"

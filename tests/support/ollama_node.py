"""A fake Ollama server on a real socket: it keeps models in memory as the real one does, and fails in chosen ways.

What it holds is written into fake devices, so that these say what a driver would. A request that loads a model is
given up when its client leaves; an unload waits for who is being answered; timers run from the end of a request.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from modelyard.memory.devices import FakeDevices

KEEP_ALIVE_S = 300.0
FOR_EVER_S = 292 * 365 * 86400.0  # what the real one shows for a negative keep_alive
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Refused(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def keep_alive_s(value: object) -> float:
    """As the real one reads it: numbers are seconds, texts are Go durations, negative is for ever.

    >>> keep_alive_s("1h30m"), keep_alive_s(0), keep_alive_s("0s"), keep_alive_s(-1) == FOR_EVER_S
    (5400.0, 0.0, 0.0, True)
    """
    if value is None:
        return KEEP_ALIVE_S
    if isinstance(value, int | float) and not isinstance(value, bool):
        return FOR_EVER_S if value < 0 else float(value)
    if isinstance(value, str):
        sign, digits = (-1, value[1:]) if value.startswith("-") else (1, value)
        parts = _PART.findall(digits)
        if digits == "0" or (parts and "".join(number + unit for number, unit in parts) == digits):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
            return FOR_EVER_S if sign < 0 else seconds
    raise Refused(400, f'time: invalid duration "{value}"')


def full(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


@dataclass
class Installed:
    """A model on its disk."""

    size: int
    size_vram: int
    context_length: int = 4096
    is_embedding: bool = False


@dataclass
class Running:
    """A model in its memory."""

    name: str
    keep_s: float
    expires_at: float  # of the loop's clock
    users: int = 0
    is_leaving: bool = False
    timer: asyncio.TimerHandle | None = None


@dataclass
class Faults:
    """What goes wrong while it is set."""

    unload_s: float = 0.0
    load_s: float = 0.0
    load_error: str = ""
    keeps: set[str] = field(default_factory=set)  # will not unload these
    says: dict[str, tuple[int, int]] = field(default_factory=dict)  # sizes it lies about
    hangs: set[str] = field(default_factory=set)  # paths that never answer
    answers: dict[str, bytes] = field(default_factory=dict)  # bodies instead of the true ones


class FakeOllama:
    """One server; `async with FakeOllama({...}).serving() as node: node.url`."""

    def __init__(self, models: dict[str, Installed], devices: FakeDevices | None = None, device: str = "gpu0") -> None:
        self.models = {full(name): one for name, one in models.items()}
        self.running: dict[str, Running] = {}
        self.faults = Faults()
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.url = ""
        self.has_changed: Callable[[], None] = lambda: None  # called whenever its memory did
        self._devices, self._device = devices, device
        self._loading = asyncio.Lock()  # the real one loads one at a time
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeOllama]:
        await self.listen()
        try:
            yield self
        finally:
            await self.hang_up()
            for one in self.running.values():
                if one.timer is not None:
                    one.timer.cancel()

    async def listen(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def hang_up(self) -> None:
        """Nobody listens any more; what is in memory stays."""
        if self._server is not None:
            self._server.close()
            for task in [*self._connections]:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None

    def names(self) -> list[str]:
        return sorted(self.running)

    def unloads(self) -> list[str]:
        """Who was told to go, in order."""
        return [full(body["model"]) for _m, path, body in self.asked if path == "/api/generate" and _is_unload(body)]

    # Its memory.

    async def load(self, name: str, keep_alive: object = None) -> Running:
        """What a client of its own causes."""
        name, keep_s = full(name), keep_alive_s(keep_alive)
        if name not in self.models:
            raise Refused(404, f'model "{name}" not found, try pulling it first')
        async with self._loading:
            if name not in self.running:
                if self.faults.load_s:
                    await asyncio.sleep(self.faults.load_s)
                if self.faults.load_error:
                    raise Refused(500, self.faults.load_error)
                self.running[name] = Running(name, keep_s, 0.0)
                self._hold(name, +1)
        one = self.running[name]
        if keep_alive is not None:
            one.keep_s = keep_s
        self._restart_timer(one)
        return one

    @asynccontextmanager
    async def answering(self, name: str) -> AsyncIterator[None]:
        """A client of its own is being answered."""
        one = await self.load(name)
        one.users += 1
        if one.timer is not None:
            one.timer.cancel()
        try:
            yield
        finally:
            one.users -= 1
            self._restart_timer(one)

    def drop(self, name: str) -> None:
        """Out of memory this moment, whoever uses it."""
        one = self.running.pop(full(name), None)
        if one is not None:
            if one.timer is not None:
                one.timer.cancel()
            self._hold(one.name, -1)

    def _restart_timer(self, one: Running) -> None:
        loop = asyncio.get_running_loop()
        if one.timer is not None:
            one.timer.cancel()
        if one.users == 0 and one.name in self.running:
            one.expires_at = loop.time() + one.keep_s
            if one.keep_s < FOR_EVER_S:
                one.timer = loop.call_later(one.keep_s + self.faults.unload_s, self._expire, one)

    def _expire(self, one: Running) -> None:
        if one.users == 0 and one.name not in self.faults.keeps and self.running.get(one.name) is one:
            self.drop(one.name)

    def _hold(self, name: str, sign: int) -> None:
        if self._devices is not None:
            model, used = self.models[name], self._devices.used_bytes
            used[self._device] = used.get(self._device, 0) + sign * model.size_vram
            if "ram" in used:
                used["ram"] += sign * (model.size - model.size_vram)
        self.has_changed()

    # What it answers.

    async def _answer(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path in self.faults.hangs:
            await asyncio.Event().wait()
        match method, path:
            case "GET", "/api/version":
                return {"version": "0.99.0"}
            case "GET", "/api/tags":
                return {
                    "models": [{"name": name, "model": name, "size": one.size} for name, one in self.models.items()]
                }
            case "GET", "/api/ps":
                return {"models": [self._entry(one) for one in self.running.values()]}
            case "POST", "/api/generate" | "/api/embed":
                return await self._generate(path, body)
        raise Refused(404, "404 page not found")

    def _entry(self, one: Running) -> dict[str, Any]:
        model = self.models[one.name]
        size, size_vram = self.faults.says.get(one.name, (model.size, model.size_vram))
        left_s = max(0.0, one.expires_at - asyncio.get_running_loop().time())
        return {
            "name": one.name, "model": one.name, "size": size, "size_vram": size_vram, "digest": "0" * 64,
            "details": {"format": "gguf", "family": "llama", "parameter_size": "8B", "quantization_level": "Q4_0"},
            "expires_at": (datetime.now(UTC) + timedelta(seconds=min(left_s, 8e9))).isoformat(),
            "context_length": model.context_length,
        }  # fmt: skip

    async def _generate(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        name = full(str(body.get("model", "")))
        if name not in self.models:
            raise Refused(404, f'model "{name}" not found, try pulling it first')
        if path == "/api/generate" and _is_unload(body):
            one = self.running.get(name)
            if one is not None:
                one.keep_s = 0.0
                self._restart_timer(one)
            return {"model": name, "response": "", "done": True, "done_reason": "unload"}
        if self.models[name].is_embedding and path == "/api/generate":
            raise Refused(400, f'"{name}" does not support generate')
        await self.load(name, body.get("keep_alive"))
        if path == "/api/embed":
            return {"model": name, "embeddings": []}
        return {
            "model": name,
            "response": "",
            "done": True,
            "done_reason": "load" if not body.get("prompt") else "stop",
        }

    # HTTP, as much as it takes.

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                while await self._serve_one(reader, writer):
                    pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, path, _version = head.split("\r\n", 1)[0].split(" ")
        found = re.search(r"(?i)\r\ncontent-length: *(\d+)", head)
        raw = await reader.readexactly(int(found[1])) if found else b""
        body = json.loads(raw) if raw else {}
        self.asked.append((method, path, body))
        status, answer = 200, b""
        answering = asyncio.ensure_future(self._answer(method, path, body))
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                return False  # its client has left
            answer = json.dumps(answering.result()).encode()
        except Refused as refused:
            status, answer = refused.status, json.dumps({"error": str(refused)}).encode()
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
        answer = self.faults.answers.get(path, answer)
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n".encode()
        )
        writer.write(answer)
        await writer.drain()
        return True


def _is_unload(body: dict[str, Any]) -> bool:
    return not body.get("prompt") and "keep_alive" in body and keep_alive_s(body["keep_alive"]) == 0

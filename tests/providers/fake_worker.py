"""A scripted worker on a real Unix socket, and a residency that hands it out: what the data plane is tested against.

Each connection serves one request, as workers do. What it does is a list of steps: bytes to send, seconds to pause,
or a word for how to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modelyard.diagnosis import Evidence, Verdict, diagnose
from modelyard.errors import YardError
from modelyard.residency.use import NO_WISH, Wish
from modelyard.types.model import Capability, Model

Step = bytes | float | Literal["reset", "hang"]
Script = Callable[[dict[str, Any]], list[Step]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
MODEL = Model(
    "tiny", "fake", context_length=4096, size_bytes=1000, modified_at=1_700_000_000.0, aliases=("small",),
    capabilities=frozenset((Capability.CHAT, Capability.COMPLETION, Capability.TOOLS)),
)  # fmt: skip


def event(body: object) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def delta(finish: str | None = None, index: int = 0, **members: object) -> bytes:
    return event({"choices": [{"index": index, "delta": members, "finish_reason": finish}], "model": "/models/x.gguf"})


def usage(read: int = 3, made: int = 2) -> bytes:
    counts = {"prompt_tokens": read, "completion_tokens": made, "prompt_tokens_details": {"cached_tokens": 1}}
    return event({"choices": [], "usage": counts, "timings": {"prompt_ms": 5.0, "predicted_ms": 8.0}})


DONE = b"data: [DONE]\n\n"
HELLO: list[Step] = [
    HEAD,
    event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}],
           "prompt_progress": {"total": 3, "cache": 0, "processed": 3, "time_ms": 1}}),
    delta(content="Hello"), delta(content=" there"), delta("stop"), usage(), DONE,
]  # fmt: skip


def refusal(status: int, body: object) -> list[Step]:
    text = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n"
    return [head.encode() + text]


@dataclass
class FakeWorker:
    """Fulfils the seam of a running worker."""

    socket: Path
    has_progress: bool = True
    script: Script = lambda _body: HELLO
    slots: int = 4
    started: int = 0
    finished: int = 0
    gone: int = 0  # connections closed by the other side before the script's end
    running: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)  # for how it ended
    exited: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def last_lines(self) -> tuple[str, ...]:
        return ("loading /secret/path/model.gguf", "boom")

    def verdict(self) -> Verdict:
        return diagnose(self.evidence)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        body = json.loads(await reader.readexactly(length))
        self.heads.append(head)
        self.bodies.append(body)
        self.started += 1
        self.running += 1
        answering = asyncio.ensure_future(self._answer(self.script(body), writer))
        listening = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((answering, listening), return_when=asyncio.FIRST_COMPLETED)
            if answering.done() and not answering.cancelled() and answering.exception() is None:
                self.finished += 1
            else:
                self.gone += 1
        finally:
            self.running -= 1
            answering.cancel()
            listening.cancel()
            await asyncio.gather(answering, listening, return_exceptions=True)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, steps: list[Step], writer: asyncio.StreamWriter) -> None:
        for step in steps:
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            elif step == "reset":
                writer.transport.abort()
            elif step == "hang":
                await asyncio.Event().wait()
            else:
                assert isinstance(step, float)
                await asyncio.sleep(step)


@dataclass
class FakeLease:
    worker: FakeWorker
    queue_s: float = 0.0
    load_s: float = 0.0
    progressed_at: float = field(default_factory=time.monotonic)
    failures: list[YardError] = field(default_factory=list)
    leaving_because: str = ""
    degraded: tuple[str, ...] = ()
    context_length: int = 0

    def progressed(self) -> None:
        self.progressed_at = time.monotonic()

    def worker_quiet_s(self) -> float:
        return time.monotonic() - self.progressed_at

    async def fail(self, error: YardError) -> None:
        self.failures.append(error)


@dataclass
class FakeResidency:
    """Grants at once, or when `gate` opens. Counts what is held."""

    worker: FakeWorker
    held: int = 0
    waiting: int = 0
    asked: list[dict[str, object]] = field(default_factory=list)
    wishes: list[Wish] = field(default_factory=list)
    leases: list[FakeLease] = field(default_factory=list)
    gate: asyncio.Event | None = None
    refusal: YardError | None = None
    degraded: tuple[str, ...] = ()

    @asynccontextmanager
    async def lease(
        self,
        model: Model,
        *,
        ticket: str,
        caller: str,
        deadline: float,
        keep_alive_s: float | None = None,
        wish: Wish = NO_WISH,
    ) -> AsyncIterator[FakeLease]:
        self.asked.append({"model": model.name, "ticket": ticket, "caller": caller, "keep_alive_s": keep_alive_s})
        self.wishes.append(wish)
        self.waiting += 1
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.refusal is not None:
                raise self.refusal
        finally:
            self.waiting -= 1
        lease = FakeLease(self.worker, queue_s=0.25, load_s=0.5, degraded=self.degraded)
        self.leases.append(lease)
        self.held += 1
        try:
            yield lease
        finally:
            self.held -= 1


@asynccontextmanager
async def fake_worker(script: Script | None = None) -> AsyncIterator[FakeWorker]:
    folder = Path(tempfile.mkdtemp(prefix="my"))
    worker = FakeWorker(folder / "w.sock")
    if script is not None:
        worker.script = script
    server = await asyncio.start_unix_server(worker.serve, worker.socket)
    try:
        yield worker
    finally:
        server.close()
        await until(lambda: worker.running == 0, "the worker idle")
        shutil.rmtree(folder)


async def until(condition: Callable[[], object], what: str, within_s: float = 10.0) -> None:
    """Wait for something to become true; the limit is a guard, not an assertion about speed."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.005)

"""Waiting until a worker serves: it must keep making progress, however slowly, and must not die.

There is no load progress in the engines, so progress is what can be seen from outside: memory that grows, lines that
come, processor time that is spent. Knows nothing about engines.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from modelyard.diagnosis import explained
from modelyard.errors import N_, LoadFailed, LoadStalled, OutOfMemory, said
from modelyard.types.address import LOOPBACK
from modelyard.types.memory import ProcessMemory
from modelyard.units import format_bytes
from modelyard.workers.listening import look
from modelyard.workers.process import ExitStatus, Worker
from modelyard.workers.trace import Trace

POLL_S_MIN = 0.005
POLL_S_MAX = 0.25
POLL_RATIO = 0.02  # of the time it has taken so far: what asking too late may add
LOOK_S = 0.25  # between two looks at memory and processor time; a short load is over before the first
PROBE_S = 1.0
LINES_KEPT_MAX = 50
BUSY_RATIO = 0.2  # of one core; answering our own probes costs less
GROWTH_BYTES = 256 * 1024
LATE_STALL_RATIO = 0.1  # past its deadline a load may go on as long as it moves, and be still this share of the usual
DEADLINE_RATIO_MAX = 4.0  # and then it ends
NO_COMMIT = N_("The model or its engine could not be loaded (memory or page file too small).")
STILL_THERE = ExitStatus(None, None, "")


@dataclass(frozen=True, slots=True)
class LoadWatch:
    """What a load may take, and whom to tell."""

    model: str
    stall_s: float
    deadline_s: float
    explain: Callable[[tuple[str, ...]], str]  # what only the engine's recipe can tell; else empty
    memory: Callable[[], ProcessMemory]
    on_progress: Callable[[str, float], None]  # phase, and how far from 0 to 1
    expected_bytes: int = 0
    given_up: tuple[str, ...] = ()  # it is started in a smaller way already


async def wait_ready(worker: Worker, watch: LoadWatch) -> Trace:
    """Return once the worker answers its ready path, with what was seen of its memory so far.

    Raises `LoadFailed` or `LoadStalled`; does not stop it.
    """
    began = time.monotonic()
    trace = Trace(watch.memory, predicted_bytes=watch.expected_bytes, tried=watch.given_up)
    signs = _Signs(worker, trace.memory, seen_at=began, looked_at=began)
    delay = POLL_S_MIN
    watch.on_progress("loading", 0.0)
    door = _Door(worker, watch)
    while not await door.is_open():
        await asyncio.wait((worker.exited,), timeout=delay)
        if worker.exited.done():
            raise _ended(worker, watch, trace)
        now = time.monotonic()
        delay = min(POLL_S_MAX, max(POLL_S_MIN, POLL_RATIO * (now - began)))
        if now - signs.looked_at >= LOOK_S:
            held = await asyncio.to_thread(signs.look, now)  # it looks through every process there is
            if watch.expected_bytes and held:
                watch.on_progress("loading", min(0.99, held / watch.expected_bytes))
        is_late = now - began >= watch.deadline_s
        if now - signs.seen_at >= watch.stall_s * (LATE_STALL_RATIO if is_late else 1):
            if is_late:
                problem = said("it was not ready after {waited_s} s, and does no more", waited_s=round(now - began))
                raise await door.with_ports(_failed(worker, watch, problem, ""))
            raise await door.with_ports(_stalled(worker, watch, trace, round(now - signs.seen_at)))
        if now - began >= DEADLINE_RATIO_MAX * watch.deadline_s:
            raise await door.with_ports(
                _failed(worker, watch, said("it was not ready after {waited_s} s", waited_s=round(now - began)), "")
            )
    watch.on_progress("ready", 1.0)
    return trace


def _ended(worker: Worker, watch: LoadWatch, trace: Trace) -> LoadFailed:
    """It has exited: why, as far as what was counted and what it wrote can tell."""
    end, lines = worker.exited.result(), worker.last_lines()[-LINES_KEPT_MAX:]
    verdict = trace.verdict(end, lines)
    if verdict.is_memory:
        error = OutOfMemory(
            NO_COMMIT if verdict.is_commit else None,
            model=watch.model, exit=end.text, last_lines=lines, needed=format_bytes(watch.expected_bytes),
            free=format_bytes(trace.free_bytes), held=format_bytes(trace.held_bytes),
        )  # fmt: skip
        if watch.given_up:
            error.fields["tried"] = ", ".join(watch.given_up)
        return explained(error, verdict)
    said = watch.explain(lines) or verdict.cause
    return explained(_failed(worker, watch, f"{said} ({end.text})", end.text), verdict)


def _stalled(worker: Worker, watch: LoadWatch, trace: Trace, stalled_s: int) -> LoadStalled:
    lines = worker.last_lines()[-LINES_KEPT_MAX:]
    error = LoadStalled(model=watch.model, stalled_s=stalled_s, last_lines=lines)
    return explained(error, trace.verdict(STILL_THERE, lines, stalled_s))


def _failed(worker: Worker, watch: LoadWatch, problem: str, end: str) -> LoadFailed:
    lines = worker.last_lines()[-LINES_KEPT_MAX:]
    return LoadFailed(model=watch.model, problem=problem, exit=end, last_lines=lines)


@dataclass(slots=True)
class _Signs:
    """Signs of life of one loading worker."""

    worker: Worker
    memory: Callable[[], ProcessMemory]
    seen_at: float
    looked_at: float
    _lines: int = 0
    _bytes_max: int = 0
    _cpu_s: float = 0.0

    def look(self, now: float) -> int:
        """Note what has changed; the bytes it holds now."""
        held = self.memory()
        count = held.anonymous_bytes + held.file_bytes + sum(held.gpu_bytes.values())
        cpu_s = _cpu_s(self.worker.pid)
        is_busy = cpu_s - self._cpu_s > BUSY_RATIO * (now - self.looked_at)
        if count > self._bytes_max + GROWTH_BYTES or self.worker.line_count > self._lines or is_busy:
            self.seen_at = now
        self._bytes_max, self._lines = max(count, self._bytes_max), self.worker.line_count
        self._cpu_s, self.looked_at = cpu_s, now
        return count


def _cpu_s(pid: int) -> float:
    """Processor time of the whole tree: what loads may be a grandchild."""
    total = 0.0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                times = member.cpu_times()
                total += times.user + times.system
    return total


@dataclass(slots=True)
class _Door:
    """Where one worker should answer."""

    worker: Worker
    watch: LoadWatch
    _is_known: bool = False  # it is the worker that listens there

    async def is_open(self) -> bool:
        """One question to the ready path; anything but 200 in time is a no. Raises if a stranger listens there."""
        socket = self.worker.socket
        if isinstance(socket, Path) and not socket.exists():
            return False
        try:
            async with asyncio.timeout(PROBE_S):
                if isinstance(socket, Path):
                    reader, writer = await asyncio.open_unix_connection(str(socket))
                else:
                    reader, writer = await asyncio.open_connection(LOOPBACK, socket.number)
        except (OSError, TimeoutError):
            return False
        try:
            if not self._is_known:
                await self._check(writer)
                self._is_known = True
            async with asyncio.timeout(PROBE_S):
                headers = "Host: worker\r\n" if isinstance(socket, Path) else socket.headers
                writer.write(f"GET {self.worker.ready_path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n".encode())
                return (await reader.readline()).split(b" ")[1:2] == [b"200"]
        except (OSError, TimeoutError, ValueError):
            return False
        finally:
            writer.close()

    async def _check(self, writer: asyncio.StreamWriter) -> None:
        """Before it is told anything: that it is our worker, and that nobody else can reach it."""
        socket = self.worker.socket
        if isinstance(socket, Path):
            if not is_ours(writer.get_extra_info("socket").fileno()):
                raise _failed(self.worker, self.watch, N_("its socket belongs to another user"), "")
            return
        found = await asyncio.to_thread(look, self.worker.pid, socket.number)
        if self.worker.exited.done():
            return  # of that others tell better
        if found.exposed_at:
            error = _failed(
                self.worker,
                self.watch,
                said("it listens on {exposed_at}, where others reach it", exposed_at=found.exposed_at),
                "",
            )
            error.hints = (N_("Let its command listen on 127.0.0.1, as with --host 127.0.0.1."),)
            raise error
        if found.has_stranger:
            raise _failed(self.worker, self.watch, N_("another program listens on its port"), "")

    async def with_ports(self, error: LoadFailed) -> LoadFailed:
        """The same error, which also says where the worker listens instead."""
        socket = self.worker.socket
        found = await asyncio.to_thread(look, self.worker.pid, 0 if isinstance(socket, Path) else socket.number)
        if found.elsewhere and not self._is_known:
            error.fields["ports"] = ", ".join(str(port) for port in found.elsewhere)
            error.hints = (
                N_("It listens on port {ports} and not where it was told to: does its command use the placeholder?"),
                *error.hints,
            )
        return error


def is_ours(fd: int) -> bool:
    """Whether whoever listens at the other end of a Unix socket runs as the same user. True where nobody can tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    layout = "3i"  # pid, uid, gid
    with socket.socket(fileno=os.dup(fd)) as peer:
        found = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(layout))
    _pid, uid, _gid = struct.unpack(layout, found)
    return bool(uid == os.getuid())

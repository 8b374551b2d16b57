"""A whole server as a process of its own, with scripted models, and clients that speak to it over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

DEADLINE_S = 60.0
MARK = "MODELYARD_RUN"


@dataclass
class Server:
    """One running `modelyard serve`."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def runtime(self) -> Path:
        return self.folder / "run"

    def log_events(self) -> list[dict[str, Any]]:
        """The server's log so far, line by line."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def workers(self) -> list[psutil.Process]:
        """Every process that carries this server's mark, wherever it hangs in the tree."""
        runs = {path.name for path in (self.runtime / "modelyard").glob("*")} | _marks(self.process.pid)
        return marked(runs)


def _marks(pid: int) -> set[str]:
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return set()
    return {environment_of(child).get(MARK, "") for child in children} - {""}


def environment_of(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):
        return {}


def marked(runs: set[str]) -> list[psutil.Process]:
    """Living processes of these runs."""
    return [
        process
        for process in psutil.process_iter()
        if environment_of(process).get(MARK) in runs and process.status() != psutil.STATUS_ZOMBIE
    ]


def clean_environment(folder: Path, further: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a stranger's shell would hand on, with every folder of ours inside one."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    home = {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run"), "TMPDIR": str(folder)}
    return {**kept, **home, "PYTHONUNBUFFERED": "1", **(further or {})}


@contextmanager
def short_folder() -> Iterator[Path]:
    """A private folder with a short path: a socket's path must stay below the kernel's limit."""
    path = Path(tempfile.mkdtemp(prefix="my", dir="/tmp"))
    (path / "run").mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def start_server(
    folder: Path,
    config: Mapping[str, Any] | None = None,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    port: int = 0,
    pass_fds: tuple[int, ...] = (),
    program: Sequence[str] = ("-m", "modelyard.cli"),
    says_to: int | None = None,
) -> Server:
    """Start it; `ready` waits for it. `says_to` is a file descriptor that takes its output instead of a log file."""
    path = folder / "modelyard.json"
    path.write_text(json.dumps({"server": {"port": port}, "log": {"format": "json"}, **dict(config or {})}))
    log = folder / f"log-{time.monotonic_ns()}"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *program, "serve", "--config", str(path), *arguments],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream if says_to is None else says_to, cwd=folder,
            env=clean_environment(folder, environment), pass_fds=pass_fds,
        )  # fmt: skip
    return Server(process, port, folder, log)


async def ready(server: Server) -> Server:
    """Wait until it says where it is."""
    end = time.monotonic() + DEADLINE_S
    while " is ready at http" not in (text := server.text()):
        assert server.process.poll() is None, f"the server ended: {text}"
        assert time.monotonic() < end, f"the server is not ready: {text}"
        await asyncio.sleep(0.02)
    line = next(line for line in text.splitlines() if " is ready at http" in line)
    server.port = int(line.rpartition(":")[2])
    return server


async def stopped(server: Server, number: signal.Signals = signal.SIGTERM) -> int:
    """Ask it to end, and wait. Kills it after the deadline, so that nothing is left behind."""
    if server.process.poll() is None:
        server.signal(number)
    try:
        return await asyncio.to_thread(server.process.wait, DEADLINE_S)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()
        raise


@asynccontextmanager
async def running(config: Mapping[str, Any] | None = None, *arguments: str, **options: Any) -> AsyncIterator[Server]:
    """A server for the length of a block."""
    with short_folder() as folder:
        server = start_server(folder, config, *arguments, **options)
        try:
            yield await ready(server)
        finally:
            await stopped(server)


@contextmanager
def serving(config: Mapping[str, Any] | None = None, *arguments: str, **options: Any) -> Iterator[Server]:
    """The same without a loop: for a fixture that several tests share."""
    with short_folder() as folder:
        server = start_server(folder, config, *arguments, **options)
        try:
            yield asyncio.run(ready(server))
        finally:
            asyncio.run(stopped(server))


def echo(**models: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration with these scripted models and no other; an underscore in a name is a hyphen."""
    scripts = {name.replace("_", "-"): dict(script) for name, script in models.items()}
    return {"models": {"builtin": False, "echo": scripts}, "memory": {"gpus": False}}


@dataclass
class Answer:
    """What a client received, frame by frame."""

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    frames: list[dict[str, Any]] = field(default_factory=list)
    comments: int = 0
    done: bool = False
    body: bytes = b""

    @property
    def text(self) -> str:
        pieces = (choice["delta"].get("content") for frame in self.frames for choice in frame.get("choices", ()))
        return "".join(piece or "" for piece in pieces)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error frame or body."""
        if self.status != 200:
            return dict(json.loads(self.body)["error"])
        return next((frame["error"] for frame in self.frames if "error" in frame), None)

    @property
    def finish(self) -> str | None:
        reasons = (choice["finish_reason"] for frame in self.frames for choice in frame.get("choices", ()))
        return next((reason for reason in reasons if reason), None)

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


def chat_body(model: str, content: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


@asynccontextmanager
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without limits of its own; every request has its own connection."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session:
        yield session


async def ask(
    session: aiohttp.ClientSession,
    server: Server,
    model: str,
    *,
    headers: Mapping[str, str] | None = None,
    on_frame: Callable[[Answer], None] | None = None,
    path: str = "/v1/chat/completions",
    **fields: Any,
) -> Answer:
    """One request to its last byte. A broken connection is an `aiohttp.ClientError`."""
    answer = Answer()
    body = chat_body(model, **fields)
    async with session.post(f"{server.url}{path}", json=body, headers=dict(headers or {})) as response:
        answer.status, answer.headers = response.status, response.headers
        if response.content_type != "text/event-stream":
            answer.body = await response.read()
            return answer
        async for line in response.content:
            _take(line.strip(), answer)
            if on_frame is not None and line.startswith(b"data:"):
                on_frame(answer)
    return answer


def _take(line: bytes, answer: Answer) -> None:
    if line.startswith(b":"):
        answer.comments += 1
    elif line == b"data: [DONE]":
        answer.done = True
    elif line.startswith(b"data: "):
        assert not answer.done, "a frame after the end"
        answer.frames.append(json.loads(line[6:]))


async def fetch(session: aiohttp.ClientSession, server: Server, path: str, method: str = "GET", **options: Any) -> Any:
    """One JSON answer."""
    async with session.request(method, f"{server.url}{path}", **options) as response:
        return await response.json()


async def resident(session: aiohttp.ClientSession, server: Server, model: str) -> dict[str, Any] | None:
    """What status says of one model in memory."""
    status = await fetch(session, server, "/admin/status")
    return next((dict(each) for each in status["residents"] if each["model"] == model), None)


def sockets_of(server: Server) -> list[Path]:
    """The sockets of its workers, oldest first."""
    return sorted((server.runtime / "modelyard").glob("*/w*.sock"), key=lambda path: path.stat().st_mtime)


async def counters(path: Path) -> dict[str, int]:
    """What a scripted worker has counted: started, finished, cancelled, running, tokens."""
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://worker/counters") as response:
        return dict(await response.json(content_type=None))


async def until(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Return once the condition holds; it may be a coroutine function."""
    end = time.monotonic() + deadline_s
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.02)


def in_flight(status: Mapping[str, Any]) -> dict[str, str]:
    """Requests of a status by id, with their phases."""
    return {each["id"]: each["phase"] for each in status["requests"]}


def tagged(request_id: str, count: int) -> str:
    """What a scripted worker answers to this request when nothing goes wrong."""
    return "".join(f"{request_id}:{number} " for number in range(count))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

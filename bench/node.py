"""Our server as a child process for one figure: its configuration, its folder, its workers, questions to its API."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from .machine import child, free_port, python, reachable

KEY = "bench-key-0123456789"


@dataclass(frozen=True, slots=True)
class Server:
    """One running server."""

    pid: int
    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[psutil.Process]:
        """The processes below it, oldest first."""
        return sorted(psutil.Process(self.pid).children(), key=lambda process: process.create_time())

    def sockets(self) -> list[Path]:
        """The sockets of its workers, oldest first."""
        return sorted((self.folder / "run").glob("modelyard/*/w*.sock"), key=lambda path: path.stat().st_ctime)

    async def admin(self, method: str, path: str) -> Any:
        """One answer of the admin API. Raise if it is an error."""
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"{self.url}{path}", json={} if method == "POST" else None) as response,
        ):
            answer = await response.json(content_type=None)
            if response.status != 200:
                raise RuntimeError(f"{method} {path}: {response.status} {answer}")
            return answer


@contextmanager
def short_folder() -> Iterator[Path]:
    """A private folder with a short path: a socket's path must stay below the kernel's limit."""
    path = Path(tempfile.mkdtemp(prefix="yb", dir="/tmp"))
    path.chmod(0o755)  # nginx's worker process is somebody else
    (path / "run").mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def with_key(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The same, for callers with a key and within limits that nobody reaches."""
    secret = "sha256:" + hashlib.sha256(KEY.encode()).hexdigest()
    return {
        **configuration,
        "keys": [{"id": "bench", "secret": secret, "rights": ["infer", "read", "admin", "metrics"]}],
        "limits": {"requests_max": 10_000_000, "concurrent_max": 1000},
    }


def write_configuration(folder: Path, port: int, configuration: Mapping[str, Any]) -> Path:
    path = folder / "modelyard.json"
    whole = {"server": {"port": port}, "log": {"format": "json"}, **configuration}
    path.write_text(json.dumps(whole))
    return path


def environment_of(folder: Path) -> dict[str, str]:
    """A stranger's shell, with every folder of ours inside one."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder / "run"), "TMPDIR": str(folder)}


@asynccontextmanager
async def running(
    configuration: Mapping[str, Any], *further: str, cpu: int | None = None, program: str = "modelyard"
) -> AsyncIterator[Server]:
    """A server that is ready, for the length of a block; `static` is the one of `bench.server`."""
    with short_folder() as folder:
        port, log = free_port(), folder / "server.log"
        config = str(write_configuration(folder, port, configuration))
        arguments = {
            "modelyard": ("-m", "modelyard.cli", "serve", "--config", config, *further),
            "static": ("-m", "bench.server", config, str(folder / "nginx"), str(folder / "requests.log")),
        }[program]
        async with child(python(*arguments), cpu=cpu, log=log, environment=environment_of(folder)) as process:
            await reachable(process, port, log=log)
            yield Server(process.pid, port, folder)

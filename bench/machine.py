"""What a figure depends on and how it is taken: the environment, CPU time of processes, pinning, child processes."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

DISTRIBUTIONS = ("modelyard", "starlette", "uvicorn", "uvloop", "aiohttp", "xllamacpp")
PACKAGES = {"nginx": "nginx-light", "wrk": "wrk"}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: what was measured, the same without us, and the bound it is held to."""

    name: str
    ours: str
    baseline: str = ""
    compared: str = ""
    bound: str = ""
    ok: bool | None = None


def environment() -> str:
    """The machine and the versions, in two lines."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor() or platform.machine(),
    )
    memory = psutil.virtual_memory().total / 1024**3
    versions = ", ".join(f"{name} {version(name)}" for name in DISTRIBUTIONS)
    system = f"{platform.system()} {platform.release()}, load {os.getloadavg()[0]:.1f}"
    return (
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {system}\nPython {platform.python_version()}, {versions}"
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def need_tools() -> str:
    """Install nginx and wrk where we may; say what is missing otherwise."""
    missing = [tool for tool in PACKAGES if shutil.which(tool) is None and not Path(f"/usr/sbin/{tool}").exists()]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = [PACKAGES[tool] for tool in missing]
        subprocess.run(["apt-get", "update", "-qq"], check=False, stdout=subprocess.DEVNULL)
        subprocess.run(["apt-get", "install", "-y", "-qq", *packages], check=False, stdout=subprocess.DEVNULL)
        missing = [tool for tool in missing if shutil.which(tool) is None]
    return f"install {', '.join(missing)} for the figures against a static upstream" if missing else ""


def tool(name: str) -> str:
    return shutil.which(name) or f"/usr/sbin/{name}"


def cpu_seconds(pid: int) -> float:
    """User and system time a process has used so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def resident_mib(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 1024**2


@asynccontextmanager
async def child(
    argv: Sequence[str], *, cpu: int | None = None, quiet: bool = True
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A process that is gone when the block ends. `cpu` pins it."""
    pin = ["taskset", "-c", str(cpu)] if cpu is not None and shutil.which("taskset") else []
    out = subprocess.DEVNULL if quiet else None
    process = subprocess.Popen([*pin, *argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out)  # noqa: ASYNC220
    try:
        yield process
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def reachable(port: int, path: str = "/readyz", deadline_s: float = 60) -> None:
    """Wait until an HTTP server answers 200 on loopback."""
    async with asyncio.timeout(deadline_s):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
                status = await reader.readline()
                writer.close()
                if b" 200" in status:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.01)


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]

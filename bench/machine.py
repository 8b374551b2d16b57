"""What a figure depends on and how it is taken: the environment, CPU time of processes, pinning, child processes."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
START_S_MAX = 60
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


def middle(values: Sequence[float]) -> float:
    """What to report of repeated measurements: others' work on this machine only ever adds outliers."""
    return statistics.median(values)


def spread(values: Sequence[float], form: str) -> str:
    """All of them, from the least to the most."""
    return f"{min(values):{form}}..{max(values):{form}}"


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
    missing = [name for name in PACKAGES if not Path(tool(name)).exists()]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        packages = [PACKAGES[name] for name in missing]
        subprocess.run(["apt-get", "update", "-qq"], check=False, stdout=subprocess.DEVNULL)
        subprocess.run(["apt-get", "install", "-y", "-qq", *packages], check=False, stdout=subprocess.DEVNULL)
        missing = [name for name in missing if not Path(tool(name)).exists()]
    return f"install {', '.join(missing)} for the figures against a static upstream" if missing else ""


def tool(name: str) -> str:
    return shutil.which(name) or f"/usr/sbin/{name}"


def cpu_seconds(pid: int) -> float:
    """CPU time all threads of a process have used so far; to the nanosecond where the kernel tells."""
    try:
        tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def resident_mb(pid: int) -> float:
    """Resident memory of one process, in millions of bytes."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6


@asynccontextmanager
async def child(
    argv: Sequence[str],
    *,
    cpu: int | None = None,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A process that is gone when the block ends. `cpu` pins it; what it says goes to `log`."""
    with (log or Path(os.devnull)).open("wb") as out:
        process = subprocess.Popen(  # noqa: ASYNC220
            [*pin(cpu), *argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, cwd=ROOT
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def pin(cpu: int | None) -> list[str]:
    """What keeps a command on one core, where that is possible."""
    return ["taskset", "-c", str(cpu)] if cpu is not None and shutil.which("taskset") else []


async def reachable(
    process: subprocess.Popen[bytes], port: int, path: str = "/readyz", *, log: Path | None = None
) -> None:
    """Wait until the HTTP server that a process is to become answers 200 on loopback."""
    async with asyncio.timeout(START_S_MAX):
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended with {process.returncode}: {_end_of(log)}")
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
                status = await reader.readline()
                writer.close()
                if b" 200" in status:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.005)


def _end_of(log: Path | None) -> str:
    return log.read_text(errors="replace")[-2000:] if log else "it said nothing"


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]

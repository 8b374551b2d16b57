"""Load from outside: wrk, and what it says."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

from .machine import tool

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True, slots=True)
class Load:
    """One run: requests a second, and the latency's percentiles in milliseconds."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


async def wrk(
    url: str, body: str, folder: Path, *, in_flight: int, seconds: float, cpu: int = 1, key: str = ""
) -> Load:
    """Send the same POST over and over on `in_flight` connections."""
    script = folder / "post.lua"
    headers = 'wrk.headers["Content-Type"] = "application/json"\n'
    if key:
        headers += f'wrk.headers["Authorization"] = "Bearer {key}"\n'
    script.write_text(f"wrk.method = 'POST'\n{headers}wrk.body = [==[{body}]==]\n")
    argv = [
        "taskset",
        "-c",
        str(cpu),
        tool("wrk"),
        "-t1",
        f"-c{in_flight}",
        f"-d{seconds:g}s",
        "--latency",
        "-s",
        str(script),
        url,
    ]
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    output = (await process.communicate())[0].decode()
    return _parsed(output)


def _parsed(output: str) -> Load:
    def percentile(name: str) -> float:
        match = re.search(rf"^\s+{name}%\s+([\d.]+)(us|ms|s|m)", output, re.MULTILINE)
        return float(match[1]) * _UNITS[match[2]] if match else float("nan")

    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", output))
    failed += sum(
        int(number) for line in re.findall(r"Socket errors: (.*)", output) for number in re.findall(r"\d+", line)
    )
    return Load(float(rate[1]) if rate else 0.0, percentile("50"), percentile("99"), failed)

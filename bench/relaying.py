"""What a request and a chunk cost through us: latency, requests a second on one core, CPU per streamed chunk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from . import upstream
from .client import OPENAI, Answer, ask, chat
from .load import Load, wrk
from .machine import Row, child, cpu_seconds, free_port, middle, python, reachable, spread
from .node import KEY, Server, running, short_folder, with_key

REQUESTS_PER_S_MIN = 4000
CHUNK_US_MAX = 30
STREAMS = 64
TOKENS_PER_S = 50
PAIRS = 3
RUN_S = 2
STREAMING_S = 3

STATIC = {"models": {"builtin": False}, "memory": {"gpus": False}}


@dataclass(frozen=True, slots=True)
class Pair:
    """The same load on us and on the static upstream itself, one right after the other."""

    ours: Load
    bare: Load
    cpu_us: float  # of our process, per request
    share: float  # of its core that our process got: what others took is not our speed


async def latency() -> list[Row]:
    """Added latency, alone and in company."""
    rows = []
    for in_flight, pairs in (await _pairs((1, 32))).items():
        for percentile in ("p50", "p99"):
            ours = [getattr(pair.ours, f"{percentile}_ms") for pair in pairs]
            bare = [getattr(pair.bare, f"{percentile}_ms") for pair in pairs]
            added = [one - other for one, other in zip(ours, bare, strict=True)]
            rows.append(
                Row(
                    f"latency {percentile}, {in_flight} in flight",
                    f"{middle(ours):.2f} ms",
                    f"{middle(bare):.2f} ms",
                    f"+{middle(added):.2f} ms ({spread(added, '.2f')})",
                )
            )
    return rows


async def throughput() -> list[Row]:
    """Requests a second on one core, with key check, limits, figures and request log."""
    pairs = (await _pairs((32,)))[32]
    cpu_us, smallest_us = [pair.cpu_us for pair in pairs], await _smallest_relay_us()
    ours, bare = [pair.ours.requests_per_s for pair in pairs], [pair.bare.requests_per_s for pair in pairs]
    ratio = middle(ours) / middle(bare)
    failed = sum(pair.ours.failed for pair in pairs)
    compared = f"{ratio:.2f} of it"
    if (share := middle([pair.share for pair in pairs])) < 0.9:
        compared += f"; had only {share:.0%} of its core"
    return [
        Row(
            "requests/s on one core",
            f"{middle(ours):,.0f} ({spread(ours, ',.0f')})" + (f", {failed} failed" if failed else ""),
            f"{middle(bare):,.0f}",
            compared,
            f">= {REQUESTS_PER_S_MIN:,}",
            middle(ours) >= REQUESTS_PER_S_MIN and not failed,
        ),
        Row(
            "CPU per request",
            f"{middle(cpu_us):.0f} µs ({spread(cpu_us, '.0f')})",
            f"{middle(smallest_us):.0f} µs ({spread(smallest_us, '.0f')})",
            f"{middle(cpu_us) / middle(smallest_us):.2f} × uvicorn + aiohttp that only relay",
        ),
    ]


async def _pairs(in_flights: Sequence[int]) -> dict[int, list[Pair]]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(running(with_key(STATIC), cpu=0, program="static"))
        port = await stack.enter_async_context(static_upstream())
        ours, bare = (f"http://127.0.0.1:{where}/v1/chat/completions" for where in (server.port, port))
        await wrk(ours, upstream.BODY, server.folder, in_flight=4, seconds=1, key=KEY)  # load, warm up
        return {
            in_flight: [await one_pair(server, ours, bare, in_flight) for _n in range(PAIRS)]
            for in_flight in in_flights
        }


async def one_pair(server: Server, ours: str, bare: str, in_flight: int) -> Pair:
    async def run(url: str, key: str = "") -> Load:
        return await wrk(url, upstream.BODY, server.folder, in_flight=in_flight, seconds=RUN_S, key=key)

    before_s, began = cpu_seconds(server.pid), time.monotonic()
    through_us = await run(ours, KEY)
    cpu_s, took_s = cpu_seconds(server.pid) - before_s, time.monotonic() - began
    count = max(1.0, through_us.requests_per_s * RUN_S)
    return Pair(through_us, await run(bare), cpu_s / count * 1e6, cpu_s / took_s)


async def _smallest_relay_us() -> list[float]:
    """CPU per request of a relay that does nothing else, on the same core in front of the same upstream."""
    with short_folder() as folder:
        port, socket = free_port(), folder / "nginx.sock"
        async with (
            child(upstream.command(folder / "nginx", f"listen unix:{socket};")),
            child(python("-m", "bench.smallest_relay", str(port), str(socket)), cpu=0) as process,
        ):
            await reachable(process, port)
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            await wrk(url, upstream.BODY, folder, in_flight=4, seconds=1)
            found = []
            for _n in range(PAIRS):
                before_s = cpu_seconds(process.pid)
                run = await wrk(url, upstream.BODY, folder, in_flight=32, seconds=RUN_S)
                found.append((cpu_seconds(process.pid) - before_s) / max(1, run.requests_per_s * RUN_S) * 1e6)
            return found


@asynccontextmanager
async def static_upstream() -> AsyncIterator[int]:
    with short_folder() as folder:
        port = free_port()
        async with child(upstream.command(folder / "nginx", f"listen 127.0.0.1:{port} backlog=1024;")) as process:
            await reachable(process, port, "/health")
            yield port


async def chunk_cost() -> list[Row]:
    """CPU of our process per chunk of many slow streams, beside nginx relaying the same from the same worker."""
    script = {"tokens_per_s": TOKENS_PER_S, "slots": 2 * STREAMS, "context_length": 100_000}
    models = {"builtin": False, "echo": {"slow": script}}
    async with running({**STATIC, "models": models}, cpu=0) as server:
        await server.admin("POST", "/admin/models/slow/load")
        async with _plain_relay(server.sockets()[-1]) as (port, pid):
            ours, bare = [], []
            for _n in range(PAIRS):
                ours.append(await chunk_us(server.port, server.pid))
                bare.append(await chunk_us(port, pid))
    return [
        Row(
            f"CPU per chunk, {STREAMS} streams",
            f"{middle(ours):.1f} µs ({spread(ours, '.1f')})",
            f"{middle(bare):.1f} µs",
            f"{middle(ours) / middle(bare):.1f} × nginx as a plain relay",
            f"<= {CHUNK_US_MAX} µs",
            middle(ours) <= CHUNK_US_MAX,
        )
    ]


@asynccontextmanager
async def _plain_relay(socket: Path) -> AsyncIterator[tuple[int, int]]:
    """nginx in front of a worker's socket: its port, and the process that relays."""
    with short_folder() as folder:
        port = free_port()
        async with child(upstream.relay_command(folder / "nginx", port, socket), cpu=0) as master:
            await reachable(master, port, "/health")
            yield port, upstream.worker_of(master.pid)


async def chunk_us(port: int, pid: int, path: str = OPENAI) -> float:
    """CPU per chunk while every stream is under way: neither its beginning nor its end is counted."""
    answers = [Answer() for _n in range(STREAMS)]
    body = chat("slow", "Go on.", 90_000, path)
    tasks = []
    for answer in answers:
        tasks.append(asyncio.create_task(ask(port, body, answer, path=path)))
        await asyncio.sleep(1 / TOKENS_PER_S / STREAMS)  # else all of them tick at the same moment
    try:
        async with asyncio.timeout(30):
            while not all(answer.first_at for answer in answers):  # noqa: ASYNC110 - nobody will tell us
                await asyncio.sleep(0.01)
        before_s, before = cpu_seconds(pid), sum(answer.chunks for answer in answers)
        await asyncio.sleep(STREAMING_S)
        return (cpu_seconds(pid) - before_s) / (sum(answer.chunks for answer in answers) - before) * 1e6
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

"""What other nodes cost: requests and chunks through an OpenAI-compatible node, beside the same through a worker.

The bounds are those of a worker's. Each pair of figures is taken by turns, since the machine's speed drifts.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from . import upstream
from .client import OLLAMA, OPENAI
from .load import wrk
from .machine import Row, middle, spread
from .node import KEY, Server, running, with_key
from .relaying import (
    CHUNK_US_MAX,
    PAIRS,
    REQUESTS_PER_S_MIN,
    STATIC,
    STREAMS,
    TOKENS_PER_S,
    chunk_us,
    one_pair,
    static_upstream,
)

IN_FLIGHT = 32
DIALECT_RATIO_MAX = 2.0


async def throughput() -> list[Row]:
    """Requests a second on one core through a node, with key check, limits, figures and request log."""
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(static_upstream())
        at_node = with_key({**STATIC, "nodes": [_node("openai", port)]})
        servers = [
            await stack.enter_async_context(running(at_node, cpu=0)),
            await stack.enter_async_context(running(with_key(STATIC), cpu=0, program="static")),
        ]
        bare = f"http://127.0.0.1:{port}/v1/chat/completions"
        urls = [f"{server.url}/v1/chat/completions" for server in servers]
        for server, url in zip(servers, urls, strict=True):
            await wrk(url, upstream.BODY, server.folder, in_flight=4, seconds=1, key=KEY)  # load, warm up
        pairs = [
            [await one_pair(server, url, bare, IN_FLIGHT) for server, url in zip(servers, urls, strict=True)]
            for _n in range(PAIRS)
        ]
    node, worker = ([pair[place].ours.requests_per_s for pair in pairs] for place in (0, 1))
    node_us, worker_us = ([pair[place].cpu_us for pair in pairs] for place in (0, 1))
    failed = sum(pair[0].ours.failed for pair in pairs)
    return [
        Row(
            "requests/s through an openai node",
            f"{middle(node):,.0f} ({spread(node, ',.0f')})" + (f", {failed} failed" if failed else ""),
            f"{middle(worker):,.0f}",
            f"{middle(node) / middle(worker):.2f} of a worker's",
            f">= {REQUESTS_PER_S_MIN:,}",
            middle(node) >= REQUESTS_PER_S_MIN and not failed,
        ),
        Row(
            "CPU per request, openai node",
            f"{middle(node_us):.0f} µs ({spread(node_us, '.0f')})",
            f"{middle(worker_us):.0f} µs",
            f"{middle(node_us) / middle(worker_us):.2f} × a worker's",
        ),
    ]


async def chunk_cost() -> list[Row]:
    """CPU per streamed chunk through nodes of both kinds, in both dialects, beside a worker's."""
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(_talking(cpu=1))
        servers = {
            kind: await stack.enter_async_context(running({**STATIC, "nodes": [_node(kind, origin.port)]}, cpu=0))
            for kind in ("openai", "ollama")
        }
        servers["worker"] = await stack.enter_async_context(_talking(cpu=0))
        asked = [("worker", OPENAI), ("openai", OPENAI), ("openai", OLLAMA), ("ollama", OPENAI), ("ollama", OLLAMA)]
        found: dict[tuple[str, str], list[float]] = {one: [] for one in asked}
        for _n in range(PAIRS):
            for kind, path in asked:
                found[kind, path].append(await chunk_us(servers[kind].port, servers[kind].pid, path))
    through = middle(found["openai", OPENAI])
    rows = [
        Row(
            f"CPU per chunk, {STREAMS} streams, openai node",
            f"{through:.1f} µs ({spread(found['openai', OPENAI], '.1f')})",
            f"{middle(found['worker', OPENAI]):.1f} µs",
            f"{through / middle(found['worker', OPENAI]):.2f} × a worker's",
            f"<= {CHUNK_US_MAX} µs",
            through <= CHUNK_US_MAX,
        )
    ]
    for kind, path in asked[2:]:
        ratio = middle(found[kind, path]) / through
        is_ours = path == OLLAMA
        rows.append(
            Row(
                f"the same, {kind} node, {'Ollama' if is_ours else 'OpenAI'} dialect",
                f"{middle(found[kind, path]):.1f} µs ({spread(found[kind, path], '.1f')})",
                f"{through:.1f} µs",
                f"{ratio:.2f} × OpenAI through an openai node",
                f"<= {DIALECT_RATIO_MAX:g} ×" if is_ours else "",
                ratio <= DIALECT_RATIO_MAX if is_ours else None,
            )
        )
    return rows


@asynccontextmanager
async def _talking(cpu: int) -> AsyncIterator[Server]:
    """A server whose model talks slowly and for long, loaded."""
    script = {"tokens_per_s": TOKENS_PER_S, "slots": 2 * STREAMS, "context_length": 100_000}
    models = {"builtin": False, "echo": {"slow": script}}
    async with running({**STATIC, "models": models}, cpu=cpu) as server:
        await server.admin("POST", "/admin/models/slow/load")
        yield server


def _node(kind: str, port: int) -> Mapping[str, Any]:
    return {"name": "up", "kind": kind, "url": f"http://127.0.0.1:{port}", "slots": 1024}

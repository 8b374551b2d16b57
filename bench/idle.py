"""What a server costs before anybody asks it anything, in time and memory, beside the smallest server there is."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from .machine import Row, child, free_port, middle, python, reachable, resident_mb, spread
from .node import environment_of, running, short_folder

MEMORY_MB_MAX = 90
MINIMAL_MB_MAX = 60
MINIMAL_RATIO_MAX = 0.75  # of the time the whole server takes to be ready
STARTS = 7
SETTLED_S = 1

CONFIGURATION = {"memory": {"gpus": False}}
SMALLEST = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
async def ready(request):
    return PlainTextResponse("ok")
uvicorn.run(Starlette(routes=[Route("/readyz", ready)]), port=int(sys.argv[1]), log_level="error")
"""


@dataclass(slots=True)
class Seen:
    """What starts of one kind of server took."""

    start_s: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)


async def idle() -> list[Row]:
    """Start-up, then memory at rest. The two kinds of server take turns: what else the machine does meets both."""
    whole, minimal = Seen(), Seen()
    for _n in range(STARTS):
        await _start(whole)
        await _start(minimal, "--minimal")
    bare_s, bare_mb = await _smallest()
    ratios = [small / large for small, large in zip(minimal.start_s, whole.start_s, strict=True)]
    return [
        Row(
            "start to ready",
            f"{middle(whole.start_s):.2f} s ({spread(whole.start_s, '.2f')})",
            f"{middle(bare_s):.2f} s",
            f"+{middle(whole.start_s) - middle(bare_s):.2f} s on an empty Starlette",
        ),
        Row(
            "memory of the idle server",
            f"{middle(whole.memory_mb):.0f} MB",
            f"{middle(bare_mb):.0f} MB",
            f"+{middle(whole.memory_mb) - middle(bare_mb):.0f} MB on an empty Starlette",
            f"<= {MEMORY_MB_MAX} MB",
            middle(whole.memory_mb) <= MEMORY_MB_MAX,
        ),
        Row(
            "start to ready, minimal",
            f"{middle(minimal.start_s):.2f} s ({spread(minimal.start_s, '.2f')})",
            f"{middle(bare_s):.2f} s",
            f"{middle(ratios):.2f} of the whole server's ({spread(ratios, '.2f')})",
            f"<= {MINIMAL_RATIO_MAX}",
            middle(ratios) <= MINIMAL_RATIO_MAX,
        ),
        Row(
            "memory of the idle server, minimal",
            f"{middle(minimal.memory_mb):.0f} MB",
            f"{middle(bare_mb):.0f} MB",
            f"{middle(minimal.memory_mb) - middle(whole.memory_mb):+.0f} MB on the whole server",
            f"<= {MINIMAL_MB_MAX} MB",
            middle(minimal.memory_mb) <= MINIMAL_MB_MAX,
        ),
    ]


async def _start(seen: Seen, *arguments: str) -> None:
    began = time.monotonic()
    async with running(CONFIGURATION, *arguments) as server:
        seen.start_s.append(time.monotonic() - began)
        await asyncio.sleep(SETTLED_S)
        seen.memory_mb.append(resident_mb(server.pid))


async def _smallest() -> tuple[list[float], list[float]]:
    start_s: list[float] = []
    memory_mb: list[float] = []
    with short_folder() as folder:
        for _n in range(STARTS):
            port, began = free_port(), time.monotonic()
            async with child(python("-c", SMALLEST, str(port)), environment=environment_of(folder)) as process:
                await reachable(process, port)
                start_s.append(time.monotonic() - began)
                memory_mb.append(resident_mb(process.pid))
    return start_s, memory_mb

"""What a server costs before anybody asks it anything, in time and memory, beside the smallest server there is."""

from __future__ import annotations

import asyncio
import time

from .machine import Row, child, free_port, middle, python, reachable, resident_mb, spread
from .node import environment_of, running, short_folder

MEMORY_MB_MAX = 90
STARTS = 5
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


async def idle() -> list[Row]:
    """Start-up, then memory at rest."""
    start_s: list[float] = []
    memory_mb: list[float] = []
    for _n in range(STARTS):
        began = time.monotonic()
        async with running(CONFIGURATION) as server:
            start_s.append(time.monotonic() - began)
            await asyncio.sleep(SETTLED_S)
            memory_mb.append(resident_mb(server.pid))
    bare_s, bare_mb = await _smallest()
    return [
        Row(
            "start to ready",
            f"{middle(start_s):.2f} s ({spread(start_s, '.2f')})",
            f"{middle(bare_s):.2f} s",
            f"+{middle(start_s) - middle(bare_s):.2f} s on an empty Starlette",
        ),
        Row(
            "memory of the idle server",
            f"{middle(memory_mb):.0f} MB",
            f"{middle(bare_mb):.0f} MB",
            f"+{middle(memory_mb) - middle(bare_mb):.0f} MB on an empty Starlette",
            f"<= {MEMORY_MB_MAX} MB",
            middle(memory_mb) <= MEMORY_MB_MAX,
        ),
    ]


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

"""`modelyard serve` with a heartbeat in its loop: `beating_server.py FILE serve ...` appends every late beat to FILE.

A line has the time, how late the beat was, how much of that the thread did not merely wait for a processor, and how
much processor time it used since the last beat: on an idle machine the longest block is no longer than that.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from modelyard import compose
from modelyard.cli import main as cli
from modelyard.config.settings import LoadedSettings
from modelyard.node import Node

BEAT_S = 0.01


def waited_s() -> float:
    """How long this thread was ready to run and had no processor."""
    try:
        return int(Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


async def beat(target: Path) -> None:
    with target.open("w", buffering=1) as stream:
        while True:
            began, waited, used = time.perf_counter(), waited_s(), time.thread_time()
            await asyncio.sleep(BEAT_S)
            late = time.perf_counter() - began - BEAT_S
            ours = max(late - (waited_s() - waited), 0.0)
            stream.write(f"{time.time()} {late} {ours} {time.thread_time() - used}\n")


def main() -> None:
    target, running_node = Path(sys.argv.pop(1)), compose.running_node

    @asynccontextmanager
    async def beating(loaded: LoadedSettings) -> AsyncIterator[Node]:
        async with running_node(loaded) as node:
            task = asyncio.create_task(beat(target))
            try:
                yield node
            finally:
                task.cancel()

    compose.running_node = beating  # type: ignore[assignment]
    cli.main()


if __name__ == "__main__":
    main()

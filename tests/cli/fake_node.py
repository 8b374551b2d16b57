"""A fake server in a thread of its own, for commands that run in this one or as processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from modelyard.testing import FakeOllama, FakeOpenAI

Fake = TypeVar("Fake", FakeOllama, FakeOpenAI)
START_S = 20.0


@contextmanager
def served(fake: Fake) -> Iterator[Fake]:
    """Listening while the block runs."""
    loop, has_started = asyncio.new_event_loop(), threading.Event()
    has_ended: list[asyncio.Event] = []

    async def serve() -> None:
        end = asyncio.Event()
        has_ended.append(end)
        async with fake:
            has_started.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert has_started.wait(START_S), "the fake server did not start"
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(has_ended[0].set)
        thread.join()
        loop.close()

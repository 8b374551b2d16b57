"""Fake nodes on a loop of their own, for tests whose clients block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from modelyard.testing.server import FakeServer


@contextmanager
def running(*servers: FakeServer) -> Iterator[None]:
    """These servers, until the block ends. Their scripts may be set from the test's thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait(work: list[object]) -> None:
        for one in work:
            asyncio.run_coroutine_threadsafe(one, loop).result(10)  # type: ignore[arg-type]

    try:
        wait([server.start() for server in servers])
        yield
    finally:
        wait([server.stop() for server in servers])
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()

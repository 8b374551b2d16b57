"""`python -m modelyard.testing ollama --fault stall`: a failing server for tests in any language."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress

from .fake_ollama import FakeOllama
from .fake_openai import FakeOpenAI
from .script import FAULTS
from .server import FakeServer


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m modelyard.testing", description="Run a fake model server.")
    parser.add_argument("dialect", choices=("ollama", "openai"))
    parser.add_argument("--model", action="append", help="a model it has; may be given several times")
    parser.add_argument("--fault", choices=sorted(FAULTS), help="what goes wrong with every answer")
    parser.add_argument("--times", type=int, help="only with so many answers")
    parser.add_argument("--key", default="", help="refuse requests without this key")
    asked = parser.parse_args()
    kind = FakeOllama if asked.dialect == "ollama" else FakeOpenAI
    server: FakeServer = kind(asked.model or ["fake-1"], key=asked.key)
    if asked.fault:
        server.play(FAULTS[asked.fault], times=asked.times)
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(server))


async def _serve(server: FakeServer) -> None:
    async with server:
        print(server.url, flush=True)  # noqa: T201 - whoever started it reads this
        await asyncio.Event().wait()


if __name__ == "__main__":
    main()

"""Both Ollama clients asked in one way, so that one test holds for either."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from modelyard.client import OllamaService, Retries, SyncOllamaService

AT_ONCE = Retries(wait_first_s=0, wait_max_s=0, jitter_s=0)
Call = tuple[str, tuple[Any, ...]]


class Twin:
    """Either service, asked in one way."""

    def __init__(self, service: OllamaService | SyncOllamaService) -> None:
        self.service = service

    async def __call__(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Call a method; of what is iterated, everything."""
        found = getattr(self.service, method)(*arguments, **named)
        if isinstance(self.service, OllamaService) and hasattr(found, "__await__"):
            found = await found
        if hasattr(found, "__aiter__"):
            return [one async for one in found]
        return list(found) if hasattr(found, "__next__") else found


@asynccontextmanager
async def opened(kind: str, url: str, **named: Any) -> AsyncIterator[Twin]:
    named.setdefault("retries", AT_ONCE)
    if kind == "async":
        async with OllamaService(url, **named) as service:
            yield Twin(service)
    else:
        with SyncOllamaService(url, **named) as twin:
            yield Twin(twin)

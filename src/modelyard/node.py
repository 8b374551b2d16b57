"""A running node as whoever serves it sees it, and what every wiring of one does alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass

from starlette.applications import Starlette

from modelyard.config.schema import Settings
from modelyard.config.settings import LoadedSettings
from modelyard.errors import YardError
from modelyard.gateway.inference import Inference
from modelyard.gateway.keys import ALL_RIGHTS, Caller
from modelyard.gateway.operations import Operations
from modelyard.models.catalog import Catalog
from modelyard.residency.manager import ResidencyManager
from modelyard.workers.run_folder import RunFolder

CONFIGURATION = Caller("configuration", ALL_RIGHTS)  # who acts where the configuration says so, in the log of acts
FOOTPRINTS_FILE = "footprints.sqlite"  # what loads took


@dataclass(frozen=True, slots=True)
class Node:
    """A running node, as its server and its tests see it."""

    app: Starlette
    operations: Operations
    inference: Inference
    manager: ResidencyManager
    catalog: Catalog
    run: RunFolder
    reload: Callable[[], None]  # ask for the configuration to be read again


Wiring = Callable[[LoadedSettings], AbstractAsyncContextManager[Node]]


@asynccontextmanager
async def working(manager: ResidencyManager, *others: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Everything that works by itself. Whoever fails takes the node down: half a node is worse than none."""
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(one) for one in (manager.run(), *others)]
        try:
            yield
        finally:
            await manager.close()
            for task in background:
                task.cancel()


async def preload(settings: Settings, operations: Operations) -> None:
    """Bring pinned models in, one after the other. One that cannot be loaded is logged, and tried when asked for."""
    for name, options in settings.models.options.items():
        if options.pinned:
            with suppress(YardError):
                await operations.load(CONFIGURATION, name, pinned=True)

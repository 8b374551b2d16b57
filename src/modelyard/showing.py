"""What is shown of a running node: how a model would be started, memory over time. Reads the owners only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial

from modelyard.clock import Clock
from modelyard.engines.choice import REASON
from modelyard.events import EventBus
from modelyard.gateway.memory_history import MemoryHistory
from modelyard.memory.machine import MachineDevices
from modelyard.memory.measured import ANONYMOUS, MAPPED
from modelyard.residency.manager import ResidencyManager
from modelyard.residency.messages import RecycleAsked
from modelyard.types.model import Model, ModelSpec
from modelyard.types.status import Residency
from modelyard.workers.start import Starter


async def launch_details(starter: Starter, manager: ResidencyManager, model: Model) -> Mapping[str, object]:
    """How a model would be started and why, what it would need, and whether there is room for it."""
    await manager.refresh()
    plan = await starter.plan(model)
    estimates = [estimated(spec, manager) for spec in await starter.estimates(model)]
    footprint = asdict(plan.footprint)
    measured = {name: footprint["parts"].pop(name, None) for name in (ANONYMOUS, MAPPED)}
    chosen = {REASON: model.metadata[REASON]} if REASON in model.metadata else {}
    return {"launch": asdict(plan.options), "footprint": {**footprint, **measured}, "estimates": estimates, **chosen}


def estimated(spec: ModelSpec, manager: ResidencyManager) -> dict[str, object]:
    """One line of what `show` prints."""
    seen, footprint = manager.outlook(spec), spec.footprint
    return {
        "context_length": spec.context_length,
        "bytes": footprint.bytes,
        "total_bytes": footprint.total_bytes,
        "source": footprint.source,
        "band_ratio": footprint.band_ratio,
        **asdict(seen),
    }


def loading_names(manager: ResidencyManager) -> frozenset[str]:
    """The models being loaded, or waiting for room."""
    states = (Residency.WAITING, Residency.LOADING)
    return frozenset(resident.model for resident in manager.residents() if resident.state in states)


def memory_history(clock: Clock, events: EventBus, devices: MachineDevices, manager: ResidencyManager) -> MemoryHistory:
    """Watches memory over time; a worker that leaks is replaced at its next idle moment."""

    def recycle(model: str, epoch: int, why: str) -> None:
        manager.feed(RecycleAsked(clock.monotonic(), model, epoch, why))

    return MemoryHistory(
        clock, events, node_memory=partial(devices.alone, os.getpid()), devices=manager.devices,
        residents=manager.residents, on_leak=recycle,
    )  # fmt: skip

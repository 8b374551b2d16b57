"""What residency needs from below: somebody who starts workers, and what a running worker can be asked.

Implemented by `workers`, and by a fake in tests. Residency starts no process itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from modelyard.diagnosis import Verdict
from modelyard.memory.measured import Measured
from modelyard.types.address import Address
from modelyard.types.memory import ProcessMemory
from modelyard.types.model import Kind, Model, ModelSpec


class RunningWorker(Protocol):
    """One worker process that is ready to serve."""

    pid: int
    slots: int
    context_length: int | None
    exited: asyncio.Future[str]  # resolves with a description when the process has ended

    @property
    def socket(self) -> Address: ...

    @property
    def has_progress(self) -> bool:
        """Whether it tells how much of a prompt it has read."""
        ...

    def memory(self) -> ProcessMemory:
        """What its whole process tree holds now."""
        ...

    def last_lines(self) -> tuple[str, ...]:
        """What it said last."""
        ...

    def verdict(self) -> Verdict:
        """Why it ended; to be asked when it has."""
        ...

    async def stop(self) -> None:
        """End it; returns when the whole tree is gone."""
        ...


@dataclass(frozen=True, slots=True)
class NodeResident:
    """A model in memory at another node that shares devices with us."""

    name: str  # as the catalog knows it
    bytes: dict[str, int]  # per device of ours
    expires_in_s: float | None = None  # None: when that node likes


class SharedNode(Protocol):
    """Another node on our devices, an Ollama server for instance: its residents are entries of our ledger."""

    kind: Kind

    async def residents(self) -> tuple[NodeResident, ...]:
        """What it holds now. Raises `YardError` if it cannot be asked: then nothing has changed."""
        ...

    async def load(self, name: str) -> NodeResident:
        """Bring a model in; returns once it is there. Raises `LoadFailed` or another `YardError`."""
        ...

    async def unload(self, name: str) -> None:
        """Take a model out; returns once it is seen gone. Raises `YardError` if it stays."""
        ...


class WorkerStarter(Protocol):
    """Turns a model into a running worker."""

    async def spec(self, model: Model, context_length: int | None = None) -> ModelSpec:
        """Its size, its slots and the smaller ways to start it, with a context for so many tokens."""
        ...

    async def start(
        self, model: Model, epoch: int, on_progress: Callable[[str, float], None], spec: ModelSpec | None = None
    ) -> RunningWorker:
        """Start it as `spec` says. Raises `LoadFailed` or `LoadStalled`; cancellation ends what was started."""
        ...

    def remember(self, spec: ModelSpec, measured: Measured) -> None:
        """What a load really took, for the next prediction."""
        ...

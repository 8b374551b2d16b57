"""What an engine must say about itself. An engine is a recipe: it holds no inference code and starts no process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from modelyard.errors import N_
from modelyard.types.address import Address
from modelyard.types.memory import Footprint
from modelyard.types.model import Model


@dataclass(frozen=True, slots=True)
class Choice:
    """One launch value and why it is what it is: `threads = 2 (2 physical cores)`."""

    value: object
    reason: str


def configured(value: object) -> Choice | None:
    """What the configuration sets, if it does."""
    return None if value is None else Choice(value, N_("set in the configuration"))


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """How a worker for one model is started. Two loads with equal options are interchangeable."""

    slots: int = 1
    context_length: int | None = None  # per slot
    values: Mapping[str, object] = field(default_factory=dict)  # the engine's own: threads, n_batch, n_gpu_layers, ...
    reasons: Mapping[str, str] = field(default_factory=dict)  # why each value was chosen
    is_fixed: bool = False  # it can be started in this one way only: there is nothing to give up


@dataclass(frozen=True, slots=True)
class WorkerCommand:
    """Everything needed to start a worker. Its parts come from settings and files, never from a caller."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    socket: Address
    ready_path: str = "/health"
    under_guardian: bool = False  # True for commands we did not write
    has_progress: bool = True  # it tells how much of a prompt it has read
    stop_argv: tuple[str, ...] = ()  # a program that asks it to end, before it is sent TERM
    secrets: tuple[str, ...] = field(default=(), repr=False)  # what it was given and must not be seen in its lines


class Engine(Protocol):
    """A recipe for workers."""

    name: str
    version: str  # of the library: what one needs, another may not

    def serves(self, model: Model) -> bool:
        """Whether this engine can serve the model's files."""
        ...

    def options(self, model: Model) -> LaunchOptions:
        """Launch values from settings, else from the hardware, each with its reason."""
        ...

    async def footprint(self, model: Model, options: LaunchOptions) -> Footprint:
        """Predicted bytes per device. May start a short-lived helper process; callers keep the answer."""
        ...

    def estimate(self, model: Model, options: LaunchOptions) -> Footprint:
        """The same without a helper process: less exact, and at once."""
        ...

    def command(self, model: Model, options: LaunchOptions, socket: Path) -> WorkerCommand:
        """The worker's command line; it must serve OpenAI-style HTTP on `socket`, or on the port the answer names."""
        ...

    def explain_failure(self, last_lines: tuple[str, ...]) -> str:
        """What only this recipe can tell from a dead worker's last lines; if that is empty, diagnosis says it."""
        ...

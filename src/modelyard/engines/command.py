"""The engine "command": workers that serve models with a command from the configuration file, such as `vllm serve`.

A model of this engine is a recipe, not a file. What a request says never becomes a part of a command: placeholders
stand for what we choose (port, socket, token) and for what the file says (model_path). Workers run under a guardian.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import socket as sockets
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from modelyard.engines.base import LaunchOptions, WorkerCommand
from modelyard.engines.environment import scrubbed
from modelyard.errors import N_, LoadFailed
from modelyard.types.address import LOOPBACK, LoopbackPort
from modelyard.types.memory import Footprint
from modelyard.types.model import Capability, Model
from modelyard.types.placeholders import filled, placeholders

NAME = "command"
TOKEN_BYTES = 24
PORTS_REMEMBERED = 64
SECRET_CHARS_MIN = 6  # a shorter one is in every second line by accident
FOLDER_FILES_MAX = 1000
_NOT_STARTED = "cannot start "  # how the guardian begins


@dataclass(frozen=True, slots=True)
class CommandRecipe:
    """One configured command. Texts may hold the placeholders port or socket, model_path and token."""

    argv: tuple[str, ...]
    model_path: str = ""
    ready_path: str = "/health"
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    secrets: frozenset[str] = frozenset()  # names of the variables whose values are shown to nobody
    stop_argv: tuple[str, ...] = ()
    slots: int = 1
    context_length: int | None = None
    capabilities: frozenset[Capability] = frozenset()
    served_name: str = ""
    footprint: Mapping[str, int] | None = None  # bytes per device; None: measured at its first load
    has_progress: bool = False

    @property
    def used(self) -> frozenset[str]:
        """The placeholders it uses."""
        plain = (value for name, value in self.environment.items() if name not in self.secrets)
        return placeholders((*self.argv, *plain))

    @property
    def identity(self) -> str:
        """Changes when the command does. Secrets are no part of it, since it is kept and shown."""
        shown = {name: value for name, value in self.environment.items() if name not in self.secrets}
        told = (
            self.argv, self.model_path, self.ready_path, shown, sorted(self.secrets), self.stop_argv, self.slots,
            self.context_length, sorted(self.capabilities), self.served_name, self.footprint, self.has_progress,
        )  # fmt: skip
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=dict).encode()).hexdigest()[:16]


def command_model(name: str, recipe: CommandRecipe) -> Model:
    """The model that a command serves. One whose model_path is not there is listed with its problem."""
    size_bytes, problem = _size_of(recipe.model_path)
    return Model(
        name=name.lower(),
        engine=NAME,
        size_bytes=size_bytes,
        format=NAME,
        context_length=recipe.context_length,
        capabilities=recipe.capabilities,
        identity=f"{NAME}:{name.lower()}:{recipe.identity}",  # two equal commands are two models
        problem=problem,
        node_model=recipe.served_name or recipe.model_path or name,
    )


class Command:
    """Starts configured commands."""

    name = NAME
    version = "1"

    def __init__(
        self, environment: Mapping[str, str], recipes: Mapping[str, CommandRecipe], devices: Iterable[str] = ()
    ) -> None:
        """`devices` are all that models may use: those a command of unknown size is given to measure it."""
        self._environment = scrubbed(environment)
        self._devices = tuple(devices)
        self._ports: deque[int] = deque(maxlen=PORTS_REMEMBERED)
        self.configure(recipes)

    def configure(self, recipes: Mapping[str, CommandRecipe]) -> None:
        """The commands from now on; workers that run stay what they are."""
        self._recipes = {name.lower(): recipe for name, recipe in recipes.items()}

    @property
    def recipes(self) -> Mapping[str, CommandRecipe]:
        """By model."""
        return self._recipes

    def serves(self, model: Model) -> bool:
        return model.engine == NAME

    def options(self, model: Model) -> LaunchOptions:
        recipe = self._recipe(model)
        told = f"models.command.{model.name}"
        return LaunchOptions(
            slots=recipe.slots,
            context_length=recipe.context_length,
            values={"program": Path(recipe.argv[0]).name, "ready_path": recipe.ready_path},
            reasons={"slots": told, "context_length": told, "program": told},
            is_fixed=True,
        )

    async def footprint(self, model: Model, options: LaunchOptions) -> Footprint:
        return self.estimate(model, options)

    def estimate(self, model: Model, options: LaunchOptions) -> Footprint:
        declared = self._recipe(model).footprint
        if declared is not None:
            return Footprint(dict(declared), "declared")
        return Footprint(dict.fromkeys(self._devices, 0), "unknown")

    def command(self, model: Model, options: LaunchOptions, socket: Path) -> WorkerCommand:
        recipe = self._recipe(model)
        used = recipe.used
        token = secrets.token_urlsafe(TOKEN_BYTES) if "token" in used else ""
        address = LoopbackPort(self._free_port(), token) if "port" in used else socket
        values = {"model_path": recipe.model_path, "socket": str(socket), "token": token}
        if isinstance(address, LoopbackPort):
            values["port"] = str(address.number)
        hidden = [token, *(recipe.environment[name] for name in recipe.secrets)]
        return WorkerCommand(
            argv=tuple(filled(part, values) for part in recipe.argv),
            environment={
                **self._environment,
                **{
                    name: filled(value, values)
                    for name, value in recipe.environment.items()
                    if name not in recipe.secrets
                },
                **{name: recipe.environment[name] for name in recipe.secrets},
            },
            socket=address,
            ready_path=recipe.ready_path,
            under_guardian=True,
            has_progress=recipe.has_progress,
            stop_argv=tuple(filled(part, values) for part in recipe.stop_argv),
            secrets=tuple(line for text in hidden for line in text.splitlines() if len(line) >= SECRET_CHARS_MIN),
        )

    def explain_failure(self, last_lines: tuple[str, ...]) -> str:
        """Whether there was a program at all; diagnosis reads the rest."""
        return next((line for line in last_lines[:1] if line.startswith(_NOT_STARTED)), "")

    def _recipe(self, model: Model) -> CommandRecipe:
        recipe = self._recipes.get(model.name)
        if recipe is None:
            raise LoadFailed(model=model.name, problem=N_("its command is no longer configured"))
        return recipe

    def _free_port(self) -> int:
        """A port nobody listens at now, and that no other load was given lately."""
        while True:
            with sockets.socket() as probe:
                probe.bind((LOOPBACK, 0))
                port = int(probe.getsockname()[1])
            if port not in self._ports:
                self._ports.append(port)
                return port


def _size_of(model_path: str) -> tuple[int, str]:
    """Bytes of a file, or of a folder's own files, and what is wrong. What is no path has no size: a name on a hub."""
    if not model_path.startswith("/"):
        return 0, ""
    path = Path(model_path)
    try:
        if path.is_dir():
            files = [entry for entry in islice(path.iterdir(), FOLDER_FILES_MAX) if entry.is_file()]
            return sum(file.stat().st_size for file in files), ""
        return path.stat().st_size, ""
    except OSError as failure:
        return 0, f"its model_path cannot be read: {failure.strerror or failure}"

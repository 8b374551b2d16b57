"""The engine "echo": a recipe for scripted workers. A real engine for tests, demos and benchmarks.

A model of this engine has no files; its metadata is the script (`EchoSettings`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from modelyard.engines.base import Choice, LaunchOptions, WorkerCommand
from modelyard.engines.echo_settings import EchoSettings
from modelyard.engines.environment import scrubbed
from modelyard.errors import N_
from modelyard.types.memory import RAM, Footprint
from modelyard.types.model import Capability, Model

NAME = "echo"
_CAPABILITIES = frozenset((Capability.CHAT, Capability.COMPLETION, Capability.TOOLS))


def echo_model(name: str, **script: object) -> Model:
    """A model that a scripted worker serves, e.g. `echo_model("slow", tokens_per_s=20, load_s=3)`."""
    settings = EchoSettings.parse(script)
    digest = hashlib.sha256(json.dumps([name, settings.to_json()]).encode()).hexdigest()
    return Model(
        name=name.lower(),
        engine=NAME,
        size_bytes=settings.footprint_bytes,
        format="script",
        architecture=NAME,
        context_length=settings.context_length,
        capabilities=_CAPABILITIES,
        identity=f"echo:{digest[:16]}",
        metadata=dict(script),
    )


class Echo:
    """Starts scripted workers."""

    name = NAME
    version = "1"

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = scrubbed(environment or {})

    def serves(self, model: Model) -> bool:
        return model.engine == NAME

    def options(self, model: Model) -> LaunchOptions:
        settings = EchoSettings.parse(model.metadata)
        script = Choice(settings.slots, N_("the model's script"))
        return LaunchOptions(settings.slots, settings.context_length, reasons={"slots": script.reason})

    async def footprint(self, model: Model, options: LaunchOptions) -> Footprint:
        return self.estimate(model, options)

    def estimate(self, model: Model, options: LaunchOptions) -> Footprint:
        return Footprint({RAM: EchoSettings.parse(model.metadata).footprint_bytes}, source="declared")

    def command(self, model: Model, options: LaunchOptions, socket: Path) -> WorkerCommand:
        script = EchoSettings.parse(model.metadata).to_json()
        program = (sys.executable, "-P", "-m", "modelyard.engines.echo_worker")
        return WorkerCommand(
            argv=(*program, "--socket", str(socket), "--settings", script),
            environment=self._environment,
            socket=socket,
        )

    def explain_failure(self, last_lines: tuple[str, ...]) -> str:
        return last_lines[-1] if last_lines else "the worker ended without a word"

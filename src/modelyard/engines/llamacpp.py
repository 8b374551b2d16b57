"""The engine "llamacpp": a recipe for workers that serve GGUF files with llama.cpp's own server.

Chooses launch values from settings, else from the hardware; asks the oracle for a footprint, else the formula. The
worker itself is `llamacpp_launcher`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

from modelyard.engines import hardware as choose
from modelyard.engines.base import Choice, LaunchOptions, WorkerCommand, configured
from modelyard.engines.environment import DEVICE_ORDER, scrubbed
from modelyard.engines.hardware import Hardware
from modelyard.engines.llamacpp_oracle import ask
from modelyard.errors import N_, ModelFileError
from modelyard.memory.footprint import CacheType, LoadShape, predict
from modelyard.types.memory import Footprint
from modelyard.types.model import Capability, Model
from modelyard.units import MIB

NAME = "llamacpp"
PROMPT_CACHE_BYTES = 128 * MIB  # the engine's own default is 8 GiB, unseen
ORACLES_MAX = 2  # each is a process of 60 MiB
EXACT, PROMPT_CACHE = Choice("f16", N_("exact")), Choice(PROMPT_CACHE_BYTES, N_("the default"))
CHECKPOINTS_PER_SLOT = 2  # the engine's own default is 32


@dataclass(frozen=True, slots=True)
class LlamaOverrides:
    """What settings fix; None is chosen from the hardware."""

    context_length: int | None = None  # per slot
    slots: int | None = None
    threads: int | None = None
    n_batch: int | None = None
    n_gpu_layers: int | None = None
    kv_type: str | None = None
    prompt_cache_bytes: int | None = None


class LlamaCpp:
    """Starts llama.cpp workers."""

    name = NAME
    version = version("xllamacpp")

    def __init__(
        self,
        hardware: Hardware,
        environment: Mapping[str, str] | None = None,
        *,
        overrides: LlamaOverrides | None = None,
        per_model: Mapping[str, LlamaOverrides] | None = None,
        has_oracle: bool = True,
    ) -> None:
        """`overrides` and `per_model`: see `configure`."""
        self._hardware = hardware
        self._environment = {
            **scrubbed(environment or {}),
            "GGML_NO_BACKTRACE": "1",  # a crash takes two seconds otherwise
            **DEVICE_ORDER,
        }
        self.configure(overrides or LlamaOverrides(), per_model or {})
        self._has_oracle = has_oracle
        self._asking = asyncio.Semaphore(ORACLES_MAX)  # whoever lists models may ask for all of them at once

    def configure(self, overrides: LlamaOverrides, per_model: Mapping[str, LlamaOverrides]) -> None:
        """What is fixed from now on. `per_model` is by canonical name, and complete: it replaces the other there."""
        self._overrides = overrides
        self._per_model = {name.lower(): value for name, value in per_model.items()}

    def serves(self, model: Model) -> bool:
        return model.engine == NAME and bool(model.files)

    def options(self, model: Model) -> LaunchOptions:
        machine, fixed = self._hardware, self._per_model.get(model.name, self._overrides)
        chosen = {
            "context_length": configured(fixed.context_length) or choose.context_length(machine, model.context_length),
            "slots": configured(fixed.slots) or _slots(machine, model),
            "threads": configured(fixed.threads) or choose.threads(machine),
            "n_batch": configured(fixed.n_batch) or choose.batch_tokens(machine, model.parameter_count),
            "n_gpu_layers": configured(fixed.n_gpu_layers) or choose.gpu_layers(machine),
            "kv_type": configured(fixed.kv_type) or EXACT,
            "prompt_cache_bytes": configured(fixed.prompt_cache_bytes) or PROMPT_CACHE,
        }
        context = cast(int, chosen["context_length"].value)
        if model.context_length is not None and context > model.context_length:
            chosen["context_length"] = Choice(model.context_length, N_("the model was trained for no more"))
        if model.purpose != "chat":  # an input must fit into one step
            chosen["n_batch"] = Choice(chosen["context_length"].value, N_("embeddings are computed in one step"))
        values = {name: choice.value for name, choice in chosen.items() if name not in ("context_length", "slots")}
        return LaunchOptions(
            slots=cast(int, chosen["slots"].value),
            context_length=cast(int, chosen["context_length"].value),
            values=values,
            reasons={name: choice.reason for name, choice in chosen.items()},
        )

    async def footprint(self, model: Model, options: LaunchOptions) -> Footprint:
        """The engine's own table if it gives one, else the formula over the header's facts."""
        if self._has_oracle and model.facts is not None:
            async with self._asking:
                shape = self._shape(model, options)
                answer = await ask(model.files[0], shape, model.facts, environment=self._environment)
            if answer is not None:
                return answer
        return self.estimate(model, options)

    def estimate(self, model: Model, options: LaunchOptions) -> Footprint:
        """The formula over the header's facts."""
        if model.facts is None:
            raise ModelFileError(path=model.name, problem=N_("its header says nothing about memory"))
        return predict(model.facts, self._shape(model, options))

    def command(self, model: Model, options: LaunchOptions, socket: Path) -> WorkerCommand:
        values = options.values
        batch = min(_number(values["n_batch"]), (options.context_length or 0) * options.slots)
        params: dict[str, object] = {
            "model": str(model.files[0]),
            "threads": values["threads"],
            "kv_type": values["kv_type"],
            "n_ctx": (options.context_length or 0) * options.slots,  # the server divides it among its slots
            "n_parallel": options.slots,
            "n_batch": batch,
            "n_ubatch": batch,
            "n_gpu_layers": values["n_gpu_layers"],
            "cache_ram_mib": _number(values["prompt_cache_bytes"]) // MIB,
            "n_ctx_checkpoints": CHECKPOINTS_PER_SLOT,
        }
        if projector := _projector(model):
            params["projector"] = str(projector)
        if model.purpose != "chat":
            params["pooling"] = "RANK" if Capability.RERANK in model.capabilities else "UNSPECIFIED"
        program = (sys.executable, "-P", "-m", "modelyard.engines.llamacpp_launcher")
        return WorkerCommand(
            argv=(*program, "--socket", str(socket), "--params", json.dumps(params)),
            environment=self._environment,
            socket=socket,
        )

    def explain_failure(self, last_lines: tuple[str, ...]) -> str:
        """Nothing that diagnosis does not read from its lines."""
        return ""

    def _shape(self, model: Model, options: LaunchOptions) -> LoadShape:
        values, kind = options.values, cast(CacheType, options.values["kv_type"])
        return LoadShape(
            context_length=options.context_length or 0,
            slots=options.slots,
            batch_tokens=_number(values["n_batch"]),
            key_type=kind,
            value_type=kind,
            prompt_cache_max_bytes=_number(values["prompt_cache_bytes"]),
            checkpoint_count_max=CHECKPOINTS_PER_SLOT,
            gpu_layers=_number(values["n_gpu_layers"]),
            gpus=self._hardware.gpus if _number(values["n_gpu_layers"]) else (),
        )


def automatic(hardware: Hardware) -> dict[str, Choice]:
    """What is chosen on this machine where settings fix nothing, as far as that does not depend on the model."""
    return {
        "context_length": choose.context_length(hardware, None),
        "slots": choose.slots(hardware),
        "threads": choose.threads(hardware),
        "n_gpu_layers": choose.gpu_layers(hardware),
        "kv_type": EXACT,
        "prompt_cache_bytes": PROMPT_CACHE,
    }


def _number(value: object) -> int:
    assert isinstance(value, int), value
    return value


def _slots(machine: Hardware, model: Model) -> Choice:
    return Choice(1, N_("one batch of inputs at a time")) if model.purpose != "chat" else choose.slots(machine)


def _projector(model: Model) -> Path | None:
    path = model.metadata.get("projector")
    return Path(path) if isinstance(path, str) else None

"""The engine "transformers": a recipe for workers that serve safetensors folders with Hugging Face's library.

Chooses launch values from settings, else from the hardware; the KV pool follows from them, in whole blocks. The worker
itself is `transformers_worker`. Importing this imports neither PyTorch nor the library, which may not be installed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from modelyard.engines import hardware as choose
from modelyard.engines.base import Choice, LaunchOptions, WorkerCommand
from modelyard.engines.environment import DEVICE_ORDER, scrubbed
from modelyard.engines.hardware import Hardware
from modelyard.engines.installed import is_missing, version_of
from modelyard.errors import EngineMissing, LoadFailed, ModelFileError
from modelyard.memory.footprint_torch import BLOCK_TOKENS, TorchShape, blocks_for, predict_torch
from modelyard.types.memory import RAM, Footprint
from modelyard.types.model import Model

NAME = "transformers"
CPU = "cpu"
AUTO = "auto"
NUMBER_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# What a request may ask for and this engine has not. Asked for all the same, it is refused before a worker is asked.
LACKS = frozenset(
    (
        "json", "json_schema", "logprobs", "tool_choice", "suffix", "mirostat", "typical_p", "dynatemp_range",
        "xtc_probability", "dry_multiplier",
    )
)  # fmt: skip
OFFLINE = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TorchOverrides:
    """What settings fix; None is chosen from the hardware and the model."""

    context_length: int | None = None  # per slot
    slots: int | None = None
    threads: int | None = None
    n_batch: int | None = None
    kv_blocks: int | None = None
    device: str | None = None  # "cpu" or one of our devices: "gpu0"
    dtype: str | None = None
    quantization: str | None = None


class Transformers:
    """Starts transformers workers."""

    name = NAME

    def __init__(
        self,
        hardware: Hardware,
        environment: Mapping[str, str] | None = None,
        *,
        overrides: TorchOverrides | None = None,
        per_model: Mapping[str, TorchOverrides] | None = None,
    ) -> None:
        """`overrides` and `per_model`: see `configure`."""
        self.version = version_of(NAME)
        self._hardware = hardware
        self._environment = {**scrubbed(environment or {}), **DEVICE_ORDER, **OFFLINE}
        self.configure(overrides or TorchOverrides(), per_model or {})

    def configure(self, overrides: TorchOverrides, per_model: Mapping[str, TorchOverrides]) -> None:
        """What is fixed from now on. `per_model` is by canonical name, and complete: it replaces the other there."""
        self._overrides = overrides
        self._per_model = {name.lower(): value for name, value in per_model.items()}

    def serves(self, model: Model) -> bool:
        return model.engine == NAME and bool(model.files)

    def options(self, model: Model) -> LaunchOptions:
        fixed = self._per_model.get(model.name, self._overrides)
        device = _fixed(fixed.device) or self._device()
        machine = self._hardware if device.value != CPU else Hardware(*_cores(self._hardware))
        context = _fixed(fixed.context_length) or choose.context_length(machine, model.context_length)
        if model.context_length is not None and cast(int, context.value) > model.context_length:
            context = Choice(model.context_length, "the model was trained for no more")
        if fixed.kv_blocks is not None and cast(int, context.value) > fixed.kv_blocks * BLOCK_TOKENS:
            context = Choice(fixed.kv_blocks * BLOCK_TOKENS, "kv_blocks hold no more")
        chosen = {
            "device": device,
            "dtype": _fixed(fixed.dtype) or _dtype(model),
            "threads": _fixed(fixed.threads) or choose.threads(machine),
            "n_batch": _fixed(fixed.n_batch) or choose.batch_tokens(machine, model.parameter_count),
            "kv_blocks": _fixed(fixed.kv_blocks) or Choice(AUTO, f"of {BLOCK_TOKENS} tokens, as the slots need"),
        }
        if fixed.quantization is not None:
            chosen["quantization"] = Choice(fixed.quantization, "set in the configuration")
        if model.metadata.get("runs_code"):
            chosen["runs_code"] = Choice(True, "its folder is one of models.code_folders")
        slots = _fixed(fixed.slots) or choose.slots(machine)
        reasons = {name: choice.reason for name, choice in chosen.items()}
        return LaunchOptions(
            slots=cast(int, slots.value),
            context_length=cast(int, context.value),
            values={name: choice.value for name, choice in chosen.items()},
            reasons={**reasons, "slots": slots.reason, "context_length": context.reason},
        )

    async def footprint(self, model: Model, options: LaunchOptions) -> Footprint:
        """The library has no oracle: the formula answers."""
        return self.estimate(model, options)

    def estimate(self, model: Model, options: LaunchOptions) -> Footprint:
        """The formula over the facts of the folder."""
        if model.facts is None:
            raise ModelFileError(path=model.name, problem="its headers say nothing about memory")
        values = options.values
        dtype = str(values["dtype"])
        return predict_torch(
            model.facts,
            TorchShape(
                context_length=options.context_length or 0,
                slots=options.slots,
                batch_tokens=_batch(options),
                blocks=_blocks(options),
                weight_bytes=NUMBER_BYTES.get(dtype, 0) if dtype != model.quantization else 0,
                stored_weight_bytes=NUMBER_BYTES.get(model.quantization, 0),
                cache_bytes_per_number=NUMBER_BYTES.get(dtype, 2),
                quantized_bits={"4bit": 4, "8bit": 8}.get(str(values.get("quantization")), 0),
                device=RAM if values["device"] == CPU else str(values["device"]),
            ),
        )

    def command(self, model: Model, options: LaunchOptions, socket: Path) -> WorkerCommand:
        values = options.values
        self._check_installed(model, values)
        device, threads = str(values["device"]), str(values["threads"])
        params: dict[str, object] = {
            "folder": str(model.files[0].parent),
            "device": CPU if device == CPU else "cuda:0",  # it sees no other
            "dtype": values["dtype"],
            "threads": values["threads"],
            "slots": options.slots,
            "context_length": options.context_length,
            "batch_tokens": _batch(options),
            "blocks": _blocks(options),
            "quantization": values.get("quantization", ""),
            "runs_code": bool(values.get("runs_code")),
        }
        gpu = "" if device == CPU else device.removeprefix("gpu")
        program = (sys.executable, "-P", "-m", "modelyard.engines.transformers_worker")
        return WorkerCommand(
            argv=(*program, "--socket", str(socket), "--params", json.dumps(params)),
            environment={**self._environment, "CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": threads},
            socket=socket,
        )

    def explain_failure(self, last_lines: tuple[str, ...]) -> str:
        """What the worker found wrong with the folder."""
        said = (line.removeprefix("refused: ") for line in reversed(last_lines) if line.startswith("refused: "))
        return next(said, "")

    def _device(self) -> Choice:
        if self._hardware.gpus:
            return Choice(self._hardware.gpus[0], "a GPU is present")
        return Choice(CPU, "no GPU that this PyTorch can use")

    def _check_installed(self, model: Model, values: Mapping[str, object]) -> None:
        if is_missing("torch", NAME):
            raise EngineMissing(model=model.name, engine="the transformers engine", install="modelyard[transformers]")
        if values.get("quantization") and is_missing("bitsandbytes", "accelerate"):
            raise EngineMissing(
                model=model.name, engine=f"bitsandbytes for quantization = {values['quantization']}",
                install="bitsandbytes accelerate",
            )  # fmt: skip
        device = str(values["device"])
        if device != CPU and device not in self._hardware.gpus:
            raise LoadFailed(model=model.name, problem=f"there is no {device} that this PyTorch can use")


def _fixed(value: object) -> Choice | None:
    return None if value is None else Choice(value, "set in the configuration")


def _cores(machine: Hardware) -> tuple[int, float | None]:
    return machine.physical_cores, machine.cpu_quota


def _dtype(model: Model) -> Choice:
    if model.quantization in NUMBER_BYTES:
        return Choice(model.quantization, "as its configuration says")
    return Choice(AUTO, "the library decides: it is stored in a format of its own")


def _batch(options: LaunchOptions) -> int:
    """Tokens computed in one step: one for each slot at least."""
    return max(cast(int, options.values["n_batch"]), options.slots)


def _blocks(options: LaunchOptions) -> int:
    fixed = options.values["kv_blocks"]
    return fixed if isinstance(fixed, int) else blocks_for(options.context_length or 0, options.slots)

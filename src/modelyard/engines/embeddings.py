"""The engine "embeddings": a recipe for workers that serve sentence-transformers folders and cross-encoders.

Chooses launch values from settings, else from the hardware. The worker itself is `embeddings_worker`. Importing this
imports neither PyTorch nor the library, which may not be installed.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from modelyard.engines import hardware as choose
from modelyard.engines.base import Choice, LaunchOptions, WorkerCommand
from modelyard.engines.environment import DEVICE_ORDER, scrubbed
from modelyard.engines.hardware import PREFILL_OPERATIONS_PER_CORE_S, Hardware
from modelyard.engines.installed import is_missing, version_of
from modelyard.engines.transformers import CPU, NUMBER_BYTES, OFFLINE, TorchOverrides
from modelyard.errors import EngineMissing, LoadFailed, ModelFileError
from modelyard.memory.footprint_torch import TorchShape, predict_torch
from modelyard.types.memory import RAM, Footprint
from modelyard.types.model import Capability, Model

NAME = "embeddings"
PACKAGE = "sentence-transformers"
SLOTS = 4  # a long request and short ones beside it
CONTEXT_UNKNOWN_TOKENS = 512
BATCH_S_MAX = 1.0  # a batch cannot be interrupted
BATCH_TOKENS_MIN, BATCH_TOKENS_MAX, BATCH_TOKENS_GPU = 128, 4096, 16_384


class Embeddings:
    """Starts embeddings workers."""

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
        self.version = version_of(PACKAGE)
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
        fixed, machine = self._per_model.get(model.name, self._overrides), self._hardware
        device = _fixed(fixed.device) or self._device()
        is_gpu = device.value != CPU
        longest = model.context_length or CONTEXT_UNKNOWN_TOKENS
        context = _fixed(fixed.context_length) or Choice(longest, "all the model was trained for")
        if cast(int, context.value) > longest:
            context = Choice(longest, "the model was trained for no more")
        chosen = {
            "device": device,
            "dtype": _fixed(fixed.dtype) or _dtype(model, is_gpu=is_gpu),
            "threads": _fixed(fixed.threads) or choose.threads(machine),
            "n_batch": _fixed(fixed.n_batch) or batch_tokens(machine, model.parameter_count, is_gpu=is_gpu),
        }
        slots = _fixed(fixed.slots) or Choice(SLOTS, "batches of several requests take turns")
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
        dtype, device = str(options.values["dtype"]), str(options.values["device"])
        return predict_torch(
            model.facts,
            TorchShape(
                context_length=options.context_length or 0,
                slots=options.slots,
                batch_tokens=max(cast(int, options.values["n_batch"]), options.context_length or 0),
                weight_bytes=NUMBER_BYTES.get(dtype, 0) if dtype != model.quantization else 0,
                stored_weight_bytes=NUMBER_BYTES.get(model.quantization, 0),
                is_embedding=True,
                device=RAM if device == CPU else device,
            ),
        )

    def command(self, model: Model, options: LaunchOptions, socket: Path) -> WorkerCommand:
        values = options.values
        device, threads = str(values["device"]), str(values["threads"])
        if is_missing("torch", PACKAGE):
            raise EngineMissing(model=model.name, engine="the embeddings engine", install="modelyard[embeddings]")
        if device != CPU and device not in self._hardware.gpus:
            raise LoadFailed(model=model.name, problem=f"there is no {device} that this PyTorch can use")
        params: dict[str, object] = {
            "folder": str(model.files[0].parent),
            "device": CPU if device == CPU else "cuda:0",  # it sees no other
            "dtype": values["dtype"],
            "threads": values["threads"],
            "context_length": options.context_length,
            "batch_tokens": values["n_batch"],
            "is_reranker": Capability.RERANK in model.capabilities,
        }
        gpu = "" if device == CPU else device.removeprefix("gpu")
        program = (sys.executable, "-P", "-m", "modelyard.engines.embeddings_worker")
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


def batch_tokens(machine: Hardware, parameter_count: int | None, *, is_gpu: bool) -> Choice:
    """Tokens computed at once: as many as take about a second, since nobody else has a turn meanwhile."""
    if is_gpu:
        return Choice(BATCH_TOKENS_GPU, "a GPU is present")
    per_s = machine.cores * PREFILL_OPERATIONS_PER_CORE_S / (2 * max(parameter_count or 0, 1_000_000))
    fitting = 2 ** int(math.log2(max(1.0, per_s * BATCH_S_MAX)))
    tokens = min(BATCH_TOKENS_MAX, max(BATCH_TOKENS_MIN, fitting))
    return Choice(tokens, f"about {per_s:.0f} tokens a second, and a batch should end within {BATCH_S_MAX:g} s")


def _fixed(value: object) -> Choice | None:
    return None if value is None else Choice(value, "set in the configuration")


def _dtype(model: Model, *, is_gpu: bool) -> Choice:
    if model.quantization in NUMBER_BYTES and (is_gpu or model.quantization == "float32"):
        return Choice(model.quantization, "as its configuration says")
    return Choice("float32", "a processor is slow with smaller numbers")

"""What recipes for workers with PyTorch have in common: overrides, the device, the footprint's formula, the command.

Importing this imports neither PyTorch nor a library on it, which may not be installed. What a recipe adds is how it
chooses its options, what they need in memory, and what its worker is told beyond them.
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelyard.diagnosis.showing import shown
from modelyard.engines.base import Choice, LaunchOptions, WorkerCommand, configured
from modelyard.engines.environment import DEVICE_ORDER, scrubbed
from modelyard.engines.hardware import Hardware
from modelyard.engines.installed import is_missing, version_of
from modelyard.errors import N_, EngineMissing, LoadFailed, ModelFileError, said
from modelyard.memory.footprint_torch import TorchShape, predict_torch
from modelyard.types.memory import Footprint
from modelyard.types.model import Model

CPU = "cpu"
NUMBER_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
LAST_WORDS = ("refused: ", "load failed: ")  # as workers of ours begin the line they end with
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


class TorchRecipe(ABC):
    """A recipe for one library on PyTorch. Implements `Engine` but for the options."""

    name: str  # of the engine, and of the extra that installs it
    package: str  # the library
    worker: str  # the module that is the worker's program

    def __init__(
        self,
        hardware: Hardware,
        environment: Mapping[str, str] | None = None,
        *,
        overrides: TorchOverrides | None = None,
        per_model: Mapping[str, TorchOverrides] | None = None,
    ) -> None:
        """`overrides` and `per_model`: see `configure`."""
        self.version = version_of(self.package)
        self.hardware = hardware
        self._environment = {**scrubbed(environment or {}), **DEVICE_ORDER, **OFFLINE}
        self.configure(overrides or TorchOverrides(), per_model or {})

    def configure(self, overrides: TorchOverrides, per_model: Mapping[str, TorchOverrides]) -> None:
        """What is fixed from now on. `per_model` is by canonical name, and complete: it replaces the other there."""
        self._overrides = overrides
        self._per_model = {name.lower(): value for name, value in per_model.items()}

    def serves(self, model: Model) -> bool:
        return model.engine == self.name and bool(model.files)

    async def footprint(self, model: Model, options: LaunchOptions) -> Footprint:
        """The library has no oracle: the formula answers."""
        return self.estimate(model, options)

    def estimate(self, model: Model, options: LaunchOptions) -> Footprint:
        """The formula over the facts of the folder."""
        if model.facts is None:
            raise ModelFileError(path=model.name, problem=N_("its headers say nothing about memory"))
        return predict_torch(model.facts, self.shape(model, options))

    def command(self, model: Model, options: LaunchOptions, socket: Path) -> WorkerCommand:
        self.check_installed(model, options)
        device, threads = str(options.values["device"]), str(options.values["threads"])
        params = {
            "folder": str(model.files[0].parent),
            "device": CPU if device == CPU else "cuda:0",  # it sees no other
            "dtype": options.values["dtype"],
            "threads": options.values["threads"],
            "context_length": options.context_length,
            **self.params(model, options),
        }
        gpu = "" if device == CPU else device.removeprefix("gpu")
        return WorkerCommand(
            argv=(sys.executable, "-P", "-m", self.worker, "--socket", str(socket), "--params", json.dumps(params)),
            environment={**self._environment, "CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": threads},
            socket=socket,
        )

    def explain_failure(self, last_lines: tuple[str, ...]) -> str:
        """What the worker found wrong with the folder, or the error that ended its load."""
        said = (line.partition(": ")[2] for line in reversed(last_lines) if line.startswith(LAST_WORDS))
        return shown(next(said, ""))

    # ---- what a recipe adds ----

    @abstractmethod
    def shape(self, model: Model, options: LaunchOptions) -> TorchShape:
        """What the formula must know of a load."""

    @abstractmethod
    def params(self, model: Model, options: LaunchOptions) -> Mapping[str, object]:
        """What the worker is told beyond folder, device, dtype, threads and context."""

    def check_installed(self, model: Model, options: LaunchOptions) -> None:
        """Raise `EngineMissing` or `LoadFailed` where a worker could not start."""
        if is_missing("torch", self.package):
            raise EngineMissing(
                model=model.name, engine=f"the {self.name} engine", install=f"modelyard[{self.name}]"
            )  # fmt: skip
        device = str(options.values["device"])
        if device != CPU and device not in self.hardware.gpus:
            raise LoadFailed(
                model=model.name, problem=said("there is no {device} that this PyTorch can use", device=device)
            )

    # ---- what recipes choose with ----

    def overrides_of(self, model: Model) -> TorchOverrides:
        return self._per_model.get(model.name, self._overrides)

    def device(self, overrides: TorchOverrides) -> Choice:
        """A GPU where there is one that this PyTorch can use."""
        if (given := configured(overrides.device)) is not None:
            return given
        if self.hardware.gpus:
            return Choice(self.hardware.gpus[0], N_("a GPU is present"))
        return Choice(CPU, N_("no GPU that this PyTorch can use"))

"""The engine "transformers": a recipe for workers that serve safetensors folders with Hugging Face's library.

Chooses launch values from settings, else from the hardware; the KV pool follows from them, in whole blocks. The worker
itself is `transformers_worker`. What it shares with others on PyTorch is `torch_recipe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from modelyard.engines import hardware as choose
from modelyard.engines.base import Choice, LaunchOptions, configured
from modelyard.engines.hardware import Hardware
from modelyard.engines.installed import is_missing
from modelyard.engines.torch_recipe import CPU, NUMBER_BYTES, TorchRecipe
from modelyard.errors import N_, EngineMissing, said
from modelyard.memory.footprint_torch import BLOCK_TOKENS, TorchShape, blocks_for
from modelyard.types.memory import RAM
from modelyard.types.model import Model

NAME = "transformers"
AUTO = "auto"
# What a request may ask for and this engine has not. Asked for all the same, it is refused before a worker is asked.
LACKS = frozenset(
    (
        "json", "json_schema", "logprobs", "tool_choice", "suffix", "mirostat", "typical_p", "dynatemp_range",
        "xtc_probability", "dry_multiplier",
    )
)  # fmt: skip


class Transformers(TorchRecipe):
    """Starts transformers workers."""

    name = NAME
    package = NAME
    worker = "modelyard.engines.transformers_worker"

    def options(self, model: Model) -> LaunchOptions:
        given = self.overrides_of(model)
        device = self.device(given)
        machine = self.hardware if device.value != CPU else Hardware(*_cores(self.hardware))
        context = configured(given.context_length) or choose.context_length(machine, model.context_length)
        if model.context_length is not None and cast(int, context.value) > model.context_length:
            context = Choice(model.context_length, N_("the model was trained for no more"))
        if given.kv_blocks is not None and cast(int, context.value) > given.kv_blocks * BLOCK_TOKENS:
            context = Choice(given.kv_blocks * BLOCK_TOKENS, N_("kv_blocks hold no more"))
        chosen = {
            "device": device,
            "dtype": configured(given.dtype) or _dtype(model),
            "threads": configured(given.threads) or choose.threads(machine),
            "n_batch": configured(given.n_batch) or choose.batch_tokens(machine, model.parameter_count),
            "kv_blocks": configured(given.kv_blocks)
            or Choice(AUTO, said("of {block_tokens} tokens, as the slots need", block_tokens=BLOCK_TOKENS)),
        }
        if given.quantization is not None:
            chosen["quantization"] = Choice(given.quantization, N_("set in the configuration"))
        if model.metadata.get("runs_code"):
            chosen["runs_code"] = Choice(True, N_("its folder is one of models.code_folders"))
        slots = configured(given.slots) or choose.slots(machine)
        reasons = {name: choice.reason for name, choice in chosen.items()}
        return LaunchOptions(
            slots=cast(int, slots.value),
            context_length=cast(int, context.value),
            values={name: choice.value for name, choice in chosen.items()},
            reasons={**reasons, "slots": slots.reason, "context_length": context.reason},
        )

    def shape(self, model: Model, options: LaunchOptions) -> TorchShape:
        values = options.values
        dtype = str(values["dtype"])
        return TorchShape(
            context_length=options.context_length or 0,
            slots=options.slots,
            batch_tokens=_batch(options),
            blocks=_blocks(options),
            weight_bytes=NUMBER_BYTES.get(dtype, 0) if dtype != model.quantization else 0,
            stored_weight_bytes=NUMBER_BYTES.get(model.quantization, 0),
            cache_bytes_per_number=NUMBER_BYTES.get(dtype, 2),
            quantized_bits={"4bit": 4, "8bit": 8}.get(str(values.get("quantization")), 0),
            device=RAM if values["device"] == CPU else str(values["device"]),
        )

    def params(self, model: Model, options: LaunchOptions) -> Mapping[str, object]:
        return {
            "slots": options.slots,
            "batch_tokens": _batch(options),
            "blocks": _blocks(options),
            "quantization": options.values.get("quantization", ""),
            "runs_code": bool(options.values.get("runs_code")),
        }

    def check_installed(self, model: Model, options: LaunchOptions) -> None:
        super().check_installed(model, options)
        if (quantization := options.values.get("quantization")) and is_missing("bitsandbytes", "accelerate"):
            raise EngineMissing(
                model=model.name, engine=f"bitsandbytes for quantization = {quantization}",
                install="bitsandbytes accelerate",
            )  # fmt: skip


def _cores(machine: Hardware) -> tuple[int, float | None]:
    return machine.physical_cores, machine.cpu_quota


def _dtype(model: Model) -> Choice:
    if model.quantization in NUMBER_BYTES:
        return Choice(model.quantization, N_("as its configuration says"))
    return Choice(AUTO, N_("the library decides: it is stored in a format of its own"))


def _batch(options: LaunchOptions) -> int:
    """Tokens computed in one step: one for each slot at least."""
    return max(cast(int, options.values["n_batch"]), options.slots)


def _blocks(options: LaunchOptions) -> int:
    fixed = options.values["kv_blocks"]
    return fixed if isinstance(fixed, int) else blocks_for(options.context_length or 0, options.slots)

"""The engine "embeddings": a recipe for workers that serve sentence-transformers folders and cross-encoders.

Chooses launch values from settings, else from the hardware. The worker itself is `embeddings_worker`; what it
shares with others on PyTorch is `torch_recipe`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

from modelyard.engines import hardware as choose
from modelyard.engines.base import Choice, LaunchOptions, configured
from modelyard.engines.hardware import PREFILL_OPERATIONS_PER_CORE_S, Hardware
from modelyard.engines.torch_recipe import CPU, NUMBER_BYTES, TorchRecipe
from modelyard.errors import N_, said
from modelyard.memory.footprint_torch import TorchShape
from modelyard.types.memory import RAM
from modelyard.types.model import Capability, Model

NAME = "embeddings"
PACKAGE = "sentence-transformers"
SLOTS = 4  # a long request and short ones beside it
CONTEXT_UNKNOWN_TOKENS = 512
BATCH_S_MAX = 1.0  # a batch cannot be interrupted
BATCH_TOKENS_MIN, BATCH_TOKENS_MAX, BATCH_TOKENS_GPU = 128, 4096, 16_384


class Embeddings(TorchRecipe):
    """Starts embeddings workers."""

    name = NAME
    package = PACKAGE
    worker = "modelyard.engines.embeddings_worker"

    def options(self, model: Model) -> LaunchOptions:
        given, machine = self.overrides_of(model), self.hardware
        device = self.device(given)
        is_gpu = device.value != CPU
        longest = model.context_length or CONTEXT_UNKNOWN_TOKENS
        context = configured(given.context_length) or Choice(longest, N_("all the model was trained for"))
        if cast(int, context.value) > longest:
            context = Choice(longest, N_("the model was trained for no more"))
        chosen = {
            "device": device,
            "dtype": configured(given.dtype) or _dtype(model, is_gpu=is_gpu),
            "threads": configured(given.threads) or choose.threads(machine),
            "n_batch": configured(given.n_batch) or batch_tokens(machine, model.parameter_count, is_gpu=is_gpu),
        }
        slots = configured(given.slots) or Choice(SLOTS, N_("batches of several requests take turns"))
        reasons = {name: choice.reason for name, choice in chosen.items()}
        return LaunchOptions(
            slots=cast(int, slots.value),
            context_length=cast(int, context.value),
            values={name: choice.value for name, choice in chosen.items()},
            reasons={**reasons, "slots": slots.reason, "context_length": context.reason},
        )

    def shape(self, model: Model, options: LaunchOptions) -> TorchShape:
        dtype, device = str(options.values["dtype"]), str(options.values["device"])
        return TorchShape(
            context_length=options.context_length or 0,
            slots=options.slots,
            batch_tokens=max(cast(int, options.values["n_batch"]), options.context_length or 0),
            weight_bytes=NUMBER_BYTES.get(dtype, 0) if dtype != model.quantization else 0,
            stored_weight_bytes=NUMBER_BYTES.get(model.quantization, 0),
            is_embedding=True,
            device=RAM if device == CPU else device,
        )

    def params(self, model: Model, options: LaunchOptions) -> Mapping[str, object]:
        return {
            "batch_tokens": options.values["n_batch"],
            "is_reranker": Capability.RERANK in model.capabilities,
        }


def batch_tokens(machine: Hardware, parameter_count: int | None, *, is_gpu: bool) -> Choice:
    """Tokens computed at once: as many as take about a second, since nobody else has a turn meanwhile."""
    if is_gpu:
        return Choice(BATCH_TOKENS_GPU, N_("a GPU is present"))
    per_s = machine.cores * PREFILL_OPERATIONS_PER_CORE_S / (2 * max(parameter_count or 0, 1_000_000))
    fitting = 2 ** int(math.log2(max(1.0, per_s * BATCH_S_MAX)))
    tokens = min(BATCH_TOKENS_MAX, max(BATCH_TOKENS_MIN, fitting))
    return Choice(
        tokens,
        said(
            "about {per_s} tokens a second, and a batch should end within {batch_s_max} s",
            per_s=f"{per_s:.0f}",
            batch_s_max=f"{BATCH_S_MAX:g}",
        ),
    )


def _dtype(model: Model, *, is_gpu: bool) -> Choice:
    if model.quantization in NUMBER_BYTES and (is_gpu or model.quantization == "float32"):
        return Choice(model.quantization, N_("as its configuration says"))
    return Choice("float32", N_("a processor is slow with smaller numbers"))

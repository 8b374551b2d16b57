"""How much memory a model takes that PyTorch runs: transformers and sentence-transformers folders. Pure.

Weights in the format they are kept in, cached keys and values, scratch for one batch, and the process itself, which
weighs more than many a model. Constants were measured: Python 3.11, torch 2.13 for processors, transformers 5.23,
sentence-transformers 6.2, anonymous memory after the first full batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.types.facts import LayerFacts, ModelFacts
from modelyard.types.memory import RAM, Footprint
from modelyard.units import MIB

BAND_RATIO = 0.25
GENERATING_PROCESS_BYTES = 280 * MIB  # measured with a model of 12 MiB: 271 before its first batch
EMBEDDING_PROCESS_BYTES = 320 * MIB  # measured with a model of 87 MiB, whose weights are mapped: 306 to 323
GPU_CONTEXT_BYTES = 512 * MIB
ACTIVATION_BYTES = 4
CONTEXT_UNKNOWN_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class TorchShape:
    """What the footprint depends on besides the model."""

    context_length: int = 0  # per slot; 0: what the model was trained for
    slots: int = 1
    batch_tokens: int = 2048  # computed at once; for embeddings all inputs of a batch together
    cache_bytes_per_number: int = 2
    is_embedding: bool = False
    device: str = RAM


def predict_torch(facts: ModelFacts, shape: TorchShape) -> Footprint:
    """The footprint, per device.

    >>> facts = ModelFacts(layers=(LayerFacts(key_width=8, value_width=8),), context_length=1024, output_bytes=1000)
    >>> predict_torch(facts, TorchShape(slots=2)).parts["kv"] == 2 * 1024 * 16 * 2
    True
    """
    trained = facts.context_length
    context = min(shape.context_length or trained, trained or shape.context_length) or CONTEXT_UNKNOWN_TOKENS
    kept = sum(_kept(layer, context) for layer in facts.layers) * shape.slots * shape.cache_bytes_per_number
    process = EMBEDDING_PROCESS_BYTES if shape.is_embedding else GENERATING_PROCESS_BYTES
    batch = min(shape.batch_tokens, context * max(shape.slots, 1)) if not shape.is_embedding else shape.batch_tokens
    widest = 2 * facts.feed_forward_width + 5 * facts.embedding_width
    parts = {
        "weights": facts.weights_bytes,
        "kv": kept,
        "compute": batch * widest * ACTIVATION_BYTES,
        "process": process,
    }
    on_device = {name: count for name, count in parts.items() if name != "process"}
    held = {RAM: process}
    held[shape.device] = held.get(shape.device, 0) + sum(on_device.values())
    if shape.device != RAM:
        held[shape.device] += GPU_CONTEXT_BYTES
        parts["gpu_context"] = GPU_CONTEXT_BYTES
    return Footprint(held, "formula", BAND_RATIO, {name: count for name, count in parts.items() if count})


def _kept(layer: LayerFacts, context: int) -> int:
    tokens = min(context, layer.window_tokens) if layer.window_tokens else context
    return tokens * (layer.key_width + layer.value_width)

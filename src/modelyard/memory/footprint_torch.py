"""How much memory a model takes that PyTorch runs: transformers and sentence-transformers folders. Pure.

Weights in the format they are kept in, the pool of cached keys and values, scratch for one batch, and the process
itself, which weighs more than many a model. Constants were measured: Python 3.11, torch 2.13 for processors,
transformers 5.23 and 5.24, sentence-transformers 6.2, anonymous memory after the first full batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.types.facts import LayerFacts, ModelFacts
from modelyard.types.memory import RAM, Footprint
from modelyard.units import MIB

BAND_RATIO = 0.25
GENERATING_PROCESS_BYTES = 285 * MIB  # measured, with the process that renders templates: 272 to 288
QUANTIZER_BYTES = 80 * MIB  # measured with bitsandbytes 0.50 on a processor: 58 to 80 beyond the same model without it
EMBEDDING_PROCESS_BYTES = 320 * MIB  # measured with a model of 87 MiB, whose weights are mapped: 306 to 323
GPU_CONTEXT_BYTES = 512 * MIB
ACTIVATION_BYTES = 4
CONTEXT_UNKNOWN_TOKENS = 2048
BLOCK_TOKENS = 256  # of a pool: the library's page
TRASH_BLOCKS = 2  # of a pool: written by what is padded, never read
INDEX_BYTES = 8
QUANTIZED_BYTES = {4: 0.56, 8: 1.06}  # per weight, with scales
LOGIT_COPIES = 3  # in 32 bits: as they are, changed, and sorted


@dataclass(frozen=True, slots=True)
class TorchShape:
    """What the footprint depends on besides the model."""

    context_length: int = 0  # per slot; 0: what the model was trained for
    slots: int = 1
    batch_tokens: int = 2048  # computed at once; for embeddings all inputs of a batch together
    blocks: int = 0  # of the pool; 0: as many as the slots need
    weight_bytes: int = 0  # per weight, where it is not as the model says; 0: as it says
    stored_weight_bytes: int = 0  # per weight, as the model says
    cache_bytes_per_number: int = 2
    quantized_bits: int = 0  # 4 or 8: weights are quantized when they are loaded
    is_embedding: bool = False
    device: str = RAM


def predict_torch(facts: ModelFacts, shape: TorchShape) -> Footprint:
    """The footprint, per device.

    >>> facts = ModelFacts(layers=(LayerFacts(key_width=8, value_width=8),), context_length=1024, output_bytes=1000)
    >>> predict_torch(facts, TorchShape(slots=2)).parts["kv"] == (2 * 5 + 2) * 256 * 16 * 2
    True
    """
    process = EMBEDDING_PROCESS_BYTES if shape.is_embedding else GENERATING_PROCESS_BYTES
    if shape.quantized_bits:
        process += QUANTIZER_BYTES
    parts = {"weights": _weights(facts, shape), "process": process}
    parts |= {"compute": _batch_bytes(facts, shape)} if shape.is_embedding else _generating(facts, shape)
    on_device = sum(count for name, count in parts.items() if name != "process")
    held = {RAM: process}
    held[shape.device] = held.get(shape.device, 0) + on_device
    if shape.device != RAM:
        held[shape.device] += GPU_CONTEXT_BYTES
        parts["gpu_context"] = GPU_CONTEXT_BYTES
    return Footprint(held, "formula", BAND_RATIO, {name: count for name, count in parts.items() if count})


def blocks_for(context_length: int, slots: int) -> int:
    """Blocks that hold a context in every slot, each with one more for where it ends.

    >>> blocks_for(512, 2), blocks_for(513, 1)
    (6, 4)
    """
    return slots * (-(-context_length // BLOCK_TOKENS) + 1)


def _generating(facts: ModelFacts, shape: TorchShape) -> dict[str, int]:
    """The pool, and what one batch over all of it takes: a mask, the keys and values it reads, activations, logits."""
    trained = facts.context_length
    context = min(shape.context_length or trained, trained or shape.context_length) or CONTEXT_UNKNOWN_TOKENS
    blocks, number = shape.blocks or blocks_for(context, shape.slots), shape.cache_bytes_per_number
    tokens, batch = blocks * BLOCK_TOKENS, shape.batch_tokens
    width = max((layer.key_width + layer.value_width for layer in facts.layers), default=0)
    heads = facts.head_count * (facts.head_width or facts.embedding_width // max(facts.head_count, 1))
    masks = 2 if any(layer.window_tokens for layer in facts.layers) else 1
    read = tokens * (2 * heads + width) * number + (tokens + batch) * INDEX_BYTES
    logits = shape.slots * facts.vocabulary_count * ACTIVATION_BYTES * LOGIT_COPIES
    return {
        "kv": (blocks + TRASH_BLOCKS) * BLOCK_TOKENS * sum(_kept(layer) for layer in facts.layers) * number,
        "masks": masks * batch * (tokens + batch) * number,
        "compute": read + _batch_bytes(facts, shape) + logits,
    }


def _weights(facts: ModelFacts, shape: TorchShape) -> int:
    stored = shape.stored_weight_bytes
    if shape.quantized_bits and stored:  # the embedding, and an output matrix of its own, stay as they are
        dense = facts.vocabulary_count * facts.embedding_width * stored * (1 if facts.is_output_tied else 2)
        rest = max(facts.weights_bytes - dense, 0) / stored
        return dense + int(rest * QUANTIZED_BYTES[shape.quantized_bits])
    if shape.weight_bytes and stored:
        return facts.weights_bytes * shape.weight_bytes // stored
    return facts.weights_bytes


def _batch_bytes(facts: ModelFacts, shape: TorchShape) -> int:
    widest = 2 * facts.feed_forward_width + 5 * facts.embedding_width
    return shape.batch_tokens * widest * ACTIVATION_BYTES


def _kept(layer: LayerFacts) -> int:
    return layer.key_width + layer.value_width

"""How much memory a model will take, from its header's facts and the way it is started. Pure.

The second-best answer: engines with an oracle (their own allocator asked, engines/llamacpp_oracle.py) use that first.
Follows llama.cpp: f16 masks, sliding windows with room for one batch, flash attention, a tied output matrix that exists
twice when it is repacked. Adds what an oracle does not see: the worker process itself, its vocabulary, and its caches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from modelyard.types.facts import LayerFacts, ModelFacts
from modelyard.types.memory import RAM, Footprint
from modelyard.units import KIB, MIB

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]

FORMULA_BAND_RATIO = 0.08  # three times the worst error over the shapes of tools/footprint_accuracy.py
ORACLE_BAND_RATIO = 0.05
CELLS_STEP_COUNT = 256  # a cache has a multiple of so many cells
CONTEXT_UNKNOWN_TOKENS = 4096
PROCESS_BYTES = 48 * MIB  # interpreter, libraries, HTTP server, threads, what requests in flight hold
VOCABULARY_ENTRY_BYTES = 320  # measured: 210 to 290
MERGE_ENTRY_BYTES = 250  # measured: 220
GPU_CONTEXT_BYTES = 512 * MIB  # what a driver takes for a process that computes, and scratch outside any buffer
MASK_NUMBER_BYTES = 2
ACTIVATION_BYTES = 4

# bytes per 32 numbers
_CACHE_BYTES_OF_32: dict[str, int] = {
    "f32": 128, "f16": 64, "bf16": 64, "q8_0": 34, "q5_1": 24, "q5_0": 22, "q4_1": 20, "q4_0": 18, "iq4_nl": 18,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoadShape:
    """What a footprint depends on besides the model: how the worker will be started."""

    context_length: int  # per slot; 0: what the model was trained for
    slots: int = 1
    batch_tokens: int = 256  # computed at once: llama.cpp's n_ubatch
    key_type: CacheType = "f16"
    value_type: CacheType = "f16"
    prompt_cache_max_bytes: int = 0
    checkpoint_count_max: int = 0  # per slot: copies of windows and recurrent state kept to go back to
    has_flash_attention: bool = True
    is_repacked: bool = True  # weights rewritten for the processor
    gpu_layers: int = 0  # how many layers are placed on GPUs; layers + 1 takes the output matrix too
    gpus: tuple[str, ...] = field(default=())


def predict(facts: ModelFacts, shape: LoadShape) -> Footprint:
    """The formula's footprint, per device."""
    context = context_of(facts, shape)
    placed = _placement(len(facts.layers), shape)
    parts: dict[str, dict[str, int]] = {"weights": {}, "kv": {}, "compute": {}}
    for layer, device in zip(facts.layers, placed, strict=True):
        _add(parts["weights"], device, layer.weights_bytes)
        _add(parts["kv"], device, _kept_bytes(layer, context, shape))
    is_output_placed = bool(shape.gpus) and shape.gpu_layers > len(facts.layers)
    output_device = shape.gpus[-1] if is_output_placed else RAM
    _add(parts["weights"], RAM, facts.input_bytes)
    _add(parts["weights"], output_device, facts.output_bytes)
    _add(parts["weights"], shape.gpus[0] if shape.gpus else RAM, facts.projector_bytes)
    if facts.is_output_tied and (is_output_placed or (facts.is_input_repacked and shape.is_repacked)):
        _add(parts["weights"], output_device, facts.input_bytes)
    for device in dict.fromkeys([RAM, *placed, output_device]):
        _add(parts["compute"], device, _compute_bytes(facts, context, shape))
    return _with_overheads(parts, facts, context, shape, source="formula", band_ratio=FORMULA_BAND_RATIO)


def from_oracle(parts: dict[str, dict[str, int]], facts: ModelFacts | None, shape: LoadShape) -> Footprint:
    """A footprint from what the engine's allocator said (weights, kv, compute), with what it does not see added."""
    known = facts or ModelFacts()
    placed = {name: dict(devices) for name, devices in parts.items()}
    _add(placed.setdefault("weights", {}), shape.gpus[0] if shape.gpus else RAM, known.projector_bytes)
    return _with_overheads(
        placed, known, context_of(known, shape), shape, source="oracle", band_ratio=ORACLE_BAND_RATIO
    )


def context_of(facts: ModelFacts, shape: LoadShape) -> int:
    """Tokens per slot: what was asked for, at most what the model was trained for."""
    trained = facts.context_length
    return min(shape.context_length or trained, trained or shape.context_length) or CONTEXT_UNKNOWN_TOKENS


def cache_bytes(width: int, kind: CacheType) -> int:
    """Bytes of one cache cell of so many numbers.

    >>> cache_bytes(128, "f16"), cache_bytes(128, "q8_0")
    (256, 136)
    """
    return width * _CACHE_BYTES_OF_32[kind] // 32


def _with_overheads(
    parts: dict[str, dict[str, int]],
    facts: ModelFacts,
    context: int,
    shape: LoadShape,
    *,
    source: Literal["formula", "oracle"],
    band_ratio: float,
) -> Footprint:
    overheads = {
        "process": PROCESS_BYTES
        + facts.vocabulary_count * VOCABULARY_ENTRY_BYTES
        + facts.merge_count * MERGE_ENTRY_BYTES,
        "prompt_cache": shape.prompt_cache_max_bytes,
        "checkpoints": _checkpoint_bytes(facts, context, shape),
    }
    bytes_of: dict[str, int] = {RAM: sum(overheads.values())}
    for devices in parts.values():
        for device, count in devices.items():
            _add(bytes_of, device, count)
    gpus = [device for device in bytes_of if device != RAM]
    for device in gpus:
        bytes_of[device] += GPU_CONTEXT_BYTES
    overheads["gpu_context"] = GPU_CONTEXT_BYTES * len(gpus)
    sums = {name: sum(devices.values()) for name, devices in parts.items()}
    whole = {name: count for name, count in {**sums, **overheads}.items() if count}
    return Footprint(bytes_of, source=source, band_ratio=band_ratio, parts=whole)


def _placement(layer_count: int, shape: LoadShape) -> list[str]:
    """The device of each layer: the last ones go to GPUs, evenly."""
    on_gpu = min(shape.gpu_layers, layer_count) if shape.gpus else 0
    spread = [shape.gpus[n * len(shape.gpus) // on_gpu] for n in range(on_gpu)]
    return [RAM] * (layer_count - on_gpu) + spread


def _cells(layer: LayerFacts, context: int, shape: LoadShape) -> int:
    """How many tokens a layer keeps for one slot."""
    tokens = min(context, layer.window_tokens + shape.batch_tokens) if layer.window_tokens else context
    return tokens + -tokens % CELLS_STEP_COUNT


def _cell_bytes(layer: LayerFacts, shape: LoadShape) -> int:
    return cache_bytes(layer.key_width, shape.key_type) + cache_bytes(layer.value_width, shape.value_type)


def _kept_bytes(layer: LayerFacts, context: int, shape: LoadShape) -> int:
    per_slot = _cells(layer, context, shape) * _cell_bytes(layer, shape) + layer.state_bytes
    return per_slot * shape.slots


def _checkpoint_bytes(facts: ModelFacts, context: int, shape: LoadShape) -> int:
    """Checkpoints copy what cannot be rolled back: windows and recurrent state."""
    one = sum(
        layer.state_bytes + (_cells(layer, context, shape) * _cell_bytes(layer, shape) if layer.window_tokens else 0)
        for layer in facts.layers
    )
    return one * shape.checkpoint_count_max * shape.slots


def _compute_bytes(facts: ModelFacts, context: int, shape: LoadShape) -> int:
    """Scratch for one batch: activations, attention masks, and without flash attention the scores too."""
    batch = min(shape.batch_tokens, context)
    activations = batch * ACTIVATION_BYTES * (3 * facts.feed_forward_width + 5 * facts.embedding_width)
    cells = {_cells(layer, context, shape) for layer in facts.layers if layer.key_width}
    masks = sum(batch * count * MASK_NUMBER_BYTES for count in cells)
    scores = 0 if shape.has_flash_attention else batch * max(cells, default=0) * ACTIVATION_BYTES * facts.head_count
    return activations + masks + scores + 16 * KIB


def _add(devices: dict[str, int], device: str, count: int) -> None:
    if count:
        devices[device] = devices.get(device, 0) + count

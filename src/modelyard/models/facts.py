"""From a checked header to the facts the footprint formula needs: layer by layer, for every kind of layer we know.

What a header does not say is taken to be the expensive case: a prediction may be too high, never silently too low.
Pure. Raises `ValueError`, in words, for numbers no model has.
"""

from __future__ import annotations

from collections import defaultdict

from modelyard.errors import N_, said
from modelyard.types.facts import LayerFacts, ModelFacts

from .header import GgufHeader

LAYER_COUNT_MAX = 1024
NUMBER_MAX = 2**32 - 1
STATE_NUMBER_BYTES = 4  # recurrent state is kept in 32 bits

ENCODERS = frozenset({"bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3",
                      "eurobert", "t5encoder", "gemma-embedding"})  # fmt: skip
# Every n-th layer sees the whole context, the others a window; llama.cpp knows this, older files do not say it.
WINDOW_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "gpt-oss": 2, "cohere2": 4, "exaone4": 4, "olmo2": 4,
                  "smallthinker": 4}  # fmt: skip
# Types that llama.cpp rewrites for the processor when it loads them.
REPACKED_TYPES = frozenset({"Q4_0", "Q4_K", "Q2_K", "IQ4_NL", "MXFP4"})
_ATTENTION_TENSORS = frozenset({"attn_k", "attn_qkv", "attn_k_b", "attn_kv_b", "attn_kv_a_mqa"})
_STATE_TENSORS = frozenset({"ssm_conv1d", "ssm_a", "ssm_in", "ssm_conv1d_q"})


def facts_of(header: GgufHeader, *, projector_bytes: int = 0) -> ModelFacts:
    """What the header says about memory."""
    values = _Numbers(header)
    count = values.number("block_count")
    if not 1 <= count <= LAYER_COUNT_MAX:
        raise ValueError(said("its header says it has {count} layers", count=count))
    layer_bytes: dict[int, int] = defaultdict(int)
    layer_parts: dict[int, set[str]] = defaultdict(set)
    outside: dict[str, int] = {}
    for tensor in header.tensors:
        index, part = _place(tensor.name)
        if index is None:
            outside[tensor.name] = tensor.size_bytes
        else:
            layer_bytes[index] += tensor.size_bytes
            layer_parts[index].add(part)
    if layer_bytes and max(layer_bytes) >= LAYER_COUNT_MAX:
        raise ValueError(said("it has a layer number {number}", number=max(layer_bytes)))
    layers = tuple(
        _layer(values, index, count, layer_parts[index], layer_bytes[index])
        for index in range(max([count, *(number + 1 for number in layer_bytes)]))
    )
    input_type = next((tensor.type.name for tensor in header.tensors if tensor.name == "token_embd.weight"), "")
    input_bytes = outside.pop("token_embd.weight", 0)
    return ModelFacts(
        architecture=values.architecture,
        layers=layers,
        embedding_width=values.number("embedding_length"),
        head_count=values.number("attention.head_count"),
        feed_forward_width=_feed_forward_width(values),
        vocabulary_count=header.items("tokenizer.ggml.tokens"),
        merge_count=header.items("tokenizer.ggml.merges"),
        context_length=values.number("context_length"),
        input_bytes=input_bytes,
        output_bytes=sum(outside.values()),
        is_output_tied="output.weight" not in outside and values.architecture not in ENCODERS,
        is_input_repacked=input_type in REPACKED_TYPES,
        projector_bytes=projector_bytes,
    )


class _Numbers:
    """The header's numbers for its architecture, each within reason."""

    def __init__(self, header: GgufHeader) -> None:
        self.architecture = header.text("general.architecture")
        self._header = header
        if not self.architecture:
            raise ValueError(N_("its header names no architecture"))

    def number(self, key: str, default: int = 0) -> int:
        """A whole number; of a per-layer array, the largest."""
        value = self._header.values.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple):
            value = max((item for item in value if isinstance(item, int)), default=default)
        return self._bounded(key, value, default)

    def of_layer(self, key: str, index: int, default: int = 0) -> int:
        """A number that may differ from layer to layer."""
        value = self._header.values.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple):
            value = value[index] if index < len(value) else None
        return self._bounded(key, value, default)

    def is_false(self, key: str) -> bool:
        return self._header.values.get(f"{self.architecture}.{key}") is False

    def is_per_layer(self, key: str) -> bool:
        return isinstance(self._header.values.get(f"{self.architecture}.{key}"), tuple)

    def _bounded(self, key: str, value: object, default: int) -> int:
        if not isinstance(value, int):
            return default
        if not 0 <= value <= NUMBER_MAX:
            raise ValueError(said("its {key} is {value}", key=key, value=value))
        return int(value)


def _place(name: str) -> tuple[int | None, str]:
    """The layer and the part a tensor belongs to.

    >>> _place("blk.12.attn_k.weight"), _place("output.weight")
    ((12, 'attn_k'), (None, 'output.weight'))
    """
    pieces = name.split(".")
    if len(pieces) >= 3 and pieces[0] == "blk" and pieces[1].isascii() and pieces[1].isdigit() and len(pieces[1]) < 6:
        return int(pieces[1]), pieces[2]
    return None, name


def _layer(values: _Numbers, index: int, count: int, parts: set[str], weights_bytes: int) -> LayerFacts:
    window = _window_tokens(values, index)
    keys, numbers = _kept_per_token(values, index, count, is_windowed=window > 0)
    if not _has_attention(values, index, parts):
        keys = numbers = window = 0
    state = _state_numbers(values, parts) * STATE_NUMBER_BYTES
    return LayerFacts(weights_bytes, keys, numbers, window, state)


def _has_attention(values: _Numbers, index: int, parts: set[str]) -> bool:
    if values.architecture in ENCODERS or values.is_false("attention.causal"):
        return False  # encoders keep nothing between batches
    interval = values.number("full_attention_interval")
    if interval and parts & _STATE_TENSORS:
        return (index + 1) % interval == 0
    return not parts or bool(parts & _ATTENTION_TENSORS)


def _kept_per_token(values: _Numbers, index: int, count: int, *, is_windowed: bool) -> tuple[int, int]:
    """How many numbers a layer keeps per token: for keys, and for values."""
    if index >= count - values.number("attention.shared_kv_layers"):
        return 0, 0  # the last layers look at what an earlier one kept
    heads = values.of_layer("attention.head_count", index)
    kv_heads = values.of_layer("attention.head_count_kv", index, default=heads)
    width = values.number("embedding_length") // heads if heads else 0
    keys, numbers = values.number("attention.key_length", width), values.number("attention.value_length", width)
    if is_windowed:
        keys = values.number("attention.key_length_swa", keys)
        numbers = values.number("attention.value_length_swa", numbers)
    if values.number("attention.key_length_mla"):
        return keys * kv_heads, 0  # compressed: values are rebuilt from keys
    return keys * kv_heads, numbers * kv_heads


def _window_tokens(values: _Numbers, index: int) -> int:
    window = values.number("attention.sliding_window")
    if not window:
        return 0
    if values.is_per_layer("attention.sliding_window_pattern"):
        return window if values.of_layer("attention.sliding_window_pattern", index) else 0
    period = values.number("attention.sliding_window_pattern", WINDOW_PERIODS.get(values.architecture, 0))
    return window if period and index % period < period - 1 else 0


def _state_numbers(values: _Numbers, parts: set[str]) -> int:
    """How many numbers a layer keeps per sequence."""
    embedding = values.number("embedding_length")
    if parts & _STATE_TENSORS:
        inner, state = values.number("ssm.inner_size"), values.number("ssm.state_size")
        kernel, groups = values.number("ssm.conv_kernel"), values.number("ssm.group_count")
        return max(kernel - 1, 0) * (inner + 2 * groups * state) + inner * state
    if any(part.startswith("shortconv") for part in parts):
        return max(values.number("shortconv.l_cache") - 1, 0) * embedding
    if any(part.startswith("time_mix") for part in parts):
        return embedding * (values.number("wkv.head_size") + values.number("token_shift_count", 2))
    return 0


def _feed_forward_width(values: _Numbers) -> int:
    whole, experts = values.number("feed_forward_length"), values.number("expert_used_count")
    expert = values.number("expert_feed_forward_length", whole)
    shared = values.number("expert_shared_feed_forward_length", expert * values.number("expert_shared_count"))
    return max(whole, experts * expert + shared) if experts else whole

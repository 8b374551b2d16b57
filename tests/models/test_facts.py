"""What headers of all kinds of models say about memory."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest

from modelyard.models.facts import facts_of
from modelyard.models.header import TENSOR_TYPES, GgufHeader, TensorInfo, Value, product_of
from modelyard.types.facts import LayerFacts


def header(architecture: str, values: Mapping[str, Value], tensors: tuple[str, ...]) -> GgufHeader:
    """A header whose tensors are all of 4 x 8 F32 numbers: 128 bytes."""
    named = {f"{architecture}.{key}": value for key, value in values.items()}
    infos = tuple(TensorInfo(name, (4, 8), TENSOR_TYPES[0], 0, 128) for name in tensors)
    return GgufHeader(3, MappingProxyType({"general.architecture": architecture, **named}), infos, 0, 0, "digest")


PLAIN: dict[str, Value] = {
    "block_count": 2, "embedding_length": 64, "feed_forward_length": 100, "context_length": 512,
    "attention.head_count": 4, "attention.head_count_kv": 2,
}  # fmt: skip
PLAIN_TENSORS = (
    "token_embd.weight", "blk.0.attn_k.weight", "blk.0.ffn_up.weight", "blk.1.attn_k.weight", "output_norm.weight",
)  # fmt: skip


def test_weights_are_sorted_into_input_layers_and_the_rest() -> None:
    facts = facts_of(header("llama", PLAIN, PLAIN_TENSORS))

    assert (facts.input_bytes, [layer.weights_bytes for layer in facts.layers], facts.output_bytes) == (
        128,
        [256, 128],
        128,
    )
    assert facts.weights_bytes == 5 * 128
    assert facts.is_output_tied
    assert not facts_of(header("llama", PLAIN, (*PLAIN_TENSORS, "output.weight"))).is_output_tied


def test_a_layer_keeps_keys_and_values_of_its_kv_heads() -> None:
    facts = facts_of(header("llama", PLAIN, PLAIN_TENSORS))

    assert facts.layers[0] == LayerFacts(256, key_width=32, value_width=32)


def test_head_widths_and_counts_may_be_stated_per_layer() -> None:
    values = {**PLAIN, "attention.head_count_kv": (1, 4), "attention.key_length": 24, "attention.value_length": 8}

    facts = facts_of(header("llama", values, PLAIN_TENSORS))

    assert [(layer.key_width, layer.value_width) for layer in facts.layers] == [(24, 8), (96, 32)]


def test_compressed_attention_keeps_one_vector_per_token() -> None:
    values = {**PLAIN, "attention.head_count_kv": 1, "attention.key_length": 576, "attention.value_length": 512,
              "attention.key_length_mla": 192}  # fmt: skip

    facts = facts_of(header("deepseek2", values, ("blk.0.attn_kv_a_mqa.weight", "blk.1.attn_kv_a_mqa.weight")))

    assert [(layer.key_width, layer.value_width) for layer in facts.layers] == [(576, 0), (576, 0)]


@pytest.mark.parametrize(
    ("architecture", "stated", "windows"),
    [
        ("gemma3", None, [10, 10, 10, 10, 10, 0, 10, 10]),
        ("gemma2", None, [10, 0, 10, 0, 10, 0, 10, 0]),
        ("anything", 4, [10, 10, 10, 0, 10, 10, 10, 0]),
        ("anything", (True, False, True, False, True, False, True, True), [10, 0, 10, 0, 10, 0, 10, 10]),
        ("llama", None, [0] * 8),
    ],
)
def test_sliding_windows_follow_the_header_or_the_architecture(
    architecture: str, stated: Value | None, windows: list[int]
) -> None:
    values: dict[str, Value] = {**PLAIN, "block_count": 8, "attention.sliding_window": 10}
    if stated is not None:
        values["attention.sliding_window_pattern"] = stated

    facts = facts_of(header(architecture, values, ()))

    assert [layer.window_tokens for layer in facts.layers] == windows


def test_layers_that_share_what_an_earlier_one_keeps_keep_nothing() -> None:
    facts = facts_of(header("gemma3n", {**PLAIN, "attention.shared_kv_layers": 1}, PLAIN_TENSORS))

    assert [layer.key_width for layer in facts.layers] == [32, 0]


def test_recurrent_layers_keep_a_state_and_no_tokens() -> None:
    values = {**PLAIN, "ssm.inner_size": 128, "ssm.state_size": 16, "ssm.conv_kernel": 4, "ssm.group_count": 1}

    facts = facts_of(header("granitehybrid", values, ("blk.0.ssm_conv1d.weight", "blk.1.attn_k.weight")))

    state = 4 * (3 * (128 + 2 * 16) + 128 * 16)
    assert [(layer.key_width, layer.state_bytes) for layer in facts.layers] == [(0, state), (32, 0)]


def test_every_fourth_layer_attends_where_the_header_says_so() -> None:
    values = {**PLAIN, "block_count": 4, "full_attention_interval": 4, "ssm.inner_size": 8, "ssm.state_size": 8,
              "ssm.conv_kernel": 4}  # fmt: skip
    tensors = [f"blk.{n}.{part}.weight" for n in range(3) for part in ("attn_qkv", "ssm_conv1d")]

    facts = facts_of(header("qwen3next", values, (*tensors, "blk.3.attn_k.weight")))

    assert [layer.key_width > 0 for layer in facts.layers] == [False, False, False, True]
    assert [layer.state_bytes > 0 for layer in facts.layers] == [True, True, True, False]


def test_convolution_and_rwkv_layers_keep_a_state() -> None:
    values = {**PLAIN, "shortconv.l_cache": 3, "wkv.head_size": 8}

    facts = facts_of(header("lfm2", values, ("blk.0.shortconv.conv.weight", "blk.1.time_mix_key.weight")))

    assert [(layer.key_width, layer.state_bytes) for layer in facts.layers] == [(0, 2 * 64 * 4), (0, 64 * 10 * 4)]


@pytest.mark.parametrize(("architecture", "more"), [("bert", {}), ("qwen3", {"attention.causal": False})])
def test_encoders_keep_nothing_between_batches(architecture: str, more: dict[str, Value]) -> None:
    facts = facts_of(header(architecture, {**PLAIN, **more}, PLAIN_TENSORS))

    assert {layer.key_width for layer in facts.layers} == {0}


def test_experts_count_as_far_as_they_are_used_at_once() -> None:
    values = {**PLAIN, "expert_count": 64, "expert_used_count": 8, "expert_feed_forward_length": 50,
              "expert_shared_count": 1}  # fmt: skip

    assert facts_of(header("qwen3moe", values, PLAIN_TENSORS)).feed_forward_width == 450


def test_layers_beyond_the_stated_count_are_weighed() -> None:
    facts = facts_of(header("glm4moe", PLAIN, (*PLAIN_TENSORS, "blk.2.attn_k.weight")))

    assert len(facts.layers) == 3
    assert facts.weights_bytes == 6 * 128


@pytest.mark.parametrize(
    "values",
    [
        {**PLAIN, "block_count": 10**6},
        {**PLAIN, "block_count": -1},
        {**PLAIN, "embedding_length": 2**63},
        {**PLAIN, "attention.head_count_kv": (-1, 2)},
        {"embedding_length": 64},
    ],
)
def test_numbers_no_model_has_are_refused(values: dict[str, Value]) -> None:
    with pytest.raises(ValueError, match="its "):
        facts_of(header("llama", values, PLAIN_TENSORS))


def test_a_layer_number_no_model_has_is_refused() -> None:
    with pytest.raises(ValueError, match="layer number 99999"):
        facts_of(header("llama", PLAIN, ("blk.99999.attn_k.weight",)))


def test_wrong_kinds_of_values_are_taken_as_missing() -> None:
    values = {**PLAIN, "attention.head_count": "four", "attention.head_count_kv": 2.5, "feed_forward_length": ("x",)}

    facts = facts_of(header("llama", values, PLAIN_TENSORS))

    assert (facts.layers[0].key_width, facts.feed_forward_width) == (0, 0)
    assert product_of((4, 8)) == 32

"""The footprint formula."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelyard.memory.footprint import (
    FORMULA_BAND_RATIO,
    GPU_CONTEXT_BYTES,
    ORACLE_BAND_RATIO,
    CacheType,
    LoadShape,
    cache_bytes,
    context_of,
    from_oracle,
    predict,
)
from modelyard.types.facts import LayerFacts, ModelFacts
from modelyard.units import MIB

LAYER = LayerFacts(weights_bytes=50 * MIB, key_width=512, value_width=512)
FACTS = ModelFacts(
    "llama", (LAYER,) * 10, embedding_width=1024, head_count=8, feed_forward_width=4096, vocabulary_count=32_000,
    context_length=32_768, input_bytes=30 * MIB, output_bytes=40 * MIB,
)  # fmt: skip
SHAPE = LoadShape(4096)


def test_the_parts_add_up_to_the_whole() -> None:
    shape = replace(SHAPE, prompt_cache_max_bytes=64 * MIB)

    footprint = predict(FACTS, shape)

    assert footprint.total_bytes == sum(footprint.parts.values()) == footprint.bytes["ram"]
    assert footprint.parts["weights"] == FACTS.weights_bytes == 570 * MIB
    assert footprint.parts["prompt_cache"] == 64 * MIB
    assert (footprint.source, footprint.band_ratio) == ("formula", FORMULA_BAND_RATIO)


@pytest.mark.parametrize(
    ("key", "value", "cell_bytes"),
    [("f16", "f16", 2048), ("q8_0", "q8_0", 1088), ("q4_0", "q8_0", 832), ("f32", "f16", 3072)],
)
def test_the_cache_has_a_cell_per_token_layer_and_slot(key: CacheType, value: CacheType, cell_bytes: int) -> None:
    footprint = predict(FACTS, LoadShape(4096, slots=3, key_type=key, value_type=value))

    assert footprint.parts["kv"] == 10 * 3 * 4096 * cell_bytes
    assert cache_bytes(512, key) + cache_bytes(512, value) == cell_bytes


def test_a_window_keeps_its_tokens_and_one_batch() -> None:
    windowed = replace(LAYER, window_tokens=1024)
    facts = replace(FACTS, layers=(windowed, LAYER))

    kept = predict(facts, LoadShape(16_384, batch_tokens=300)).parts["kv"]

    assert kept == (16_384 + 1536) * 2048  # 1024 + 300, rounded up to a multiple of 256


def test_a_window_wider_than_the_context_keeps_the_context() -> None:
    facts = replace(FACTS, layers=(replace(LAYER, window_tokens=100_000),))

    assert predict(facts, SHAPE).parts["kv"] == 4096 * 2048


def test_a_recurrent_layer_costs_the_same_whatever_the_context() -> None:
    facts = replace(FACTS, layers=(LayerFacts(weights_bytes=MIB, state_bytes=3 * MIB),))

    assert {predict(facts, LoadShape(size, slots=2)).parts["kv"] for size in (512, 32_768)} == {6 * MIB}


def test_checkpoints_copy_windows_and_states_only() -> None:
    windowed, recurrent = replace(LAYER, window_tokens=768), LayerFacts(state_bytes=MIB)
    shape = LoadShape(4096, slots=2, checkpoint_count_max=4)

    assert "checkpoints" not in predict(FACTS, shape).parts
    mixed = predict(replace(FACTS, layers=(windowed, recurrent, LAYER)), shape)
    assert mixed.parts["checkpoints"] == 2 * 4 * (1024 * 2048 + MIB)


def test_a_tied_output_exists_twice_only_where_it_is_rewritten_or_on_another_device() -> None:
    tied = replace(FACTS, is_output_tied=True, is_input_repacked=True)
    gpu = LoadShape(4096, gpu_layers=11, gpus=("gpu0",))

    extra = [
        predict(facts, shape).parts["weights"] - FACTS.weights_bytes
        for facts, shape in (
            (tied, SHAPE),
            (tied, replace(SHAPE, is_repacked=False)),
            (replace(tied, is_input_repacked=False), SHAPE),
            (replace(tied, is_input_repacked=False), gpu),
            (FACTS, gpu),
        )
    ]

    assert [count // MIB for count in extra] == [30, 0, 0, 30, 0]


def test_layers_go_to_gpus_with_their_cache_and_the_input_stays_in_ram() -> None:
    on_cpu = predict(FACTS, SHAPE)
    footprint = predict(FACTS, replace(SHAPE, gpu_layers=99, gpus=("gpu0", "gpu1")))

    assert set(footprint.bytes) == {"ram", "gpu0", "gpu1"}
    assert footprint.bytes["gpu0"] >= 5 * (50 * MIB + 4096 * 2048) + GPU_CONTEXT_BYTES
    assert footprint.bytes["gpu1"] >= footprint.bytes["gpu0"] + 40 * MIB
    assert 30 * MIB < footprint.bytes["ram"] < on_cpu.bytes["ram"] - 500 * MIB
    assert footprint.total_bytes == sum(footprint.parts.values())


def test_some_layers_may_stay_in_ram() -> None:
    footprint = predict(FACTS, replace(SHAPE, gpu_layers=4, gpus=("gpu0",)))

    assert footprint.bytes["ram"] > 6 * (50 * MIB + 4096 * 2048) + 70 * MIB


def test_a_projector_is_counted() -> None:
    with_one = predict(replace(FACTS, projector_bytes=100 * MIB), SHAPE)

    assert with_one.total_bytes - predict(FACTS, SHAPE).total_bytes == 100 * MIB


def test_more_of_anything_never_takes_less() -> None:
    base = predict(FACTS, SHAPE).total_bytes

    for shape in (
        replace(SHAPE, context_length=8192),
        replace(SHAPE, slots=2),
        replace(SHAPE, batch_tokens=512),
        replace(SHAPE, key_type="f32"),
        replace(SHAPE, has_flash_attention=False),
        replace(SHAPE, prompt_cache_max_bytes=1),
    ):
        assert predict(FACTS, shape).total_bytes > base


@pytest.mark.parametrize(
    ("asked", "trained", "context"),
    [(4096, 32_768, 4096), (65_536, 32_768, 32_768), (0, 32_768, 32_768), (0, 0, 4096), (512, 0, 512)],
)
def test_the_context_is_what_was_asked_and_at_most_what_was_trained(asked: int, trained: int, context: int) -> None:
    assert context_of(replace(FACTS, context_length=trained), LoadShape(asked)) == context


def test_facts_without_anything_still_give_a_footprint() -> None:
    footprint = predict(ModelFacts(), LoadShape(0))

    assert footprint.bytes["ram"] > 0


def test_what_the_oracle_does_not_see_is_added_to_its_answer() -> None:
    shape = replace(SHAPE, prompt_cache_max_bytes=8 * MIB)
    table = {"weights": {"ram": 570 * MIB}, "kv": {"ram": 80 * MIB}, "compute": {"ram": 10 * MIB}}

    footprint = from_oracle(table, replace(FACTS, projector_bytes=5 * MIB), shape)

    assert (footprint.source, footprint.band_ratio) == ("oracle", ORACLE_BAND_RATIO)
    assert footprint.parts["weights"] == 575 * MIB
    assert footprint.parts["process"] == predict(FACTS, shape).parts["process"]
    assert footprint.total_bytes == sum(footprint.parts.values())
    assert table["weights"] == {"ram": 570 * MIB}

"""Folders as Hugging Face lays them out: what they are, what they need, and which are never served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelyard.demo import gguf_path
from modelyard.memory.footprint_torch import TorchShape, predict_torch
from modelyard.models.folder import describe_folder
from modelyard.models.scan import scan
from modelyard.types.model import Capability, Model
from modelyard.units import GIB, MIB
from tests.support.safetensors_files import MINILM, MINILM_TENSORS, QWEN, QWEN_TENSORS, write_folder, write_safetensors


def only(folder: Path) -> Model:
    result = scan([folder])
    assert not result.problems
    (model,) = result.models
    return model


def test_a_transformers_folder_is_one_model(tmp_path: Path) -> None:
    template = {"chat_template": "{{ tools }}<tool_call>"}
    folder = write_folder(
        tmp_path / "Qwen2.5-7B-Instruct",
        QWEN,
        QWEN_TENSORS,
        tokenizer_config__json=template,
    )

    model = only(tmp_path)

    assert (model.name, model.engine, model.format) == ("qwen2.5-7b-instruct", "transformers", "safetensors")
    assert model.capabilities == {Capability.COMPLETION, Capability.CHAT, Capability.TOOLS}
    assert (model.quantization, model.context_length) == ("bfloat16", 32768)
    assert not model.problem
    assert model.identity != describe_folder("x", write_folder(folder, {**QWEN, "hidden_size": 4096}, {})).identity


def test_the_bundled_folder_is_described() -> None:
    model = describe_folder("yardling-hf", gguf_path().parent / "yardling-hf")

    assert model.facts is not None
    assert (model.parameter_count, model.quantization) == (3_150_080, "float32")
    assert model.facts.weights_bytes == 3_150_080 * 4  # kept in 16 bits, computed in 32
    assert model.capabilities >= {Capability.CHAT}


def test_a_sentence_transformers_folder_embeds_and_keeps_nothing(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "minilm",
        MINILM,
        MINILM_TENSORS,
        modules__json=[{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}],
        sentence_bert_config__json={"max_seq_length": 256},
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")

    model = only(tmp_path)

    assert (model.engine, model.capabilities) == ("embeddings", frozenset({Capability.EMBED}))
    assert model.context_length == 256
    assert model.facts is not None
    assert not any(layer.key_width for layer in model.facts.layers)


def test_a_footprint_is_the_weights_the_cache_and_the_process(tmp_path: Path) -> None:
    model = describe_folder("qwen", write_folder(tmp_path / "qwen", QWEN, QWEN_TENSORS))
    assert model.facts is not None

    one = predict_torch(model.facts, TorchShape(context_length=8192))
    two = predict_torch(model.facts, TorchShape(context_length=8192, slots=2))

    assert one.parts["weights"] == model.size_bytes - _header_bytes(tmp_path / "qwen")
    block = 256 * 28 * 2 * 4 * 128 * 2
    assert one.parts["kv"] == (32 + 1 + 2) * block
    assert two.parts["kv"] == (2 * 33 + 2) * block
    assert one.source == "formula"
    assert one.parts["weights"] < one.bytes["ram"] < 2 * one.parts["weights"]


def _header_bytes(folder: Path) -> int:
    with (folder / "model.safetensors").open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    return header + (folder / "config.json").stat().st_size


def test_predictions_hold_what_was_measured(tmp_path: Path) -> None:
    """Anonymous memory and weights of three real processes, as measured once; see memory/footprint_torch."""
    generating = describe_folder("yardling-hf", gguf_path().parent / "yardling-hf").facts
    embedding = describe_folder("minilm", write_folder(tmp_path / "m", MINILM, MINILM_TENSORS)).facts
    assert generating is not None
    assert embedding is not None

    small = TorchShape(512, slots=2, batch_tokens=64, cache_bytes_per_number=4)
    large = TorchShape(2048, slots=8, batch_tokens=2048, cache_bytes_per_number=4)
    embeds = TorchShape(is_embedding=True, batch_tokens=32 * 256)
    all_of_them = ((generating, small, 313), (generating, large, 578), (embedding, embeds, 579))

    for facts, shape, measured_mib in all_of_them:
        predicted, measured = predict_torch(facts, shape), measured_mib * MIB
        assert measured <= predicted.reserved_bytes["ram"]
        assert abs(predicted.bytes["ram"] - measured) < 0.15 * measured


def test_on_a_gpu_only_the_process_stays_in_main_memory(tmp_path: Path) -> None:
    facts = describe_folder("qwen", write_folder(tmp_path / "qwen", QWEN, QWEN_TENSORS)).facts
    assert facts is not None

    predicted = predict_torch(facts, TorchShape(context_length=4096, device="gpu0"))

    assert predicted.bytes["ram"] < GIB
    assert predicted.bytes["gpu0"] > predicted.parts["weights"] + predicted.parts["kv"]


def test_what_may_run_code_is_listed_and_not_served(tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text(json.dumps(QWEN))
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x02")
    write_folder(tmp_path / "coded", {**QWEN, "auto_map": {"AutoModel": "modeling.Model"}}, QWEN_TENSORS)

    problems = {model.name: model.problem for model in scan([tmp_path]).models}

    assert "pickled" in problems["pickled"]
    assert "auto_map" in problems["coded"]


def test_what_lacks_its_configuration_or_its_weights_is_listed_with_that(tmp_path: Path) -> None:
    (write_folder(tmp_path / "unconfigured", QWEN, QWEN_TENSORS) / "config.json").unlink()
    for name, files in {"weightless": ("tokenizer.json",), "typed": ()}.items():
        (write_folder(tmp_path / name, QWEN, QWEN_TENSORS) / "model.safetensors").unlink()
        for file in files:
            (tmp_path / name / file).write_text("{}")

    found = scan([tmp_path]).models

    assert {model.name: model.problem for model in found} == {
        "unconfigured": "there is no config.json", "weightless": "there are no weights", "typed": "there are no weights"
    }  # fmt: skip


def test_a_folder_of_another_program_or_beside_a_file_is_no_model(tmp_path: Path) -> None:
    for name, content in {"app": '{"port": 1}', "broken": "{", "list": "[]"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content)
    whole = write_folder(tmp_path / "whole", QWEN, QWEN_TENSORS)
    for part, file in {"adapter": "adapter_config.json", "converted": "tiny.gguf"}.items():
        folder = write_folder(tmp_path / part, QWEN, QWEN_TENSORS)
        (folder / "config.json").unlink()
        (folder / file).write_bytes(b"{}")
    write_safetensors(_new(whole / "2_Dense") / "model.safetensors", {"linear.weight": ("F32", (2, 2))})

    names = [model.name for model in scan([tmp_path]).models]

    assert names == ["tiny", "whole"]


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("stated", "context"), [(256, 256), (512, 512), (8192, 512), (99_999_999, 512), (0, 512), (2**31, 512)]
)
def test_no_input_is_longer_than_the_positions_of_a_model_that_embeds(
    tmp_path: Path, stated: int, context: int
) -> None:
    write_folder(tmp_path / "m", MINILM, MINILM_TENSORS, sentence_bert_config__json={"max_seq_length": stated})

    model = only(tmp_path)

    assert model.facts is not None
    assert (model.problem, model.context_length, model.facts.context_length) == ("", context, context)


def test_a_length_that_means_no_limit_is_none_where_the_positions_are_unknown(tmp_path: Path) -> None:
    config = {key: value for key, value in MINILM.items() if key != "max_position_embeddings"}
    write_folder(tmp_path / "m", config, MINILM_TENSORS, sentence_bert_config__json={"max_seq_length": 99_999_999})

    assert only(tmp_path).context_length is None


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}

    write_folder(tmp_path / "cut", QWEN, QWEN_TENSORS, model__safetensors__index__json=index)

    assert "model-00002-of-00002.safetensors" in only(tmp_path).problem


@pytest.mark.parametrize(
    "config",
    [
        {**QWEN, "num_hidden_layers": 10**9},
        {**QWEN, "num_hidden_layers": -1},
        {**QWEN, "hidden_size": 2**60},
        {"model_type": "x"},
        {**QWEN, "architectures": 7},
    ],
)
def test_an_absurd_configuration_is_a_problem_and_no_crash(tmp_path: Path, config: dict[str, object]) -> None:
    write_folder(tmp_path / "odd", config, QWEN_TENSORS)

    assert only(tmp_path).problem


@pytest.mark.parametrize("text", ["", "[", "[1]", "null", '{"a":' * 50_000, "\udcff"])
def test_a_configuration_that_is_none_is_a_problem(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "config.json").write_bytes(text.encode(errors="surrogateescape"))
    write_safetensors(folder / "model.safetensors", MINILM_TENSORS)

    assert only(tmp_path).problem

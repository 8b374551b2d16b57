"""The embeddings recipe: what it chooses and says, without the library. Its worker is in the conformance suite."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelyard.engines import torch_recipe
from modelyard.engines.embeddings import Embeddings
from modelyard.engines.embeddings_app import batches
from modelyard.engines.hardware import Hardware
from modelyard.engines.torch_recipe import TorchOverrides
from modelyard.errors import EngineMissing, LoadFailed
from modelyard.models.folder import describe_folder
from modelyard.types.model import Model
from tests.support.minilm import minilm_folder, write_cross_encoder

ENVIRONMENT = {"PATH": "/bin", "OPENAI_API_KEY": "sk-secret", "HF_TOKEN": "hf-secret"}


@pytest.fixture
def minilm() -> Model:
    return describe_folder("minilm", minilm_folder())


def test_values_are_chosen_with_reasons(minilm: Model) -> None:
    options = Embeddings(Hardware(2), ENVIRONMENT).options(minilm)

    assert (options.slots, options.context_length) == (4, 256)
    assert options.values == {"device": "cpu", "dtype": "float32", "threads": 2, "n_batch": 4096}
    assert options.reasons.keys() == {*options.values, "slots", "context_length"}


def test_settings_win_and_never_exceed_the_model(minilm: Model) -> None:
    fixed = TorchOverrides(context_length=4096, slots=1, threads=1, n_batch=64, dtype="bfloat16")
    options = Embeddings(Hardware(2), {}, per_model={"MiniLM": fixed}).options(minilm)

    assert (options.slots, options.context_length) == (1, 256)
    assert options.values == {"device": "cpu", "dtype": "bfloat16", "threads": 1, "n_batch": 64}


def test_a_gpu_is_used_and_its_memory_predicted(minilm: Model) -> None:
    engine = Embeddings(Hardware(2, gpus=("gpu1",)), {})
    options = engine.options(minilm)
    command = engine.command(minilm, options, Path("/s"))

    assert options.values["device"] == "gpu1"
    assert set(engine.estimate(minilm, options).bytes) == {"ram", "gpu1"}
    assert command.environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert json.loads(command.argv[-1])["device"] == "cuda:0"


def test_the_worker_is_offline_and_gets_no_secrets(minilm: Model, tmp_path: Path) -> None:
    engine = Embeddings(Hardware(2), ENVIRONMENT)
    command = engine.command(minilm, engine.options(minilm), Path("/s"))
    ranker = describe_folder("ranker", write_cross_encoder(tmp_path / "ranker"))

    assert command.environment["HF_HUB_OFFLINE"] == "1"
    assert not any("secret" in value for value in command.environment.values())
    assert not json.loads(command.argv[-1])["is_reranker"]
    assert json.loads(engine.command(ranker, engine.options(ranker), Path("/s")).argv[-1])["is_reranker"]


def test_without_the_extra_the_command_to_install_it_is_told(minilm: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_recipe, "is_missing", lambda *_packages: True)
    engine = Embeddings(Hardware(2), {})

    with pytest.raises(EngineMissing) as refused:
        engine.command(minilm, engine.options(minilm), Path("/s"))

    assert "pip install 'modelyard[embeddings]'" in " ".join(refused.value.suggestions)


def test_a_device_that_is_not_there_is_refused(minilm: Model) -> None:
    engine = Embeddings(Hardware(2), {}, overrides=TorchOverrides(device="gpu7"))

    with pytest.raises(LoadFailed, match="gpu7"):
        engine.command(minilm, engine.options(minilm), Path("/s"))


def test_every_input_is_in_one_batch_and_no_batch_is_too_large() -> None:
    counts = [1, 500, 30, 30, 30, 2, 256, 700, 5]
    found = batches(counts, 512)

    assert sorted(place for batch in found for place in batch) == list(range(len(counts)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(counts[place] for place in batch) <= 512

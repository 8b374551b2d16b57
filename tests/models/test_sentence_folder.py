"""Folders that give vectors or scores: which engine serves them, and which are never loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelyard.models.folder import describe_folder
from modelyard.models.sentence_folder import folder_problem
from modelyard.types.model import Capability, Model
from tests.support.safetensors_files import MINILM, MINILM_TENSORS, write_folder

TRANSFORMER = {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
RANKS = {**MINILM, "architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}


def described(folder: Path, config: dict[str, Any] = MINILM, **files: Any) -> Model:
    return describe_folder("m", write_folder(folder, config, MINILM_TENSORS, **files))


def test_encoders_and_cross_encoders_are_for_the_embeddings_engine(tmp_path: Path) -> None:
    sentence = described(tmp_path / "a", modules__json=[TRANSFORMER, POOLING])
    bare = described(tmp_path / "b")
    ranks = described(tmp_path / "c", RANKS)

    assert {one.engine for one in (sentence, bare, ranks)} == {"embeddings"}
    assert [one.problem for one in (sentence, bare, ranks)] == ["", "", ""]
    assert sentence.capabilities == bare.capabilities == {Capability.EMBED}
    assert ranks.capabilities == {Capability.RERANK}


def test_a_classifier_is_no_reranker(tmp_path: Path) -> None:
    model = described(tmp_path / "m", {**RANKS, "id2label": {"0": "sad", "1": "glad"}})

    assert "2 kinds" in model.problem


def test_the_lengths_a_model_was_trained_for_are_known(tmp_path: Path) -> None:
    assert described(tmp_path / "m", {**MINILM, "matryoshka_dimensions": [128, 64]}).metadata[
        "matryoshka_dimensions"
    ] == (128, 64)


@pytest.mark.parametrize(
    ("modules", "why"),
    [
        ([{**TRANSFORMER, "type": "os.system"}], "program code"),
        ([{**TRANSFORMER, "type": "custom_st.Transformer"}], "program code"),
        ([{**TRANSFORMER, "type": "sentence_transformersx.Evil"}], "program code"),
        ([{**TRANSFORMER, "type": "sentence_transformers.base.model.torch"}], "program code"),
        ([{**TRANSFORMER, "type": "sentence_transformers.models.Router"}], "Router"),
        ([TRANSFORMER, {**POOLING, "path": "../other"}], "outside"),
        ([TRANSFORMER, {**POOLING, "path": "/etc"}], "outside"),
        ([], "list of 1 to"),
        ([TRANSFORMER] * 33, "list of 1 to"),
        ({"type": "x"}, "list of 1 to"),
        (["x"], "does not say"),
        ([{"type": 1, "path": ""}], "does not say"),
    ],
)
def test_a_folder_that_names_something_else_than_the_library_is_never_loaded(
    tmp_path: Path, modules: Any, why: str
) -> None:
    model = described(tmp_path / "m", modules__json=modules)

    assert why in model.problem
    assert why in folder_problem(tmp_path / "m")


def test_pickled_weights_of_a_later_module_are_refused(tmp_path: Path) -> None:
    dense = {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    folder = write_folder(tmp_path / "m", MINILM, MINILM_TENSORS, modules__json=[TRANSFORMER, dense])
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"\x80\x04")

    assert "pickled" in describe_folder("m", folder).problem


def test_a_module_behind_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder = write_folder(tmp_path / "m", MINILM, MINILM_TENSORS, modules__json=[TRANSFORMER, POOLING])
    (folder / "1_Pooling").symlink_to(tmp_path / "elsewhere")

    assert "outside" in folder_problem(folder)

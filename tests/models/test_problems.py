"""A model that is listed and not served: the error names it, and its advice fits what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard.api.problems import error_body, error_headers
from modelyard.engines.command import CommandRecipe, command_model
from modelyard.errors import ModelFileError
from modelyard.models.catalog import Catalog
from modelyard.models.folder import describe_folder
from modelyard.models.problems import unusable
from modelyard.types.model import Model
from tests.support.safetensors_files import MINILM, MINILM_TENSORS, QWEN, QWEN_TENSORS, write_folder

DIGEST = "Fetch the file again and compare its digest."


def coded(folder: Path) -> None:
    write_folder(folder, {**QWEN, "auto_map": {"AutoModel": "m.M"}}, QWEN_TENSORS)


def pickled(folder: Path) -> None:
    (write_folder(folder, QWEN, {}) / "model.safetensors").rename(folder / "pytorch_model.bin")


def unconfigured(folder: Path) -> None:
    (write_folder(folder, QWEN, QWEN_TENSORS) / "config.json").unlink()


def impossible(folder: Path) -> None:
    write_folder(folder, {**QWEN, "num_hidden_layers": -1}, QWEN_TENSORS)


def outside(folder: Path) -> None:
    modules = [{"type": "sentence_transformers.models.Transformer", "path": "../other"}]
    write_folder(folder, MINILM, MINILM_TENSORS, modules__json=modules)


def cut(folder: Path) -> None:
    path = write_folder(folder, QWEN, {"a": ("F32", (9, 9))}) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("make", "problem", "advice"),
    [
        (coded, "program code of its own (auto_map)", "models.code_folders"),
        (pickled, "pickled", "Convert the weights to safetensors"),
        (unconfigured, "there is no config.json", "Copy what is missing"),
        (impossible, "its configuration has an impossible num_hidden_layers", "Compare its configuration"),
        (outside, "one of its modules is outside of its folder", "No setting changes this."),
        (cut, "", DIGEST),
    ],
)
def test_a_folders_error_names_the_model_and_says_what_helps(
    make: Callable[[Path], None], problem: str, advice: str, tmp_path: Path
) -> None:
    make(tmp_path / "mine")

    error = unusable(describe_folder("mine", tmp_path / "mine"))

    assert str(error).startswith("mine cannot be served: ")
    assert problem in str(error)
    assert str(tmp_path) not in str(error)
    assert advice in error.suggestions[0]
    assert (DIGEST in error.suggestions) == (advice == DIGEST)
    assert error_headers(error) == {"x-should-retry": "false"}, "it is the same the next time"


def test_a_command_whose_path_is_not_there_names_the_setting() -> None:
    error = unusable(command_model("mine", CommandRecipe(argv=("serve",), model_path="/nowhere/weights")))

    assert str(error) == "mine cannot be served: its model_path cannot be read: No such file or directory"
    assert error.suggestions == ("Look at model_path in models.command.mine: is it there, and readable?",)


def test_a_file_is_named_too_and_callers_do_not_learn_where_it_lies() -> None:
    damaged = Model("mine", "llamacpp", files=(Path("/home/me/one.gguf"),), format="gguf", problem="it is cut")
    with pytest.raises(ModelFileError) as caught:
        Catalog((damaged,)).resolve("mine")

    told = json.dumps(error_body(caught.value, "r"))

    assert "mine cannot be served: one.gguf is not a usable model file: it is cut" in told
    assert DIGEST in told
    assert "/home/me" not in told

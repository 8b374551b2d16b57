"""A folder with two formats is one model: which engine serves it, under which name, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modelyard.engines.choice import REASON, one_per_folder
from modelyard.types.model import Model

FOLDER = Path("/models/qwen")
FILE = Model("qwen-q4_k_m", "llamacpp", (FOLDER / "qwen-q4_k_m.gguf",), 400, format="gguf", aliases=("qwen:q4_k_m",))
LARGER = Model("qwen-q8_0", "llamacpp", (FOLDER / "qwen-q8_0.gguf",), 800, format="gguf")
WEIGHTS = Model(
    "qwen", "transformers", (FOLDER / "model.safetensors",), 900, format="safetensors",
    metadata={"folder": str(FOLDER)},
)  # fmt: skip
ELSEWHERE = Model("other", "llamacpp", (Path("/models/other.gguf"),), 400, format="gguf")


def chosen(*models: Model, order: tuple[str, ...] = (), without: str = "") -> dict[str, tuple[str, str]]:
    """Engine and reason, by name."""
    found = one_per_folder(models, lambda _name: order, lambda engine: engine != without)
    return {model.name: (model.engine, str(model.metadata.get(REASON, ""))) for model in found}


def test_the_first_of_the_order_has_the_folders_name() -> None:
    both = "and the folder has both formats"

    assert chosen(FILE, WEIGHTS, order=("llamacpp",)) == {"qwen": ("llamacpp", f"llamacpp comes first, {both}")}
    assert chosen(FILE, WEIGHTS, order=("transformers", "llamacpp")) == {
        "qwen": ("transformers", f"transformers comes first, {both}"), "qwen-q4_k_m": ("llamacpp", ""),
    }  # fmt: skip
    assert chosen(FILE, WEIGHTS) == {"qwen": ("llamacpp", f"llamacpp is the default, {both}")}
    assert chosen(FILE, WEIGHTS, order=("embeddings",)) == {"qwen": ("llamacpp", f"llamacpp is the default, {both}")}


def test_the_file_keeps_its_own_names() -> None:
    (model,) = one_per_folder((FILE, WEIGHTS), lambda _name: (), lambda _engine: True)

    assert model.name == "qwen"
    assert model.aliases == ("qwen-q4_k_m", "qwen:q4_k_m")
    assert model.files == FILE.files


def test_who_is_not_installed_or_cannot_serve_it_is_passed_over_and_named() -> None:
    damaged = replace(FILE, problem="it is cut")
    pickled = replace(WEIGHTS, problem="its weights are pickled")

    without = chosen(FILE, WEIGHTS, order=("transformers",), without="transformers")
    of_damaged = chosen(damaged, WEIGHTS)
    of_pickled = chosen(FILE, pickled, order=("transformers",))
    of_neither = chosen(damaged, pickled)

    assert without == {"qwen": ("llamacpp", "transformers: it is not installed")}
    assert of_damaged["qwen"] == ("transformers", "llamacpp: it is cut")
    assert of_pickled == {"qwen": ("llamacpp", "transformers: its weights are pickled")}
    assert of_neither["qwen"][1] == "llamacpp: it is cut; transformers: its weights are pickled"


def test_of_several_files_the_largest_stands_for_the_folder() -> None:
    assert set(chosen(FILE, LARGER, WEIGHTS)) == {"qwen", "qwen-q4_k_m"}
    (largest,) = (one for one in one_per_folder((FILE, LARGER, WEIGHTS), lambda _n: ()) if one.name == "qwen")
    assert largest.files == LARGER.files


def test_files_of_other_folders_are_left_alone() -> None:
    assert chosen(ELSEWHERE, WEIGHTS) == {"other": ("llamacpp", ""), "qwen": ("transformers", "")}

"""Resolving names."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.errors import ModelFileError, ModelNotFound
from modelyard.models.catalog import Catalog
from modelyard.types.model import Model

MODELS = (
    Model(
        "qwen2.5-0.5b-instruct-q4_k_m", "llamacpp", aliases=("qwen2.5-0.5b-instruct:q4_k_m", "qwen2.5-0.5b-instruct")
    ),
    Model("phi", "llamacpp"),
    Model("org/llama-3b", "llamacpp"),
    Model("broken", "llamacpp", files=(Path("/models/broken.gguf"),), problem="it is cut"),
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("phi", "phi"),
        ("PHI", "phi"),
        ("phi:latest", "phi"),
        (" Phi:Latest ", "phi"),
        ("org/Llama-3B", "org/llama-3b"),
        ("Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b-instruct-q4_k_m"),
        ("qwen2.5-0.5b-instruct:q4_k_m", "qwen2.5-0.5b-instruct-q4_k_m"),
        ("default", "phi"),
        ("gpt-4o", "qwen2.5-0.5b-instruct-q4_k_m"),
        ("twice", "phi"),
    ],
)
def test_a_name_leads_to_its_model(text: str, name: str) -> None:
    catalog = Catalog(MODELS, {"Default": "phi", "gpt-4o": "Qwen2.5-0.5B-Instruct", "twice": "default"})

    assert catalog.resolve(text).name == name


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("phj", "phi"),
        ("llama", "org/llama-3b"),
        ("qwen2.5", "qwen2.5-0.5b-instruct-q4_k_m"),
        ("qwen2.5-0.5b-instruct:q8_0", "qwen2.5-0.5b-instruct-q4_k_m"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(text: str, near: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        Catalog(MODELS).resolve(text)

    assert caught.value.fields == {"model": text, "near": near}
    assert caught.value.suggestions[0] == f"Did you mean: {near}?"


@pytest.mark.parametrize("text", ["", "zzzzzzzz", "../../etc/passwd", "x" * 100_000, "\x00", "loop", "dangling"])
def test_a_name_like_no_other_is_not_found(text: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        Catalog(MODELS, {"loop": "pool", "pool": "loop", "dangling": "gone"}).resolve(text)

    assert "near" not in caught.value.fields
    assert len(str(caught.value)) < 400


def test_a_damaged_model_is_listed_and_not_served() -> None:
    catalog = Catalog(MODELS)

    assert "broken" in [model.name for model in catalog.list()]
    assert catalog.find("broken") is not None
    with pytest.raises(ModelFileError, match=r"/models/broken\.gguf is not a usable model file: it is cut"):
        catalog.resolve("broken")


def test_a_name_wins_over_an_alias_and_a_configured_alias_over_a_files() -> None:
    models = (Model("a", "e", aliases=("c", "d")), Model("b", "e"), Model("c", "e"))
    catalog = Catalog(models, {"b": "a", "d": "b"})

    assert [catalog.resolve(text).name for text in "abcd"] == ["a", "b", "c", "b"]
    assert catalog.aliases() == {"d": "b"}


def test_new_models_replace_the_old_ones_and_configured_aliases_stay() -> None:
    catalog = Catalog(MODELS, {"default": "phi"})

    catalog.replace([Model("phi", "llamacpp", size_bytes=7), Model("new", "llamacpp")])

    assert [model.name for model in catalog.list()] == ["new", "phi"]
    assert catalog.resolve("default").size_bytes == 7
    with pytest.raises(ModelNotFound):
        catalog.resolve("broken")


def test_a_large_catalog_answers_an_unknown_name_with_at_most_three() -> None:
    catalog = Catalog(Model(f"model-{number}", "e") for number in range(3000))

    with pytest.raises(ModelNotFound) as caught:
        catalog.resolve("model-1x")

    assert len(str(caught.value.fields["near"]).split(", ")) == 3

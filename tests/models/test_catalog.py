"""Resolving names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelyard.errors import ModelFileError, ModelNotFound
from modelyard.models.catalog import Catalog
from modelyard.types.model import Model, model_at

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


HERE = Model("llama3.1:8b", "llamacpp")
STUDIO = model_at("studio", "ollama", "llama3.1:8b")
LAPTOP = model_at("laptop", "ollama", "Llama3.1:8b")
CLOUD = model_at("cloud", "openai", "llama3.1:8b")


def fleet(**more: Any) -> Catalog:
    catalog = Catalog((HERE, Model("mine", "llamacpp")), **more)
    catalog.replace_node("studio", (STUDIO, model_at("studio", "ollama", "phi:latest")))
    catalog.replace_node("laptop", (LAPTOP,))
    catalog.replace_node("cloud", (CLOUD, model_at("cloud", "openai", "gpt-4o")))
    return catalog


def names(catalog: Catalog, text: str) -> list[str]:
    return [model.name for model in catalog.candidates(text).models]


def test_a_bare_name_leads_to_every_copy_in_the_order_of_kinds() -> None:
    assert names(fleet(), "LLAMA3.1:8b") == [
        "llama3.1:8b", "llama3.1:8b@laptop", "llama3.1:8b@studio", "llama3.1:8b@cloud",
    ]  # fmt: skip
    assert names(fleet(order=("openai",)), "llama3.1:8b")[0] == "llama3.1:8b@cloud"
    assert fleet().candidates("gpt-4o@cloud").name == "gpt-4o"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("llama3.1:8b@Studio", ["llama3.1:8b@studio"]),
        ("phi:latest@studio", ["phi@studio"]),
        ("ollama/llama3.1:8b", ["llama3.1:8b@laptop", "llama3.1:8b@studio"]),
        ("ollama_llama3.1:8b", ["llama3.1:8b@laptop", "llama3.1:8b@studio"]),
        ("openai/llama3.1:8b", ["llama3.1:8b@cloud"]),
        ("openai_gpt-4o", ["gpt-4o@cloud"]),
        ("local/mine", ["mine"]),
        ("ollama/llama3.1:8b@studio", ["llama3.1:8b@studio"]),
    ],
)
def test_a_name_can_say_which_copies_it_means(text: str, expected: list[str]) -> None:
    assert names(fleet(), text) == expected


@pytest.mark.parametrize("text", ["openai/mine", "local/gpt-4o", "mine@studio", "llama3.1:8b@nowhere", "ollama/", "@"])
def test_a_name_that_no_copy_has_is_unknown_and_never_answered_by_another(text: str) -> None:
    with pytest.raises(ModelNotFound):
        fleet().candidates(text)


def test_an_exact_name_wins_over_reading_a_prefix() -> None:
    catalog = fleet()
    catalog.replace((HERE, Model("ollama/phi", "llamacpp")))

    assert names(catalog, "ollama/phi") == ["ollama/phi"]


def test_an_alias_may_mean_one_of_several() -> None:
    catalog = fleet(aliases={"fast": ("warm", ("mine", "gpt-4o")), "big": ("first", ("ollama/llama3.1:8b", "nobody")),
                             "both": "fast", "round": ("warm", ("round",))})  # fmt: skip

    assert (catalog.candidates("both").pick, names(catalog, "both")) == ("warm", ["mine", "gpt-4o@cloud"])
    assert (catalog.candidates("big").pick, names(catalog, "big")) == (
        "first", ["llama3.1:8b@laptop", "llama3.1:8b@studio"],
    )  # fmt: skip
    with pytest.raises(ModelNotFound):
        catalog.candidates("round")


def test_a_damaged_copy_does_not_hide_the_others() -> None:
    catalog = fleet()
    catalog.replace((replace(HERE, problem="cut"),))

    assert "llama3.1:8b" not in names(catalog, "llama3.1:8b")
    with pytest.raises(ModelFileError):
        catalog.candidates("local/llama3.1:8b")


def test_a_node_that_is_forgotten_takes_its_copies_along() -> None:
    catalog = fleet()

    assert catalog.replace_node("cloud", ())
    assert not catalog.replace_node("cloud", ())
    with pytest.raises(ModelNotFound):
        catalog.candidates("gpt-4o")

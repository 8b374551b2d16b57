"""Settings about choice, prompts and stand-ins: what each may be, and where a wrong one stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.config.load import Origin
from modelyard.wiring.names import engine_order, prompt_limits
from tests.config.test_load import load, refusal


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("[prompts]\nmax_input_tokens = 0\n", 2, "greater than or equal to 16"),
        ("[prompts]\nmax_input_tokens = -5\n", 2, "greater than or equal to 16"),
        ('[prompts]\nmax_input_tokens = "many"\n', 2, "valid integer"),
        ("[prompts]\nmax_message_tokens = 1.5\n", 2, "valid integer"),
        ('[prompts]\ntrim = "perhaps"\n', 2, "valid boolean"),
        ('[guards]\ndeny = ["a b"]\n', 2, "a phrase has 3 to 500 characters"),
        ('[guards]\ndeny = ["  "]\n', 2, "a phrase has 3 to 500 characters"),
        ('[guards]\nhook = "os; rm"\n', 2, "match pattern"),
        ("[guards]\nhook_s = 0\n", 2, "greater than 0"),
        ('[guards]\non_failure = "shrug"\n', 2, "'refuse' or 'pass'"),
        ('[models]\nengines = ["vllm"]\n', 2, "'llamacpp'"),
        ('[models.options."big"]\n\nmax_input_tokens = 3\n', 3, "greater than or equal to 16"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    (tmp_path / "modelyard.toml").write_text(text)

    error = str(refusal(tmp_path))

    assert error.startswith(f"{tmp_path / 'modelyard.toml'}:{line}: ")
    assert says in error


@pytest.mark.parametrize(
    ("ladders", "circle"),
    [
        ({"a": "a"}, "a → a"),
        ({"a": "B", "b": "A"}, "a → b → a"),
        ({"a": "b", "b": "c", "c": "b"}, "b → c → b"),
        ({"a": "nick", "b": "job"}, "a → b → a"),
    ],
)
def test_models_that_stand_in_for_each_other_in_a_circle_are_refused(
    tmp_path: Path, ladders: dict[str, str], circle: str
) -> None:
    tables = [f'[models.options."{name}"]\nladder = ["n_batch=64", "model={to}"]\n' for name, to in ladders.items()]
    (tmp_path / "modelyard.toml").write_text("".join(tables) + '[models.aliases]\nnick = "b"\n[roles]\njob = "a"\n')

    error = str(refusal(tmp_path))

    line = 2 * (list(ladders).index(circle[0]) + 1)
    assert error.startswith(f"{tmp_path / 'modelyard.toml'}:{line}: models.options.{circle[0]}.ladder: ")
    assert error.endswith(f"in a circle: {circle}")


def test_one_stand_in_for_all_is_no_circle(tmp_path: Path) -> None:
    (tmp_path / "modelyard.toml").write_text(
        '[models.launch]\nladder = ["model=small"]\n[models.options.a]\nladder = ["model=b", "model=small"]\n'
        '[models.options.b]\nladder = ["model=small"]\n'
    )

    assert load(tmp_path).settings.models.options_for("a").stand_ins == ("b", "small")


def test_engines_are_those_of_the_model_else_of_all_and_the_only_one_comes_first(tmp_path: Path) -> None:
    (tmp_path / "modelyard.toml").write_text(
        '[models]\nengines = ["transformers"]\n[models.options.a]\nengines = ["llama.cpp", "transformers"]\n'
    )
    given, only = load(tmp_path).settings, load(tmp_path, {"MODEL_BACKEND": "transformers"}).settings

    assert engine_order(given, "other") == ("transformers",)
    assert engine_order(given, "A") == ("llamacpp", "transformers")
    assert engine_order(only, "a")[0] == "transformers"


@pytest.mark.parametrize("value", ["0", "-1", "lots", "1e3", "9999999999999"])
def test_a_variable_that_makes_no_sense_is_named(tmp_path: Path, value: str) -> None:
    assert str(refusal(tmp_path, {"MAX_INPUT_TOKENS": value})).startswith(
        "MAX_INPUT_TOKENS: prompts.max_input_tokens: "
    )


def test_limits_of_prompts_are_those_of_the_model_else_of_its_name_else_of_all(tmp_path: Path) -> None:
    (tmp_path / "modelyard.toml").write_text(
        "[prompts]\nmax_input_tokens = 100\ntrim = true\n[models.options.big]\nmax_input_tokens = 50\ntrim = false\n"
        '[models.options."big@studio"]\nmax_message_tokens = 40\n'
    )
    loaded = load(tmp_path)

    limits = [prompt_limits(loaded.settings, name) for name in ("other", "Big", "big@attic", "big@studio")]

    assert [(one.max_input_tokens, one.trim) for one in limits] == [(100, True), (50, False), (50, False), (100, True)]
    assert [one.max_message_tokens for one in limits] == [None, None, None, 40]
    assert loaded.origin(("models", "options", "big", "trim")) == Origin("file", f"{tmp_path / 'modelyard.toml'}:6")

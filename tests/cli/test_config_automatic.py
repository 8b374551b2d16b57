"""`modelyard config` tells what this machine chooses where nobody has, and why; whoever sets a value overrides it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelyard.config.load import Flag
from modelyard.engines.hardware import read_hardware
from tests.cli.conftest import run
from tests.config.test_load import load

AUTOMATIC = ("context_length", "slots", "threads", "n_gpu_layers", "kv_type", "prompt_cache_bytes")


def told() -> dict[str, dict[str, Any]]:
    result = run("config", "-o", "json")
    assert result.exit_code == 0, result.output
    return {row["name"]: row for row in json.loads(result.stdout)["settings"]}


def test_what_nobody_has_set_is_told_with_the_value_of_this_machine_and_its_reason() -> None:
    rows, plain = told(), run("config").stdout

    for name in AUTOMATIC:
        row = rows[f"models.launch.{name}"]
        assert (row["value"], row["source"]) == (None, "default")
        assert row["automatic"]["reason"]
    assert rows["models.launch.threads"]["automatic"]["value"] == read_hardware().cores
    line = next(line for line in plain.splitlines() if line.startswith("models.launch.kv_type"))
    assert line.split() == ["models.launch.kv_type", '"f16"', "automatic:", "exact"]
    assert "automatic" not in rows["server.port"]


def test_what_somebody_has_set_is_that_with_where_it_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("modelyard.toml").write_text("[models.launch]\nslots = 3\n")
    monkeypatch.setenv("MODELYARD_MODELS__LAUNCH__THREADS", "1")

    rows = told()

    slots, threads = rows["models.launch.slots"], rows["models.launch.threads"]
    assert (slots["value"], slots["source"]) == (3, "file")
    assert (threads["value"], threads["source"], threads["detail"]) == (
        1, "environment", "MODELYARD_MODELS__LAUNCH__THREADS",
    )  # fmt: skip
    assert "automatic" not in slots
    assert "automatic" not in threads


@pytest.mark.parametrize(
    ("name", "given", "means"),
    [("context_length", "2048", 2048), ("slots", "3", 3), ("threads", "1", 1), ("n_batch", "64", 64),
     ("n_gpu_layers", "0", 0), ("kv_type", "q8_0", "q8_0"), ("prompt_cache_bytes", "16MiB", 16 * 1024**2)],
)  # fmt: skip
def test_each_launch_value_may_come_from_a_file_the_environment_or_a_flag(
    tmp_path: Path, name: str, given: str, means: object
) -> None:
    variable = {f"MODELYARD_MODELS__OPTIONS__BIG__{name.upper()}": given}
    flag = Flag(("models", "options", "big", name), given, f"--set models.options.big.{name}")
    by_variable, by_flag = load(tmp_path, variable), load(tmp_path, {}, flag)
    written = given if given.isdecimal() else f'"{given}"'
    (tmp_path / "modelyard.toml").write_text(f"[models.options.big]\n{name} = {written}\n")
    by_file = load(tmp_path)

    for loaded, source in ((by_variable, "environment"), (by_flag, "flag"), (by_file, "file")):
        assert getattr(loaded.settings.models.options_for("big"), name) == means
        assert loaded.origin(("models", "options", "big", name)).source == source

"""Several models asked the same: at once or in turn, compared in every form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelyard.cli.columns import side_by_side
from modelyard.cli.compare.fits import fits_together
from modelyard.cli.widths import width
from modelyard.client.replies import ModelEntry
from modelyard.types.memory import DeviceReading
from modelyard.types.status import DeviceStatus, NodeStatus
from tests.cli.conftest import run
from tests.cli.served import real_server

GIB = 1024**3
CONFIG = """
[models]
builtin = false
[models.echo.a]
reply_tokens = 3
[models.echo.b]
reply_tokens = 4
[models.echo.large]
footprint_bytes = "900GiB"
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with real_server(tmp_path_factory.mktemp("comparing"), CONFIG) as address:
        yield address


@pytest.fixture(autouse=True)
def _here(url: str, _fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_URL", url)


def test_models_that_fit_together_are_asked_at_once_and_compared() -> None:
    result = run("compare", "a", "b", "-p", "hi", "-o", "json")

    rows = {one["model"]: one for one in json.loads(result.stdout)["answers"]}
    assert result.exit_code == 0, result.stderr
    assert "at the same time" in result.stderr
    assert [(rows[name]["tokens"], rows[name]["complete"]) for name in "ab"] == [(3, True), (4, True)]
    assert all(rows[name]["memory_bytes"] > 0 for name in "ab")


def test_in_turn_each_answer_comes_under_its_name() -> None:
    result = run("compare", "a", "b", "-p", "hi", "--in-turn")

    assert result.exit_code == 0
    assert result.stdout.index("\na\n") < result.stdout.index("\nb\n")
    assert "TOKENS/S" in result.stdout


def test_one_that_fails_is_shown_and_counts() -> None:
    result = run("compare", "a", "large", "-p", "hi", "-o", "json")

    rows = {one["model"]: one for one in json.loads(result.stdout)["answers"]}
    assert result.exit_code == 8
    assert "one after the other" in result.stderr
    assert (rows["a"]["complete"], rows["large"]["finish"]) == (True, "insufficient_memory")


@pytest.mark.parametrize(("models", "code"), [(("a", "none"), 5), (("a",), 1), (("a", "a"), 1)])
def test_what_cannot_be_compared_is_refused_before_anything_is_asked(models: tuple[str, ...], code: int) -> None:
    result = run("compare", *models, "-p", "hi")

    assert result.exit_code == code
    assert result.stdout == ""


def _entry(name: str, **needed: int) -> ModelEntry:
    return ModelEntry(name, details={"footprint": {"bytes": needed}})


def test_what_fits_is_counted_per_device_beside_what_is_there() -> None:
    reading = DeviceReading("ram", "RAM", 8 * GIB, 8 * GIB)
    status = NodeStatus("", 0, True, False, (DeviceStatus(reading, 0, 8 * GIB, 0, 0, free_bytes=4 * GIB),))

    assert fits_together([_entry("a", ram=2 * GIB), _entry("b", ram=2 * GIB)], status) is True
    assert fits_together([_entry("a", ram=2 * GIB), _entry("b", ram=3 * GIB)], status) is False
    assert fits_together([_entry("a", gpu0=1)], status) is False
    assert fits_together([_entry("a"), ModelEntry("elsewhere")], status) is None


def test_answers_side_by_side_keep_to_their_columns() -> None:
    text = side_by_side(["a", "模型"], ["one two " * 20, "中文" * 40], 80)

    lines = text.splitlines()
    assert all(width(line) <= 80 for line in lines)
    assert {width(line.split("│")[0]) for line in lines} == {38}
    assert text.count("two") == 20
    assert text.count("中") == 40


def test_a_picture_of_the_server_is_printed_where_nobody_watches() -> None:
    run("load", "a")
    result = run("top")

    assert "In memory" in result.stdout
    assert any(line.split()[0] == "a" for line in result.stdout.splitlines() if line.strip())
    assert "█" in result.stdout


def test_the_picture_has_a_form_for_machines() -> None:
    assert json.loads(run("top", "-o", "json").stdout)["devices"]


def test_docs_name_the_flags(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "terminal.md").read_text()

    assert all(words in page for words in ("modelyard compare", "modelyard top", "modelyard completion"))

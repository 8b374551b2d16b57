"""The command line against the server it belongs to, each as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.cli.conftest import run, start, typed_terminal

Value = TypeVar("Value")
DEADLINE_S = 60.0
CONFIG = """
[server]
port = 0
[models]
builtin = false
default = "quick"
[models.echo.quick]
[models.echo.slow]
tokens_per_s = 20
reply_tokens = 10000
[models.echo.gradual]
load_s = 2
prefill_tokens_per_s = 150
[models.echo.huge]
footprint_bytes = "900GiB"
[models.echo.dead]
fail_load = "no such tensor"
"""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    folder = tmp_path_factory.mktemp("serving")
    (folder / "modelyard.toml").write_text(CONFIG)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")}
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "modelyard.cli", "serve"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, text=True)
    try:
        yield eventually(lambda: _address(folder / "log")), process
    finally:
        process.terminate()
        assert process.wait(DEADLINE_S) == 128 + signal.SIGTERM


@pytest.fixture(autouse=True)
def _url(serving: tuple[str, subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch, _fresh: None) -> None:
    monkeypatch.setenv("MODELYARD_URL", serving[0])


def _address(log: Path) -> str:
    found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
    return found[0] if found else ""


def eventually(question: Callable[[], Value]) -> Value:
    deadline = time.monotonic() + DEADLINE_S
    while not (answer := question()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return answer


def requests() -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(run("ps", "-o", "json").stdout)["requests"]
    return found


def test_a_question_is_answered_and_the_model_is_then_in_memory() -> None:
    answer = run("ask", "-m", "quick", "--max-tokens", "3", "hi")
    residents = json.loads(run("ps", "-o", "json").stdout)["residents"]

    assert answer.exit_code == 0, answer.stderr
    assert len(answer.stdout.split()) == 3
    assert "quick" in [one["model"] for one in residents]


def test_ctrl_c_leaves_no_work_behind() -> None:
    process = start("ask", "-m", "slow", "hi")
    eventually(requests)
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 100)

    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 130
    assert b"incomplete" in err
    assert eventually(lambda: not requests())


def test_a_chat_says_what_fits_finds_near_names_and_tells_who_answered() -> None:
    result = run("chat", "slow", text="/model\n/model quik\n/model quick\n/set parameter num_predict 3\nhi\n/why\n")

    assert re.search(r"huge  never: .* more than ram has", result.stderr)
    assert "Did you mean: quick?" in result.stderr
    assert len(result.stdout.split()) == 3
    assert "the node: local" in result.stderr


def test_a_picture_for_a_model_that_sees_none_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;")

    result = run("chat", "quick", text=f"/set parameter num_predict 3\n/image {tmp_path / 'a.gif'}\nwhat?\nhi\n")

    assert "quick cannot do this: images" in result.stderr
    assert len(result.stdout.split()) == 3


def test_what_never_fits_is_6_with_the_numbers() -> None:
    result = run("ask", "-m", "huge", "hi")

    assert result.exit_code == 6
    assert "900.0 GiB" in result.stderr


def test_a_model_that_does_not_load_says_why() -> None:
    result = run("ask", "-m", "dead", "hi")
    shown = run("show", "dead")

    assert result.exit_code == 1
    assert "no such tensor" in result.stderr
    assert "no such tensor" in shown.stdout


def test_loading_and_unloading() -> None:
    assert run("load", "quick").exit_code == 0
    assert run("unload", "quick").exit_code == 0
    again = run("unload", "quick")

    assert again.exit_code == 0
    assert "was not in memory" in again.stderr


def test_models_have_the_states_that_people_see() -> None:
    listed = json.loads(run("list", "-o", "json").stdout)["models"]

    assert {one["name"] for one in listed} == {"quick", "slow", "gradual", "huge", "dead"}
    assert run("show", "nothing-like-it").exit_code == 5


def test_whoever_watches_sees_how_far_the_load_and_the_prompt_are_in_a_narrow_window_too() -> None:
    run("unload", "gradual")
    question = " ".join(["word"] * 400)
    with typed_terminal("ask", "-m", "gradual", question, columns=60) as terminal:
        terminal.wait_for("the model is loading")
        terminal.wait_for("%")
        terminal.wait_for("reading the prompt")
        terminal.wait_for("%")
        assert terminal.exit_code() == 0

    with typed_terminal("ask", "-m", "gradual", question, columns=20) as terminal:
        assert terminal.exit_code() == 0
        drawn = re.findall(r"\r\x1b\[K(?:\x1b\[2m)?([^\x1b\r]*)", terminal.seen)
    assert any(line.startswith("reading the prompt") for line in drawn)
    assert all(len(line) < 20 for line in drawn[:-1])  # the last is followed by the answer


def test_a_tour_of_our_own_server_leaves_pinned_and_busy_models_where_they_are() -> None:
    run("pin", "quick")
    run("load", "quick")
    talking = start("ask", "-m", "slow", "hi")
    try:
        eventually(lambda: [one for one in requests() if one["phase"] == "generating"])
        result = run("tour", "--models", "quick,huge", "-o", "json")
        residents = {one["model"] for one in json.loads(run("ps", "-o", "json").stdout)["residents"]}
    finally:
        talking.send_signal(signal.SIGINT)
        talking.communicate(timeout=DEADLINE_S)
        run("pin", "--off", "quick")

    rows = {one["model"]: one for one in json.loads(result.stdout)["models"]}
    assert "Modelyard at" in result.stderr
    assert "quick is pinned and stays" in result.stderr
    assert "slow is still in use" in result.stderr
    assert residents >= {"quick", "slow"}
    assert (rows["quick"]["outcome"], rows["huge"]["outcome"]) == ("ok", "out_of_memory")
    assert result.exit_code == 8

"""Shells complete commands, options and the server's models; and help shows examples first."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from modelyard.cli.main import COMMANDS, cli
from tests.cli.conftest import run
from tests.client.yard_server import YardServer


def completed(words: str, shell: str = "bash") -> list[str]:
    """What a shell is told for a line that ends with the cursor."""
    asked = words.split(" ")
    environment = {**os.environ, "_MODELYARD_COMPLETE": f"{shell}_complete", "COMP_WORDS": words}
    environment["COMP_CWORD"] = asked[-1] if shell == "fish" else str(len(asked) - 1)
    found = subprocess.run(
        [sys.executable, "-c", "from modelyard.cli.main import main; main()"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.stderr == ""
    return found.stdout.split()


def test_commands_and_options_are_completed() -> None:
    assert completed("modelyard com") == ["plain,compare", "plain,completion"]
    assert "plain,--no-chat" in completed("modelyard tour --no")


@pytest.mark.parametrize(
    "words", ["modelyard chat go", "modelyard ask -m go", "modelyard show go", "modelyard compare go"]
)
def test_models_are_completed_from_the_server(server: YardServer, words: str) -> None:
    assert "plain,good" in completed(words)


def test_without_a_server_there_is_nothing_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_URL", "http://10.255.255.1:9")  # an address where nobody answers, not even no
    began = time.monotonic()

    assert completed("modelyard chat a") == []
    assert time.monotonic() - began < 10


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_itself_completes(server: YardServer, tmp_path: Path) -> None:
    script = run("completion", "bash").stdout
    program = tmp_path / "modelyard"
    start = "from modelyard.cli.main import main; main()"
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{start}'\n")
    program.chmod(0o755)
    line = 'COMP_WORDS=(modelyard chat go); COMP_CWORD=2; _modelyard_completion modelyard; echo "${COMPREPLY[@]}"'
    found = subprocess.run(
        ["bash", "-c", f"{script}\n{line}"], env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert found.stdout.split() == ["good"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(shell: str) -> None:
    assert f"{shell}_complete" in run("completion", shell).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example_and_a_line_for_every_option(name: str) -> None:
    words = run(name, "--help").stdout
    command = cli.get_command(click.Context(cli), name)
    assert command is not None

    assert f"modelyard {name}" in words.split("Options")[0].split("\n", 1)[1]
    assert all(param.help for param in command.params if isinstance(param, click.Option)), name

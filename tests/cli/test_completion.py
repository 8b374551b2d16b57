"""Shells complete commands, options and the server's models; and help shows examples first."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from modelyard.cli.main import COMMANDS, cli
from tests.cli.conftest import run
from tests.client.yard_server import YardServer
from tests.support.packages import has_program

SHELL_S = 60.0


def completed(words: str, shell: str = "bash") -> list[str]:
    """What a shell is told for a line that ends with the cursor."""
    asked = words.split(" ")
    environment = {**os.environ, "_MODELYARD_COMPLETE": f"{shell}_complete", "COMP_WORDS": words}
    environment["COMP_CWORD"] = asked[-1] if shell == "fish" else str(len(asked) - 1)
    found = subprocess.run(
        [sys.executable, "-c", "from modelyard.cli.main import main; main()"],
        env=environment, capture_output=True, text=True, check=False, timeout=20,
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


def test_without_a_server_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_URL", "http://127.0.0.1:9")

    assert completed("modelyard chat a") == []


def test_a_server_that_never_answers_does_not_hold_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MODELYARD_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")

        assert completed("modelyard chat a") == []  # else it ends by the test's deadline, or the client's


class Shell:
    """A shell at a real terminal, in which `modelyard` is this one."""

    def __init__(self, words: list[str], folder: Path) -> None:
        self.seen = ""
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", PATH=f"{folder}:{os.environ['PATH']}", ZDOTDIR=str(folder), PS1="$ ")
            os.execvp(words[0], words)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, pattern: str) -> None:
        deadline = time.monotonic() + SHELL_S
        while re.search(pattern, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|[\r\x07\x08]", "", self.seen)) is None:
            assert time.monotonic() < deadline, f"never saw {pattern!r}; saw {self.seen!r}"
            if select.select([self._fd], [], [], 0.2)[0]:
                self.seen += os.read(self._fd, 65536).decode(errors="replace")

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder with `modelyard` in it, as an installation puts it into the path."""
    start = "from modelyard.cli.main import main; main()"
    written = tmp_path / "modelyard"
    written.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{start}' \"$@\"\n")
    written.chmod(0o755)
    return tmp_path


@pytest.fixture
def tags(server: YardServer, monkeypatch: pytest.MonkeyPatch) -> YardServer:
    """The server with two models whose names differ behind a colon only."""
    monkeypatch.setattr("tests.client.yard_server.MODELS", [{"id": "llama3:8b"}, {"id": "llama3:70b"}, {"id": "good"}])
    return server


@pytest.mark.parametrize(("shell", "words"), [("bash", ["bash", "--norc", "-i"]), ("zsh", ["zsh", "-i"])])
def test_the_shell_itself_completes_names_with_colons(
    tags: YardServer, program: Path, shell: str, words: list[str]
) -> None:
    if not has_program(shell):
        pytest.skip(f"there is no {shell} here")
    script = program / "script"
    script.write_text(run("completion", shell).stdout)
    (program / ".zshrc").write_text("")
    terminal = Shell(words, program)
    try:
        terminal.type(f"source {script}; echo read''y\n")
        terminal.wait_for("ready")
        terminal.type("modelyard comple\t")
        terminal.wait_for("modelyard completion")
        terminal.type("\x15")
        terminal.type("modelyard chat lla\t8\t")
        terminal.wait_for("modelyard chat llama3:8b")
        terminal.type("\x15")
        terminal.type("modelyard ask -m go\t")
        terminal.wait_for("modelyard ask -m good")
    finally:
        terminal.close()


def test_fish_itself_completes_names_with_colons(tags: YardServer, program: Path) -> None:
    if not has_program("fish"):
        pytest.skip("there is no fish here")
    asked = "complete -C 'modelyard comple'; complete -C 'modelyard chat llama3:7'; complete -C 'modelyard ask -m go'"
    told = subprocess.run(
        ["fish", "-c", f"set PATH {program} $PATH\n{run('completion', 'fish').stdout}\n{asked}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert [line.split("\t")[0] for line in told.stdout.splitlines()] == ["completion", "llama3:70b", "good"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("modelyard chat llama3:", ["8b", "70b"]),  # readline's word begins after the colon
        ("modelyard ask --model=llama3:7", ["70b"]),
        ("modelyard ask 'two words' -m llama3:8", ["8b"]),
        ("modelyard nodes w", ["weight"]),
        ("modelyard ask --sch", ["--schema"]),
        ("modelyard ask -m nothing", []),
    ],
)
def test_bash_is_told_what_follows_the_cursor(tags: YardServer, program: Path, line: str, found: list[str]) -> None:
    asked = f'COMP_LINE="$1"; COMP_POINT=${{#1}}; _modelyard_completion {program}/modelyard; echo "${{COMPREPLY[@]}}"'
    told = subprocess.run(
        ["bash", "--norc", "-c", f"{run('completion', 'bash').stdout}\n{asked}", "bash", line],
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert told.stdout.split() == found
    assert told.stderr == ""


def every_command() -> Iterator[str]:
    """All of them, with the commands in commands."""
    for name in COMMANDS:
        yield name
        command = cli.get_command(click.Context(cli), name)
        if isinstance(command, click.Group):
            yield from (f"{name} {inner}" for inner in command.commands)


@pytest.mark.parametrize("name", list(every_command()))
def test_help_shows_an_example_before_the_options_and_a_line_for_every_option(name: str) -> None:
    words = run(*name.split(), "--help").stdout
    command: click.Command | None = cli
    for part in name.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), part)
    assert command is not None

    assert re.search(rf"^    .*\bmodelyard {name}\b", words.split("Options:")[0], re.MULTILINE)
    assert all(param.help for param in command.params if isinstance(param, click.Option)), name


def test_help_is_a_command_too() -> None:
    assert run("help", "chat").stdout == run("chat", "--help").stdout
    assert run("help", "nodes", "weight").stdout == run("nodes", "weight", "--help").stdout
    assert run("help").stdout == run("--help").stdout
    assert run("help").exit_code == 0
    assert "no command chatt" in run("help", "chatt").stderr

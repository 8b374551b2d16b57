"""What a script can tell: exit codes, and which stream says what."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from modelyard.errors import YardError
from tests.cli.conftest import run, start
from tests.client.yard_server import DEADLINE_S, YardServer, yard_server


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("ask", "-m", "good", "hi"), 0),
        (("ask", "-m", "cut", "hi"), 1),
        (("ask", "-m", "broken", "hi"), 1),
        (("ask",), 2),
        (("ask", "--nonsense"), 2),
        (("nonsense",), 2),
        (("ask", "-m", "absent", "hi"), 5),
        (("load", "absent"), 5),
        (("show", "absent"), 5),
        (("chat", "absent"), 5),
        (("ask", "-m", "full", "hi"), 6),
        (("ps", "--url", "ftp://x"), 3),
    ],
)
def test_the_exit_code_says_what_kind_of_thing_happened(words: tuple[str, ...], code: int) -> None:
    assert run(*words).exit_code == code


def test_no_server_is_4_and_the_way_out_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    result = run("ps", "--url", f"127.0.0.1:{port}")

    assert result.exit_code == 4
    assert "modelyard serve" in result.stderr
    assert result.stdout == ""


def test_a_missing_or_wrong_key_is_9(monkeypatch: pytest.MonkeyPatch) -> None:
    with yard_server(key="right-key-0123456789") as closed:
        without = run("list", "--url", closed.url)
        monkeypatch.setenv("MODELYARD_KEY", "right-key-0123456789")
        with_key = run("list", "--url", closed.url)

    assert (without.exit_code, with_key.exit_code) == (9, 0)


def test_a_wrong_configuration_is_3_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "modelyard.toml").write_text("[server]\nprot = 1\n")

    result = run("config", "check")

    assert result.exit_code == 3
    assert "modelyard.toml:2" in result.stderr
    assert "server.port" in result.stderr


def test_a_command_that_is_nearly_right_is_suggested() -> None:
    assert "Did you mean list?" in run("lits").stderr


def test_a_failure_nobody_foresaw_has_no_traceback_without_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("modelyard.config.settings.load_settings", fail)

    quiet, loud = run("config"), run("--debug", "config")

    assert quiet.exit_code == 1
    assert "--debug" in quiet.stderr
    assert isinstance(loud.exception, ZeroDivisionError)


def test_a_known_failure_shows_its_origin_with_debug() -> None:
    assert isinstance(run("--debug", "serve", "--set", "keys.x=1").exception, YardError)


def test_ctrl_c_is_130_stops_the_work_and_marks_the_answer(server: YardServer) -> None:
    process = start("ask", "-m", "slow", "hi")
    assert server.speaking.wait(DEADLINE_S)
    assert process.stdout is not None
    first = os.read(process.stdout.fileno(), 100)

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 130
    assert (first + out).decode() == "one\u2028 \n"
    assert b"(the answer is incomplete)" in err
    assert b"Traceback" not in err
    assert server.left.wait(DEADLINE_S)


def test_a_closed_pipe_is_141_without_a_word(server: YardServer) -> None:
    process = start("list", "-o", "json")
    assert process.stdout is not None
    process.stdout.close()

    assert process.wait(DEADLINE_S) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_help_imports_nothing_heavy() -> None:
    probe = (
        "import sys\nfrom modelyard.cli.main import cli\n"
        "try: cli(['--help'])\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )

    told = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=DEADLINE_S)

    heavy = {"rich", "httpx2", "pydantic", "prompt_toolkit", "yaml", "msgspec", "asyncio", "starlette", "xllamacpp"}
    assert not heavy & set(told.stderr.split())
    assert "serve" in told.stdout

"""A server for the commands, and a runner that sees no settings of whoever runs the tests."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner, Result

from modelyard.cli.main import cli
from tests.client.yard_server import DEADLINE_S, YardServer, yard_server

EMPTY: Mapping[str, str] = {}
TOLD = {"LANG", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}


@pytest.fixture(scope="session")
def server() -> Iterator[YardServer]:
    with yard_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("MODELYARD_", "LC_", "XDG_")) or name in TOLD]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    structlog.reset_defaults()  # a command starts without logs; tests that caught some leave them set up
    if "server" in request.fixturenames:
        running = request.getfixturevalue("server")
        running.left.clear()
        running.speaking.clear()
        running.seen.clear()
        monkeypatch.setenv("MODELYARD_URL", running.url)


def run(*words: str, text: str | None = None) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(cli, words, input=text)


def start(*words: str) -> subprocess.Popen[bytes]:
    """Run a command as a process of its own."""
    command = [sys.executable, "-m", "modelyard.cli", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, bufsize=0)


class TypedTerminal:
    """A command with a real terminal on all three streams."""

    def __init__(self, words: Sequence[str], columns: int = 0, environment: Mapping[str, str] = EMPTY) -> None:
        self.seen = ""
        self.before = ""  # what stood before the text that was waited for last
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            termios.tcsetwinsize(0, (24, columns))
            # Not what C has for the environment: readline, where it is imported, puts COLUMNS there.
            given = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **environment}
            os.execve(sys.executable, [sys.executable, "-m", "modelyard.cli", *words], given)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Read until a text has been shown, and forget what came before it."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.seen:
            assert time.monotonic() < deadline, f"never saw {text!r}; saw {self.seen!r}"
            self._read(0.2)
        self.before, _text, self.seen = self.seen.partition(text)

    def exit_code(self) -> int:
        """Read to the end and return how the command ended."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read(0.2):
            assert time.monotonic() < deadline, f"never ended; saw {self.seen!r}"
        _pid, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def _read(self, wait_s: float) -> bool:
        if select.select([self._fd], [], [], wait_s)[0]:
            try:
                piece = os.read(self._fd, 65536)
            except OSError:  # how Linux says that nobody holds the other end
                return False
            self.seen += piece.decode(errors="replace")
            return bool(piece)
        return True


@contextmanager
def typed_terminal(*words: str, columns: int = 0, environment: Mapping[str, str] = EMPTY) -> Iterator[TypedTerminal]:
    terminal = TypedTerminal(words, columns, environment)
    try:
        yield terminal
    finally:
        terminal.close()

"""A real terminal for tests: tmux on a socket of its own, keys sent, the screen read back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEADLINE_S = 60.0


class Screen:
    """One window."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def tmux(self, *words: str) -> str:
        command = ["tmux", "-S", str(self._socket), "-f", "/dev/null", "-u", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=_environment()).stdout

    def keys(self, *names: str) -> None:
        """Keys by their names in tmux, such as `C-c` and `Enter`."""
        self.tmux("send-keys", "-t", "t", *names)

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-t", "t", "-l", text)

    def paste(self, text: str) -> None:
        """As from a clipboard, marked as pasted."""
        self.tmux("set-buffer", "-b", "p", text)
        self.tmux("paste-buffer", "-p", "-d", "-b", "p", "-t", "t")

    def resize(self, columns: int, rows: int) -> None:
        self.tmux("resize-window", "-t", "t", "-x", str(columns), "-y", str(rows))

    def text(self) -> str:
        """Everything the screen has shown and shows. Lines that were too wide are whole again."""
        return self.tmux("capture-pane", "-p", "-J", "-S", "-", "-t", "t").rstrip()

    def wait_for(self, text: str, count: int = 1) -> str:
        """The screen, once it shows the text so often."""
        deadline = time.monotonic() + DEADLINE_S
        while (shown := self.text()).count(text) < count:
            assert time.monotonic() < deadline, f"never saw {text!r} {count} times:\n{shown}"
            time.sleep(0.05)
        return shown


@contextmanager
def screen(folder: Path, *words: str, columns: int = 100, rows: int = 50, **variables: str) -> Iterator[Screen]:
    """A window in which `modelyard` runs with these words; when it has ended, its exit code stands there."""
    program = "from modelyard.cli.main import main; main()"
    quoted = " ".join(f"'{word}'" for word in words)
    script = folder / "command.sh"
    exports = "".join(f"export {name}='{value}'\n" for name, value in {"LANG": "C.UTF-8", **variables}.items())
    script.write_text(
        f"trap : INT\n{exports}{sys.executable} -c '{program}' {quoted}\necho \"exit code $?\"\nexec sleep 600\n"
    )
    window = Screen(folder / "tmux.sock")
    window.tmux("new-session", "-d", "-s", "t", "-x", str(columns), "-y", str(rows), f"sh {script}")
    try:
        yield window
    finally:
        window.tmux("kill-server")


def same(text: str) -> str:
    """A transcript in which what differs from run to run reads the same."""
    text = re.sub(r"http://127\.0\.0\.1:\d+", "http://HOST", text)
    text = re.sub(r"\d+(?:\.\d+)? (?:ms|毫秒)|\d+\.\d+ (?:s|秒)", "TIME", text)
    text = re.sub(r" · \d+ s", " · N s", text)
    return re.sub(r"[ \t]+", " ", re.sub(r" +$", "", text, flags=re.MULTILINE))


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "LANG": "C.UTF-8", "TERM": "xterm-256color"}

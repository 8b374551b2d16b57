"""The tutorial's commands are run, in its order, and print what it says.

`MODELYARD_RECORD=1` writes what they print into the page.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.cli.served import real_server

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
RECORDS = "MODELYARD_RECORD" in os.environ
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND_S_MAX = 120


def steps(block: str) -> list[tuple[str, str]]:
    """Commands, each with the output below it."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def same(text: str) -> str:
    """What differs from run to run and machine to machine reads the same."""
    text = re.sub(r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:11435", text)
    text = re.sub(r"\b(?:req|cli)-[0-9a-f]{8,}", "REQUEST", text)
    text = re.sub(r"Modelyard is .*", "ANSWER", text)  # sampled: its words may differ
    text = re.sub(r"^.*: others are .*\n", "", text, flags=re.MULTILINE)  # whatever else runs on the machine
    text = re.sub(r"\b(?:\d+|an?) \w+ ago|yesterday", "N ago", text)
    text = re.sub(r"\b\d+[\d.,]* ?(?:ms|MiB|GiB|KiB|s|%)(?= |$|,|\)|·|;|\.)", "N", text, flags=re.MULTILINE)
    text = re.sub(r"\d+m(?:\d+s)?|\b\d+[hd] ago|\b\d+[.,]\d+\b", "N", text)
    text = re.sub(r"[█▓▒░]+", "BAR", text)
    return re.sub(r"[ \t]+", " ", text).strip()


def test_every_command_of_the_tutorial_prints_what_it_says(tmp_path: Path) -> None:
    start = "from modelyard.cli.main import main; main()"
    program = tmp_path / "bin" / "modelyard"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{start}' \"$@\"\n")
    program.chmod(0o755)
    (tmp_path / "python3").symlink_to(sys.executable)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MODELYARD_", "LC_", "OLLAMA_"))}
    path = f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    page = PAGE.read_text()
    with real_server(tmp_path, "") as url:
        environment = {
            **kept,
            "PATH": path,
            "HOME": str(tmp_path),
            "LANG": "C.UTF-8",
            "COLUMNS": "120",
            "MODELYARD_URL": url,
        }

        def shown(command: str) -> str:
            found = subprocess.run(
                ["sh", "-c", command], env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, timeout=COMMAND_S_MAX,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
            return found.stdout.replace(url, "http://127.0.0.1:11435")

        ran = {command: (output, shown(command)) for block in BLOCK.findall(page) for command, output in steps(block)}
    if RECORDS:
        PAGE.write_text(BLOCK.sub(lambda block: _recorded(block[1], ran), page))
        return

    assert len(ran) >= 10
    for command, (written, real) in ran.items():
        assert same(real) == same(written), command


def _recorded(block: str, ran: dict[str, tuple[str, str]]) -> str:
    lines = [f"$ {command}\n{ran[command][1].rstrip()}\n" for command, _output in steps(block)]
    return "```console\n" + "\n".join(line.rstrip("\n") + "\n" for line in lines) + "```"

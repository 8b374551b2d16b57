"""The examples run as they stand, against a running server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelyard.config.load import CLIENT_VARIABLES, PREFIX
from modelyard.config.settings import load_settings
from tests.support.node import Server, clean_environment, serving
from tests.support.pages import ROOT, frames

EXAMPLES = ROOT / "examples"
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving({"memory": {"gpus": False}, "models": {"echo": {"crasher": {"crash_after_tokens": 2}}}}) as started:
        yield started


def run(server: Server, *words: str, model: str = "yardling", status: int = 0) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(server.folder, {"MODELYARD_URL": server.url, "MODEL": model, "LANG": "C.UTF-8"})
    done = subprocess.run(words, check=False, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == status, done.stderr
    return done


def test_every_example_has_its_test() -> None:
    text = Path(__file__).read_text()

    assert all(path.name in text for path in EXAMPLES.iterdir() if path.is_file())


def test_a_question_is_answered(server: Server) -> None:
    done = run(server, sys.executable, str(EXAMPLES / "openai_chat.py"), "Hello")

    assert done.stdout.strip()
    assert done.stderr == ""


def test_an_answer_is_streamed_and_counted(server: Server) -> None:
    done = run(server, sys.executable, str(EXAMPLES / "openai_stream.py"), "Hello")

    assert done.stdout.strip()
    assert re.search(r"\(\d+ tokens\)", done.stderr)


def test_a_stream_that_breaks_off_is_an_error(server: Server) -> None:
    done = run(server, sys.executable, str(EXAMPLES / "openai_stream.py"), "Hello", model="crasher", status=1)

    assert done.stdout.count(":") == 2
    assert "ended unexpectedly" in done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_gets_a_list_a_chat_a_stream_a_status_and_a_receipt(server: Server) -> None:
    done = run(server, "sh", str(EXAMPLES / "curl.sh"))

    assert [line for line in done.stdout.splitlines() if line.startswith("# ")] == [
        "# every model", "# a chat", "# the same as a stream", "# what is in memory", "# out of memory, with a receipt",
    ]  # fmt: skip
    assert frames(done.stdout)[-1] == "[DONE]"
    assert '"action":"unload","model":"yardling"' in done.stdout


def test_the_example_configuration_is_valid_with_and_without_its_comments(tmp_path: Path) -> None:
    text = (EXAMPLES / "modelyard.example.toml").read_text()
    whole = re.sub(r"^# (?=\[\[keys\]\]|id =|secret =|rights =|host =|allowed_hosts =)", "", text, flags=re.MULTILINE)
    secret = tmp_path / "prometheus"
    secret.write_text("a-key-of-prometheus-itself\n")
    secret.chmod(0o600)
    whole = whole.replace("/run/secrets/prometheus", str(secret))

    for number, variant in enumerate((text, whole)):
        path = tmp_path / f"{number}.toml"
        path.write_text(variant)
        loaded = load_settings(
            config_file=path, environment={"LAPTOP_KEY": "a-key-of-the-laptop-alone"}, folder=tmp_path
        )
        assert loaded.settings.models.default == "small"
        assert len(loaded.settings.keys) == len(tomllib.loads(variant).get("keys", []))


def test_the_example_environment_names_settings_that_exist(tmp_path: Path) -> None:
    text = (ROOT / ".env.example").read_text()
    lines = re.findall(r"^# (MODELYARD_\w+=.*)$", text, re.MULTILINE)
    (tmp_path / ".env").write_text("\n".join(lines))

    loaded = load_settings(environment={}, folder=tmp_path)

    assert len(lines) == 5
    assert loaded.settings.memory.ram_limit_bytes == 12 * 1024**3
    for line in lines:
        name = line.partition("=")[0].removeprefix(PREFIX)
        assert "__" in name or name in CLIENT_VARIABLES

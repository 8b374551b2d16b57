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

from modelyard import client
from modelyard.config.load import CLIENT_VARIABLES, PREFIX
from modelyard.config.settings import load_settings
from tests.client.ollama_script import plain, scripted, stream
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


def test_the_ollama_library_asks_an_ollama_server(tmp_path: Path) -> None:
    texts = [{"response": text, "done": text == ""} for text in ("one ", "two", "")]
    missing = plain({"error": 'model "no-such-model" not found, try pulling it first'}, status=404)
    with scripted(
        version=plain({"version": "0.9"}),
        tags=plain({"models": [{"name": "small:latest"}]}),
        generate=[plain({"response": "Hello.", "done": True}), stream(*texts), missing],
        chat=plain({"message": {"role": "assistant", "content": "Goodbye."}, "done": True}),
        pull=stream(
            {"status": "pulling manifest"},
            {"status": "pulling 8eeb", "total": 8, "completed": 4},
            {"status": "pulling 8eeb", "total": 0},
            {"status": "success"},
        ),
    ) as ollama:
        environment = clean_environment(
            tmp_path, {"OLLAMA_BASE_URL": ollama.url, "OLLAMA_DEFAULT_MODEL": "small", "LANG": "C.UTF-8"}
        )
        words = [sys.executable, "-m", "examples.ollama_example"]  # ollama_example.py
        done = subprocess.run(
            words, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE_S
        )

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:6] == [
        "# basics", "well: True", "models: small:latest", "answer: Hello.", "chat: Goodbye.", "# context_manager",
    ]  # fmt: skip
    assert lines[6:8] == ["streamed: one two", "# errors"]
    assert lines[8].startswith(f"not found: {ollama.url} has no model named no-such-model.")
    assert lines[9].startswith("not reached: http://127.0.0.1:9 cannot be reached: ")
    assert lines[10:] == [
        "# pull", "pull: pulling manifest", "pull: pulling 8eeb 50%", "pull: pulling 8eeb 50%", "pull: success",
    ]  # fmt: skip


async def test_the_ollama_library_asks_this_server_just_as_well(server: Server) -> None:
    async with client.OllamaService(server.url) as service:
        assert await service.health_check()
        assert "yardling:latest" in [model["name"] for model in await service.list_models()]
        assert "Modelyard" in await service.generate("yardling", "What is Modelyard?", temperature=0)
        async with await service.generate("yardling", "Hello", stream=True) as pieces:
            assert "".join([text async for text in pieces])
        answer = await service.chat("yardling", [{"role": "user", "content": "Hello"}])
        assert answer["message"]["content"]
        assert (await service.show_model("yardling"))["details"]["format"] == "gguf"
        await service.load("yardling")
        assert [model["name"] for model in await service.ps()] == ["yardling:latest"]
        await service.unload("yardling")
        with pytest.raises(client.OllamaModelNotFoundError):
            await service.generate("no-such-model", "Hello")
        with pytest.raises(client.OllamaServiceError):
            async with await service.generate("crasher", "Hello", stream=True) as pieces:
                _ = [text async for text in pieces]


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

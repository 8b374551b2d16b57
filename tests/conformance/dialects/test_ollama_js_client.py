"""The JavaScript clients of Ollama and OpenAI against a running server: nothing about them is adapted to us."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.api.data_plane import data_plane
from tests.providers.fake_worker import until
from tests.support.node import DEADLINE_S, Server, ready, short_folder, start_server, stopped

from .test_silence import ODD, STEPS

SCRIPT = Path(__file__).with_name("javascript_clients.mjs")
Check = Callable[[str], Any]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    scripts = {"echo": {}, "endless": {"reply_tokens": 100_000, "tokens_per_s": 50}}
    with ExitStack() as stack:
        config = {"memory": {"gpus": False}, "models": {"echo": scripts}}
        started = start_server(stack.enter_context(short_folder()), config)
        try:
            yield asyncio.run(ready(started))
        finally:
            asyncio.run(stopped(started))


@pytest.fixture
def check(packages: Path, server: Server) -> Check:
    def run(name: str) -> Any:
        command = ["node", str(SCRIPT), str(packages), server.url, name]
        done = subprocess.run(command, capture_output=True, check=False, timeout=DEADLINE_S)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_ollama_chats_whole_and_streamed(check: Check) -> None:
    said = check("ollamaChat")

    assert said["whole"]
    assert said["text"] == said["whole"]
    assert said["ends"] == ["stop"]
    assert said["evalCount"] > 0


def test_ollama_generates_whole_and_streamed(check: Check) -> None:
    said = check("ollamaGenerate")

    assert said["whole"]
    assert said["text"] == said["whole"]


def test_ollama_calls_tools_and_takes_their_results(check: Check) -> None:
    said = check("ollamaTools")

    assert [call["function"]["name"] for call in said["calls"]] == ["get_weather"]
    assert said["calls"][0]["function"]["arguments"]["city"]
    assert said["done"]


def test_ollama_gets_json_by_a_schema(check: Check) -> None:
    assert set(check("ollamaFormat")) == {"name"}


def test_ollama_lists_shows_loads_and_unloads(check: Check) -> None:
    said = check("ollamaModels")

    assert {"yardling:latest", "echo:latest"} <= set(said["listed"])
    assert said["format"] == "gguf"
    assert "echo:latest" in said["running"]
    assert said["acts"] == ["load", "unload"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", said["version"])


@pytest.mark.parametrize("name", ["ollamaSilence", "openaiSilence"])
async def test_silence_and_odd_text_are_read_through(packages: Path, name: str) -> None:
    async with data_plane(lambda _body: STEPS, keepalive_s=0.01) as plane:
        plane.residency.gate = asyncio.Event()
        asking = await asyncio.create_subprocess_exec(
            "node", str(SCRIPT), str(packages), f"http://127.0.0.1:{plane.port}", name, stdout=asyncio.subprocess.PIPE
        )
        await until(lambda: plane.residency.waiting == 1, "it waits")
        await asyncio.sleep(0.2)  # the silence itself: twenty keep-alives
        plane.residency.gate.set()
        said = json.loads((await asking.communicate())[0].splitlines()[-1])

        assert said["text"] == ODD + "."
        assert said.get("empty", 1) > 0
        await plane.settled(ok=1)


def test_ollamas_errors_have_their_status_and_text(check: Check) -> None:
    chat, stream, number, embed, delete, push = check("ollamaErrors")

    assert chat == stream
    assert chat["status"] == 404
    assert "not found, try pulling it first" in chat["message"]
    assert number["status"] == 400
    assert "temperature" in number["message"]
    assert (embed["status"], delete["status"], push["status"]) == (400, 404, 501)


def test_ollama_can_stop_a_stream(check: Check) -> None:
    stopped = check("ollamaAbort")

    assert stopped["name"] == "AbortError"
    assert 2 <= stopped["count"] < 20, "what had come already in the same piece may still be told"


def test_openai_chats_whole_and_streamed(check: Check) -> None:
    said = check("openaiChat")

    assert said["whole"]
    assert said["text"] == said["whole"]
    assert said["usage"]["completion_tokens"] > 0


def test_openai_calls_tools(check: Check) -> None:
    (call,) = check("openaiTools")

    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"])["city"]


def test_openai_lists_models(check: Check) -> None:
    said = check("openaiModels")

    assert "yardling" in said["listed"]
    assert said["one"] == "modelyard"


def test_openais_errors_are_typed(check: Check) -> None:
    unknown, number, embed = check("openaiErrors")

    assert (unknown["status"], unknown["code"]) == (404, "model_not_found")
    assert (number["status"], number["code"]) == (400, "invalid_value")
    assert (embed["status"], embed["code"]) == (400, "unsupported_capability")

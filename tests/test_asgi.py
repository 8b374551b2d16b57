"""The server as an app that others run: with uvicorn's command line, and in a test client."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from modelyard import compose, compose_minimal
from modelyard.asgi import NodeApp, app, minimal
from modelyard.config.load import Flag
from modelyard.config.settings import load_settings
from modelyard.node import Wiring
from tests.support.gguf_files import write_tiny_llama
from tests.support.node import clean_environment, client, free_port, short_folder, until

FOLDER = "Qwen2.5-0.5B-Instruct-GGUF"


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        models = path / "models" / FOLDER
        models.mkdir(parents=True)
        write_tiny_llama(models / "qwen2.5-0.5b-instruct-q4_k_m.gguf", name="Qwen2.5 0.5B Instruct")
        yield path


BOTH = pytest.mark.parametrize("wiring", [compose.running_node, compose_minimal.running_node], ids=["app", "minimal"])


def node_app(folder: Path, wiring: Wiring = compose.running_node) -> NodeApp:
    flags = [
        Flag(("models", "folders"), [str(folder / "models")], "--models"),
        Flag(("memory", "gpus"), "false", "--set"),
    ]
    return NodeApp(load_settings(flags, environment=clean_environment(folder), folder=folder), wiring)


@BOTH
def test_it_runs_in_a_test_client(folder: Path, wiring: Wiring) -> None:
    with TestClient(node_app(folder, wiring)) as http:
        assert http.get("/health").json() == {"status": "ok", "ready": True}
        details = http.get("/health/detailed")
        listed = http.get("/v1/models")

        assert details.status_code == 200
        assert "models" in details.json()
        ids = [model["id"] for model in listed.json()["data"]]
        assert any(id.startswith("qwen") and id == id.lower() for id in ids)

        answer = http.post(
            "/v1/chat/completions",
            json={"model": FOLDER, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 3},
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 3
    assert not list((folder / "run" / "modelyard").iterdir())


def test_without_a_lifespan_it_says_what_is_missing(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="lifespan"):
        TestClient(node_app(folder)).get("/health")


def test_what_prevents_the_start_is_told(folder: Path) -> None:
    (folder / "run").chmod(0o755)
    (folder / "run" / "modelyard").write_text("not a folder")

    with pytest.raises(FileExistsError), TestClient(node_app(folder)):
        pass


@pytest.mark.parametrize("name", ["app", "minimal"])
async def test_it_runs_under_uvicorn(folder: Path, name: str) -> None:
    port = free_port()
    further = {"MODEL_PATH": str(folder / "models"), "MODELYARD_MEMORY__GPUS": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "uvicorn", "--factory", f"modelyard.asgi:{name}", "--port", str(port)],
            env=clean_environment(folder, further), cwd=folder, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        async with client() as session:

            async def is_up() -> bool:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    async with session.get(f"http://127.0.0.1:{port}/health") as response:
                        return response.status == 200
                except OSError:
                    return False

            await until(is_up, "it answers")
            async with session.get(f"http://127.0.0.1:{port}/v1/models") as response:
                ids = [model["id"] for model in (await response.json())["data"]]
        assert any(id.startswith("qwen") and id == id.lower() for id in ids)
    finally:
        process.terminate()
        code = await asyncio.to_thread(process.wait, 60)
    assert code in (0, -15, 143)
    events = [json.loads(line)["event"] for line in (folder / "log").read_text().splitlines() if line.startswith("{")]
    assert events[-2:] == ["node.started", "node.draining"]


@pytest.mark.parametrize("factory", [app, minimal])
def test_the_factory_reads_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch, factory: Callable[[], NodeApp]
) -> None:
    monkeypatch.chdir(folder)
    for name in list(os.environ):
        if name.startswith(("MODEL", "XDG")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MODELYARD_SERVER__PORT", "-1")

    with pytest.raises(Exception, match="MODELYARD_SERVER__PORT"):
        factory()

"""One model by its path, as other servers' users start them: it is served, it is the default, and why so is shown."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modelyard import demo
from tests.support.node import (
    Server,
    ask,
    chat_body,
    clean_environment,
    client,
    fetch,
    ready,
    resident,
    running,
    short_folder,
    start_server,
    stopped,
    until,
)

SMALL: dict[str, Any] = {"context_length": 512, "slots": 1, "prompt_cache_bytes": 0}
CONFIG: dict[str, Any] = {"memory": {"gpus": False}, "models": {"launch": SMALL}}


def modelyard(server: Server, *arguments: str, **environment: str) -> str:
    """What a command says."""
    return subprocess.run(
        [sys.executable, "-m", "modelyard.cli", *arguments], capture_output=True, text=True, check=True,
        cwd=server.folder, env=clean_environment(server.folder, {"MODELYARD_URL": server.url, **environment}),
    ).stdout  # fmt: skip


def both_formats(folder: Path) -> Path:
    """A folder as on Hugging Face with a GGUF file in it."""
    folder = folder / "Tiny"
    shutil.copytree(Path(str(demo.gguf_path())).with_name("yardling-hf"), folder)
    shutil.copy(demo.gguf_path(), folder / "tiny-f16.gguf")
    return folder


async def test_a_file_is_served_beside_the_folders_and_answers_who_names_none() -> None:
    with short_folder() as outside:
        path = outside / "One.gguf"
        shutil.copy(demo.gguf_path(), path)
        (outside / "models").mkdir()
        shutil.copy(demo.gguf_path(), outside / "models" / "another.gguf")
        config = {**CONFIG, "models": {**CONFIG["models"], "folders": [str(outside / "models")]}}
        async with running(config, environment={"MODEL_PATH": str(path)}) as server, client() as session:
            body = chat_body("", max_tokens=2)
            del body["model"]
            async with session.post(f"{server.url}/v1/chat/completions", json=body) as answer:
                status, model = answer.status, answer.headers["x-modelyard-model"]
            listed = await fetch(session, server, "/v1/models")
            shown = modelyard(server, "config", "--changed", MODEL_PATH=str(path))
            told = server.text()

    assert (status, model) == (200, "one")
    assert {one["id"] for one in listed["data"]} == {"one", "another", "yardling"}
    line = next(line for line in shown.splitlines() if line.startswith("models.path"))
    assert line.split() == ["models.path", f'"{path}"', "environment", "MODEL_PATH"]
    assert '"model": "one"' in told  # what to type, as the server says at its start


async def test_who_names_none_is_told_so_where_the_one_model_cannot_be_served() -> None:
    with short_folder() as outside:
        path = both_formats(outside)
        (path / "tiny-f16.gguf").unlink()
        (path / "model.safetensors").unlink()
        async with running(CONFIG, environment={"MODEL_PATH": str(path)}) as server, client() as session:
            body = chat_body("", max_tokens=2)
            del body["model"]
            async with session.post(f"{server.url}/v1/chat/completions", json=body) as answer:
                status, error = answer.status, (await answer.json())["error"]
            named = await ask(session, server, "Tiny", max_tokens=2)
            (warning,) = (event for event in server.log_events() if event["event"] == "config.path_is_not_one_model")

    assert (status, error["param"], error["code"]) == (400, "model", "invalid_value")
    assert (warning["problem"], warning["models"]) == ("there are no weights", [])
    assert named.error is not None
    assert named.error["message"] == "tiny cannot be served: there are no weights"
    assert named.headers["x-should-retry"] == "false"


async def test_a_folder_with_two_formats_is_one_model_and_says_which_engine_and_why() -> None:
    with short_folder() as outside:
        path = both_formats(outside)
        async with running(CONFIG, environment={"MODEL_PATH": str(path), "MODEL_BACKEND": "llama.cpp"}) as server:
            async with client() as session:
                answer = await ask(session, server, "Tiny", max_tokens=2)
                by_file = await ask(session, server, "tiny-f16", max_tokens=2)
                listed = await fetch(session, server, "/v1/models")
            shown = modelyard(server, "show", "tiny")

    assert (answer.status, by_file.status) == (200, 200)
    assert {one["id"] for one in listed["data"]} == {"tiny", "yardling"}
    engine = next(line for line in shown.splitlines() if line.split()[:1] == ["engine"])
    assert engine.split(maxsplit=2)[1:] == ["llamacpp", "(llamacpp comes first, and the folder has both formats)"]
    for name in ("context_length", "slots", "threads", "n_batch", "n_gpu_layers", "kv_type"):
        assert any(line.split()[:1] == [name] and "(" in line for line in shown.splitlines()), shown


async def test_the_other_engine_serves_it_where_it_is_the_only_one() -> None:
    with short_folder() as outside:
        given = {"MODEL_PATH": str(both_formats(outside)), "MODEL_BACKEND": "transformers"}
        async with running(CONFIG, environment=given) as server, client() as session:
            listed = await fetch(session, server, "/v1/models")
            one = await fetch(session, server, "/v1/models/tiny")

    assert {model["id"] for model in listed["data"]} == {"tiny", "yardling"}
    assert one["modelyard"]["engine"] == "transformers"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"MODEL_PATH": "/nowhere/model.gguf"},
            "MODEL_PATH: models.path: there is no file or folder /nowhere/model.gguf",
        ),
        ({"MODEL_BACKEND": "vllm-but-faster"}, "MODEL_BACKEND: models.engine: "),
        ({"MODEL_UNLOAD_ENABLED": "sometimes"}, "MODEL_UNLOAD_ENABLED: residency.unload_enabled: "),
        ({"MAX_INPUT_TOKENS": "-1"}, "MAX_INPUT_TOKENS: prompts.max_input_tokens: "),
    ],
)
async def test_what_makes_no_sense_is_told_at_the_start_by_name(given: dict[str, str], says: str) -> None:
    with short_folder() as folder:
        server = start_server(folder, CONFIG, environment=given)
        await until(lambda: server.process.poll() is not None, "it ends")
        told = server.text()

    assert server.process.returncode == 3
    assert says in told


async def test_idle_unloading_is_switched_on_while_the_server_runs() -> None:
    config = {**CONFIG, "residency": {"idle_ttl_s": 0.2}}
    with short_folder() as folder:
        (folder / ".env").write_text("MODEL_UNLOAD_ENABLED=0\n")
        server = start_server(folder, config)
        try:
            await ready(server)
            async with client() as session:
                assert (await ask(session, server, "yardling", max_tokens=2)).status == 200
                there = await resident(session, server, "yardling")
                (folder / ".env").write_text("MODEL_UNLOAD_ENABLED=1\n")

                async def gone() -> bool:
                    return await resident(session, server, "yardling") is None

                await until(gone, "it is unloaded")
        finally:
            await stopped(server)

    assert there is not None
    assert there["expires_in_s"] is None

"""`modelyard serve --minimal`: one model, chat and health, behind the same door as the whole server."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from modelyard.compose_minimal import only_model
from modelyard.config.load import Flag
from modelyard.config.settings import load_settings
from modelyard.engines.echo import echo_model
from modelyard.errors import ConfigError, ModelNotFound, YardError
from modelyard.models.store import Store
from modelyard.types.model import Model
from modelyard.wiring.parts import scan_models
from tests.support.gguf_files import write_tiny_llama
from tests.support.node import (
    Server,
    ask,
    clean_environment,
    client,
    echo,
    fetch,
    running,
    serving,
    short_folder,
    tagged,
    until,
)
from tests.support.safetensors_files import MINILM, MINILM_TENSORS, QWEN, QWEN_TENSORS, write_folder

MEMORY_BYTES_MAX = 70_000_000  # 60 MB are promised and measured by the bench; here with room for other systems
KEY, READER_KEY = "canary-key-0123456789", "reader-key-0123456789"
CONFIG = {
    **echo(only={}),
    "keys": [
        {"id": "me", "secret": "env:MY_KEY"},
        {"id": "reader", "secret": "env:READER_KEY", "rights": ["read"]},
    ],
    "limits": {"concurrent_max": 100},
    "nodes": [{"name": "other", "kind": "ollama", "url": "http://127.0.0.1:9"}],
}
AS_ME = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(CONFIG, "--minimal", environment={"MY_KEY": KEY, "READER_KEY": READER_KEY}) as running_server:
        yield running_server


async def test_a_chat_is_answered_whole_and_streamed(server: Server) -> None:
    async with client() as session:
        headers = {**AS_ME, "x-request-id": "mine"}
        whole = await ask(session, server, "only", headers=headers)
        streamed = await ask(
            session, server, "only", headers=headers, stream=True, stream_options={"include_usage": True}
        )

    assert whole.json["choices"][0]["message"]["content"] == streamed.text == tagged("mine", 16)
    assert streamed.done
    assert streamed.finish == "stop"
    assert streamed.frames[-1]["usage"] == whole.json["usage"]


async def test_who_names_no_model_is_answered_by_the_only_one(server: Server) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    async with client() as session:
        answer = await fetch(session, server, "/v1/chat/completions", "POST", json=body, headers=AS_ME)

    assert answer["model"] == "only"


async def test_it_lists_its_model_and_is_healthy(server: Server) -> None:
    async with client() as session:
        listed = await fetch(session, server, "/v1/models", headers=AS_ME)
        one = await fetch(session, server, "/v1/models/only", headers=AS_ME)
        health = await fetch(session, server, "/health")
        details = await fetch(session, server, "/health/detailed", headers=AS_ME)
        memory = await fetch(session, server, "/health/memory", headers=AS_ME)
        async with session.get(f"{server.url}/readyz") as ready, session.get(f"{server.url}/livez") as alive:
            assert (ready.status, alive.status) == (200, 200)

    assert [model["id"] for model in listed["data"]] == [one["id"]] == ["only"]
    assert health == {"status": "ok", "ready": True}
    assert [model["id"] for model in details["models"]] == ["only"]
    assert [device["reading"]["kind"] for device in memory["devices"]] == ["ram"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/admin/status"),
        ("POST", "/admin/models/only/unload"), ("POST", "/v1/embeddings"), ("POST", "/v1/completions"),
        ("POST", "/api/chat"), ("GET", "/api/tags"), ("POST", "/api/v1/llm/chat"),
    ],
)  # fmt: skip
async def test_what_it_leaves_out_does_not_exist(server: Server, method: str, path: str) -> None:
    async with (
        client() as session,
        session.request(method, server.url + path, headers=AS_ME) as known,
        session.request(method, server.url + path) as stranger,
    ):
        assert known.status == 404
        assert stranger.status == 401, "who has no key does not even learn that"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "invalid_api_key"),
        ({"Authorization": "Bearer wrong-key-0123456789"}, 401, "invalid_api_key"),
        ({"Authorization": f"Bearer {READER_KEY}"}, 403, "permission_denied"),
        ({**AS_ME, "Host": "evil.example"}, 403, "host_not_allowed"),
        ({**AS_ME, "Origin": "https://evil.example"}, 403, "origin_not_allowed"),
    ],
)
async def test_the_door_is_that_of_the_whole_server(
    server: Server, headers: dict[str, str], status: int, code: str
) -> None:
    async with client() as session:
        answer = await ask(session, server, "only", headers=headers)

    assert answer.status == status
    assert answer.error is not None
    assert answer.error["code"] == code
    assert answer.error["request_id"] == answer.headers["x-request-id"]


async def test_another_model_is_not_found_and_the_only_one_is_named(server: Server) -> None:
    async with client() as session:
        answer = await ask(session, server, "onlyy", headers=AS_ME)

    assert answer.status == 404
    assert "only" in str(answer.error)


async def test_its_own_memory_is_small(server: Server) -> None:
    async with client() as session:
        await ask(session, server, "only", headers=AS_ME)

    assert psutil.Process(server.process.pid).memory_info().rss <= MEMORY_BYTES_MAX


async def test_what_the_configuration_says_in_vain_is_told(server: Server) -> None:
    server.signal(signal.SIGHUP)

    await until(lambda: "config.not_watched" in server.text(), "it says that it does not read again")
    (told,) = (event for event in server.log_events() if event["event"] == "config.not_used")
    assert told["names"] == ["nodes"]
    assert server.process.poll() is None


@pytest.mark.parametrize("way_in", ["logs, serving, compose_minimal", "asgi, compose_minimal"])
def test_neither_heavy_libraries_nor_traceback_printers_are_imported(way_in: str) -> None:
    probe = f"import sys, json; from modelyard import {way_in}; print(json.dumps([*sys.modules]))"
    loaded = {name.partition(".")[0] for name in json.loads(subprocess.check_output([sys.executable, "-c", probe]))}

    absent = {"fastapi", "prometheus_client", "pynvml", "aiohttp", "httpx2", "rich", "pygments", "attr", "xllamacpp"}
    assert not loaded & absent


async def test_a_file_is_served_by_its_path_and_stops_in_order() -> None:
    with short_folder() as folder:
        file = folder / "tiny.gguf"
        write_tiny_llama(file, name="Tiny")
        async with (
            running({"memory": {"gpus": False}}, "--minimal", "--model", str(file)) as server,
            client() as session,
        ):
            (listed,) = (await fetch(session, server, "/v1/models"))["data"]
            answer = await ask(session, server, listed["id"], max_tokens=3)
            assert answer.json["usage"]["completion_tokens"] == 3
        assert server.process.returncode == 128 + signal.SIGTERM
        assert not server.workers()


def test_several_models_are_a_question_back() -> None:
    with short_folder() as folder:
        said = refused(folder, echo(red={}, blue={}), "--minimal")

    assert said.returncode == 3
    assert "blue, red" in said.stderr
    assert "--model NAME" in said.stderr


def test_a_model_is_named_only_for_a_minimal_server() -> None:
    with short_folder() as folder:
        said = refused(folder, {}, "--model", "red")

    assert said.returncode == 2
    assert "--minimal" in said.stderr


def refused(folder: Path, config: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "modelyard.json").write_text(json.dumps({"server": {"port": 0}, **config}))
    return subprocess.run(
        [sys.executable, "-m", "modelyard.cli", "serve", *arguments], cwd=folder, env=clean_environment(folder),
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def chosen(folder: Path, *names: str, default: str | None = None) -> Model:
    flags = [Flag(("models", "default"), default, "--model")] if default else []
    settings = load_settings(flags, environment={"HOME": str(folder)}, folder=folder).settings
    return only_model(settings, [echo_model(name) for name in names])


def test_the_model_is_the_named_one_else_the_only_one_else_the_built_in_one(tmp_path: Path) -> None:
    assert chosen(tmp_path, "red", "blue", "yardling", default="Blue").name == "blue"
    assert chosen(tmp_path, "red", "yardling").name == "red"
    assert chosen(tmp_path, "yardling").name == "yardling"


@pytest.mark.parametrize(
    ("names", "default", "error"),
    [((), None, ConfigError), (("red", "blue"), None, ConfigError), (("red",), "green", ModelNotFound)],
)
def test_without_one_it_does_not_start(
    tmp_path: Path, names: tuple[str, ...], default: str | None, error: type[YardError]
) -> None:
    with pytest.raises(error):
        chosen(tmp_path, *names, default=default)


def at_path(folder: Path, home: Path, **environment: str) -> Model:
    """What a minimal server would serve that is started on a folder, beside the built-in model."""
    given = {"HOME": str(home), "MODEL_PATH": str(folder), **environment}
    settings = load_settings(environment=given, folder=home).settings
    return only_model(settings, scan_models(settings, Store(home / "store")))


def coded(folder: Path) -> None:
    write_folder(folder, {**QWEN, "auto_map": {"AutoModel": "m.M"}}, QWEN_TENSORS)


def pickled(folder: Path) -> None:
    (write_folder(folder, QWEN, {}) / "model.safetensors").rename(folder / "pytorch_model.bin")


def weightless(folder: Path) -> None:
    (write_folder(folder, QWEN, {}) / "model.safetensors").unlink()


def embedding(folder: Path) -> None:
    write_folder(folder, MINILM, MINILM_TENSORS)


@pytest.mark.parametrize(
    ("make", "environment", "problem"),
    [
        (coded, {}, "it needs program code of its own (auto_map), which is not run"),
        (pickled, {}, "its weights are pickled, which may run code when read; convert them to safetensors"),
        (weightless, {}, "there are no weights"),
        (embedding, {}, "it cannot chat"),
        (Path.mkdir, {}, "no engine here serves it"),
        (embedding, {"MODEL_BACKEND": "llamacpp"}, "no engine here serves it"),
    ],
)
def test_a_folder_that_cannot_be_served_is_never_replaced_by_another_model(
    make: Callable[[Path], None], environment: dict[str, str], problem: str, tmp_path: Path
) -> None:
    make(tmp_path / "mine")

    with pytest.raises(ConfigError) as caught:
        at_path(tmp_path / "mine", tmp_path, **environment)

    assert str(caught.value) == f"models.path: {tmp_path / 'mine'} cannot be served: {problem}"


def test_of_a_folder_with_several_models_the_one_that_chats_is_served(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "tiny.gguf")
    embedding(tmp_path / "vectors")
    coded(tmp_path / "coded")

    assert at_path(tmp_path, tmp_path).name == "tiny"


async def test_many_at_once_are_answered_by_one_worker(server: Server) -> None:
    async def one(session: aiohttp.ClientSession, name: str) -> str:
        return (await ask(session, server, "only", headers={**AS_ME, "x-request-id": name}, stream=True)).text

    names = [f"many-{number}" for number in range(12)]
    async with client() as session:
        answers = await asyncio.gather(*(one(session, name) for name in names))

    assert answers == [tagged(name, 16) for name in names]
    assert len(server.workers()) == 1

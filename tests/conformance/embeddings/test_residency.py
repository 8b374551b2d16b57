"""Models that embed in memory: loaded on first use, counted, so many at a time; their vectors kept and forgotten."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.minilm import write_minilm_gguf
from tests.support.node import Server, serving, short_folder, until

NAMES = ("one", "two", "three")
CONFIG = {"memory": {"gpus": False}, "embeddings": {"resident_max": 2, "idle_ttl_s": 600}}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        first = write_minilm_gguf(folder / "one.gguf")
        for name in NAMES[1:]:
            (folder / f"{name}.gguf").hardlink_to(first)
        yield folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving({**CONFIG, "models": {"folders": [str(folder)]}}) as server:
        yield server


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=120) as client:
        yield client


def embed(http: httpx2.Client, model: str, text: str) -> httpx2.Response:
    answer = http.post("/v1/embeddings", json={"model": model, "input": text})
    assert answer.status_code == 200, answer.text
    return answer


def residents(http: httpx2.Client) -> dict[str, dict[str, Any]]:
    return {one["model"]: one for one in http.get("/admin/status").json()["residents"] if one["state"] == "resident"}


def sample(http: httpx2.Client, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)


def test_so_many_are_in_memory_and_the_one_not_used_for_longest_leaves(http: httpx2.Client) -> None:
    embed(http, "one", "first")
    assert 500 < residents(http)["one"]["expires_in_s"] <= 600
    embed(http, "two", "first")
    embed(http, "one", "second")
    embed(http, "three", "first")

    assert residents(http).keys() == {"one", "three"}
    assert http.get("/health/detailed").json()["embedding_models_count"] == 2
    assert sample(http, 'modelyard_resident_models{kind="embedding"}') == 2
    assert sample(http, 'modelyard_resident_models{kind="chat"}') == 0
    assert sample(http, 'modelyard_model_load_seconds_count{kind="embedding"}') == 3
    assert sample(http, 'modelyard_requests_total{code="ok",finish_reason="",model="one"') >= 2


def test_a_repeated_input_is_answered_from_memory_to_the_digit_until_its_files_change(
    http: httpx2.Client, folder: Path
) -> None:
    first, again = embed(http, "one", "again"), embed(http, "one", "again")
    before = http.get("/health/detailed").json()["vector_cache"]

    assert first.json() == again.json()
    assert first.headers["x-modelyard-route"] == "only"
    assert (again.headers["x-modelyard-route"], again.headers["x-modelyard-node"]) == ("cache", "local")
    assert before["hits"] >= 1
    assert 0 < before["bytes"] <= before["bytes_max"]
    assert sample(http, 'modelyard_vector_cache_hits_total{model="one"}') >= 1

    changed = folder / "changed"
    shutil.copyfile(folder / "one.gguf", changed)
    changed.replace(folder / "one.gguf")
    assert http.post("/admin/models/rescan").status_code == 200
    after = http.get("/health/detailed").json()["vector_cache"]

    assert after["entries"] < before["entries"]
    assert embed(http, "one", "again").headers["x-modelyard-route"] == "only"


def test_a_model_is_found_by_a_scan_while_the_server_runs(http: httpx2.Client, server: Server, folder: Path) -> None:
    (folder / "new.gguf").hardlink_to(folder / "two.gguf")
    (folder / "broken.gguf").write_bytes(b"GGUF")
    listed = http.post("/admin/models/rescan").json()["models"]
    (folder / "newer.gguf").hardlink_to(folder / "two.gguf")
    command = [sys.executable, "-m", "modelyard.cli", "rescan", "--url", server.url]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert {"id": "new", "problem": None} in listed
    assert "newer" in told.stdout.splitlines()
    assert any(line.startswith("broken  ") for line in told.stdout.splitlines())
    embed(http, "newer", "hello")


async def test_idle_time_number_and_cache_change_while_models_are_in_memory(
    http: httpx2.Client, server: Server
) -> None:
    embed(http, "two", "kept")
    path = server.folder / "modelyard.json"
    given = json.loads(path.read_text())
    path.write_text(json.dumps({**given, "embeddings": {"resident_max": 1, "idle_ttl_s": 30, "cache_bytes": 0}}))

    def has_changed() -> bool:
        expires_s = residents(http)["two"]["expires_in_s"]
        return bool(expires_s is not None and expires_s <= 30)

    await until(has_changed, "the new idle time counts")
    cache = http.get("/health/detailed").json()["vector_cache"]
    embed(http, "three", "first")

    assert (cache["bytes"], cache["bytes_max"], cache["entries"]) == (0, 0, 0)
    assert residents(http).keys() == {"three"}

"""A model pulled through a running server: by command, by Ollama's API, by many at once; used at once, and removed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from modelyard import demo
from tests.support import fakes_thread
from tests.support.fake_hub import FakeHub
from tests.support.node import Server, ask, clean_environment, client, running, serving, until

REFERENCE, NAME = "hf:org/Tiny-GGUF", "org/tiny:q4_k_m"
FILE = "Tiny-Q4_K_M.gguf"


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    hub = FakeHub({FILE: demo.gguf_path().read_bytes(), "README.md": b"# Tiny\n"})
    with fakes_thread.running(hub):
        yield hub


@pytest.fixture(scope="module")
def server(hub: FakeHub) -> Iterator[Server]:
    config = {"models": {"builtin": False}, "memory": {"gpus": False}, "pull": {"store": "store"}}
    with serving(config, environment={"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret"}) as started:
        yield started


@pytest.fixture(autouse=True)
def _fresh(hub: FakeHub) -> None:
    hub.sent_bytes, hub.hold, hub.pace_s = 0, None, 0.0
    hub.requests.clear()


def command(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(server.folder, {"MODELYARD_URL": server.url, "NO_COLOR": "1"})
    return subprocess.run(
        [sys.executable, "-m", "modelyard.cli", *words], cwd=server.folder, env=environment, capture_output=True,
        text=True, timeout=120, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip


def store_of(server: Server) -> Path:
    return server.folder / "store"


async def steps(session: aiohttp.ClientSession, server: Server, model: str = REFERENCE) -> list[dict[str, Any]]:
    async with session.post(f"{server.url}/api/pull", json={"model": model}) as response:
        return [json.loads(line) async for line in response.content]


def test_a_pulled_model_is_used_at_once_and_removed(server: Server, hub: FakeHub) -> None:
    pulled = command(server, "pull", REFERENCE)

    assert pulled.returncode == 0, pulled.stderr
    assert pulled.stdout == f"{NAME}\n"
    assert "pulling manifest" in pulled.stderr

    listed = command(server, "list", "-o", "json")
    answer = command(server, "ask", "-m", "hf.co/org/tiny-gguf:Q4_K_M", "What is Modelyard?")
    removed = command(server, "rm", NAME)
    gone = command(server, "rm", NAME)

    assert [one["name"] for one in json.loads(listed.stdout)["models"]] == [NAME]
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip()
    assert (removed.returncode, gone.returncode) == (0, 5), removed.stderr
    assert not [path for path in store_of(server).rglob("*") if path.is_file() and path.name != "lock"]


async def test_ten_who_want_the_same_cause_one_download(server: Server, hub: FakeHub) -> None:
    hub.pace_s = 0.002
    async with client() as session:
        told = await asyncio.gather(*(steps(session, server) for _one in range(10)))
        answer = await ask(session, server, NAME, max_tokens=4)
        copied = await session.post(f"{server.url}/api/copy", json={"source": NAME, "destination": "mine:v1"})
        deleted = [await session.delete(f"{server.url}/api/delete", json={"model": name}) for name in (NAME, "mine:v1")]

    assert all(one[0] == {"status": "pulling manifest"} for one in told)
    assert [one[-1]["status"] for one in told] == ["success"] * 10
    assert {step["status"] for step in told[0]} >= {"verifying sha256 digest", "writing manifest"}
    assert hub.sent_bytes == len(hub.files[FILE])
    assert sum("/resolve/" in request.path for request in hub.requests) == 1
    assert answer.status == 200
    assert (copied.status, [one.status for one in deleted]) == (200, [200, 200])


async def test_whoever_leaves_last_stops_it_and_the_next_goes_on(server: Server, hub: FakeHub) -> None:
    hub.pace_s = 0.02
    whole = len(hub.files[FILE])
    async with client() as session:
        tasks = [asyncio.create_task(steps(session, server)) for _one in range(2)]
        await until(lambda: hub.sent_bytes > whole // 4, "it has begun")
        tasks[0].cancel()
        seen = hub.sent_bytes
        await until(lambda: hub.sent_bytes > seen, "the other one's goes on")
        tasks[1].cancel()
        await until(lambda: hub.requests[-1].left.is_set(), "nobody listens, so it stops")
        listed = command(server, "pull", "--partials", "-o", "json")
        hub.pace_s = 0.0
        told = await steps(session, server)
        await session.delete(f"{server.url}/api/delete", json={"model": NAME})

    (partial,) = json.loads(listed.stdout)["partials"]
    assert (partial["size_bytes"], partial["label"]) == (whole, f"hf:org/Tiny-GGUF/{FILE}")
    assert told[-1]["status"] == "success"
    assert hub.sent_bytes <= whole * 1.05
    assert hub.requests[-1].headers["range"].startswith("bytes=")


async def test_nobody_without_the_right_changes_the_store(hub: FakeHub) -> None:
    keys = [{"id": "user", "secret": "env:USER_KEY"}, {"id": "boss", "secret": "env:BOSS", "rights": ["admin"]}]
    environment = {"HF_ENDPOINT": hub.url, "USER_KEY": "user-key-0123456789", "BOSS": "boss-key-0123456789"}
    config = {"keys": keys, "memory": {"gpus": False}}
    async with running(config, environment=environment) as guarded, client() as session:
        headers = {"authorization": "Bearer user-key-0123456789"}
        body = {"model": REFERENCE, "rights": ["admin"]}
        pulled = await session.post(f"{guarded.url}/api/pull", json=body, headers=headers)
        nobody = await session.post(f"{guarded.url}/api/pull", json=body)

    assert (pulled.status, nobody.status) == (403, 401)
    assert hub.requests == []

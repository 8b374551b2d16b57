"""A configuration that changes while the server runs: taken up whole or not at all, and nobody's answer is cut."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from modelyard.clock import SystemClock
from modelyard.config.changes import Changes
from modelyard.config.settings import LoadedSettings, load_settings
from modelyard.events import EventBus
from modelyard.reload import ConfigWatch
from tests.support.node import Server, ready, short_folder, start_server, stopped

SLOW: dict[str, Any] = {
    "models": {"builtin": False, "echo": {"slow": {"tokens_per_s": 20.0}, "other": {}}},
    "memory": {"gpus": False},
}
KEY, SECOND = "key-of-somebody-1", "key-of-somebody-2"


@asynccontextmanager
async def serving(config: dict[str, Any], environment: dict[str, str] | None = None) -> AsyncIterator[Server]:
    with short_folder() as folder:
        server = start_server(folder, config, environment=environment)
        try:
            yield await ready(server)
        finally:
            await stopped(server)


def config_of(server: Server) -> Path:
    return next(server.folder.glob("modelyard.*"))


def write(server: Server, config: dict[str, Any]) -> None:
    path = config_of(server)
    given = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "server": given["server"], "log": given["log"]}))


async def seen(server: Server, event: str, count: int = 1) -> dict[str, Any]:
    """The latest event of that name, once it was told so often."""
    async with asyncio.timeout(20):
        while len(found := [one for one in server.log_events() if one.get("event") == event]) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found[-1]


async def names(server: Server) -> set[str]:
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/v1/models") as answer:
        return {entry["id"] for entry in (await answer.json())["data"]}


async def stream(server: Server, model: str, key: str | None = None) -> tuple[list[str], list[Any]]:
    """The pieces of one answer, and the errors in it."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {"model": model, "stream": True, "max_tokens": 60, "messages": [{"role": "user", "content": "go"}]}
    pieces, errors = [], []
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{server.url}/v1/chat/completions", json=body, headers=headers) as answer,
    ):
        async for line in answer.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    errors.append(event["error"])
                else:
                    pieces += [one["delta"].get("content") or "" for one in event["choices"]]
    return pieces, errors


async def test_a_changed_file_is_taken_up_and_a_running_answer_goes_on() -> None:
    async with serving(SLOW) as server:
        running = asyncio.create_task(stream(server, "slow"))
        await seen(server, "model.loaded")
        write(server, {**SLOW, "models": {**SLOW["models"], "echo": {**SLOW["models"]["echo"], "new": {}}}})
        told = await seen(server, "config.reloaded")
        pieces, errors = await running

        assert "new" in await names(server)
        assert any(name.startswith("models.echo.new") for name in told["changed"])
        assert not errors
        assert len([piece for piece in pieces if piece]) >= 50


async def test_a_wrong_file_is_refused_with_its_place_and_the_old_one_stays() -> None:
    async with serving(SLOW) as server:
        path = config_of(server)
        given = json.loads(path.read_text())
        path.write_text(json.dumps({**given, "routing": {"strategie": "best"}}))
        told = await seen(server, "config.reload_refused")

        async with aiohttp.ClientSession() as session, session.get(f"{server.url}/admin/status") as answer:
            status = await answer.json()

        assert "did you mean routing.strategy" in told["problem"]
        assert status["config_problem"] == told["problem"]
        assert path.name in told["problem"]
        assert await names(server) == {"slow", "other"}


async def test_a_signal_has_it_read_again() -> None:
    async with serving(SLOW) as server:
        path = config_of(server)
        path.write_text("{")
        await seen(server, "config.reload_refused")
        server.signal(signal.SIGHUP)

        await seen(server, "config.reload_refused", count=2)

        assert server.process.poll() is None


async def test_a_key_that_is_taken_back_ends_its_answers_and_no_other() -> None:
    first_key = {"id": "first", "secret": "env:FIRST", "rights": ["infer", "read", "admin"]}
    left = {"id": "second", "secret": "env:SECOND"}
    async with serving({**SLOW, "keys": [first_key, left]}, {"FIRST": KEY, "SECOND": SECOND}) as server:
        first = asyncio.create_task(stream(server, "slow", KEY))
        second = asyncio.create_task(stream(server, "slow", SECOND))
        await seen(server, "model.loaded")
        write(server, {**SLOW, "keys": [left]})
        await seen(server, "config.reloaded")
        (cut, errors), (pieces, none) = await first, await second

        assert [error["code"] for error in errors] == ["invalid_api_key"] or not cut
        assert not none
        assert len([piece for piece in pieces if piece]) >= 50


async def test_only_the_model_whose_launch_changed_starts_anew() -> None:
    async with serving(SLOW) as server:
        await stream(server, "slow")
        await stream(server, "other")
        models = {**SLOW["models"], "options": {"other": {"idle_ttl_s": 900}}}
        write(server, {**SLOW, "models": models})
        await seen(server, "config.reloaded")
        await stream(server, "slow")
        await stream(server, "other")

        loads = [one["model"] for one in server.log_events() if one.get("event") == "model.loaded"]
        assert sorted(loads) == ["other", "slow"]


async def test_what_cannot_be_made_is_refused_with_its_place_and_nothing_else_of_it_counts() -> None:
    node = {"name": "far", "kind": "ollama", "url": "https://127.0.0.1:9", "ca_file": "not-there.pem"}
    more = {"models": {**SLOW["models"], "echo": {**SLOW["models"]["echo"], "new": {}}}}
    async with serving(SLOW) as server:
        write(server, {**SLOW, **more, "nodes": [node]})
        told = await seen(server, "config.reload_refused")

        assert "nodes[0].ca_file: there is no such file" in told["problem"]
        assert await names(server) == {"slow", "other"}
        assert server.process.poll() is None

        write(server, {**SLOW, **more})
        await seen(server, "config.reloaded")
        assert await names(server) == {"slow", "other", "new"}


async def test_whatever_goes_wrong_while_a_change_is_taken_up_is_a_refusal_that_is_shown(tmp_path: Path) -> None:
    path, events = tmp_path / "modelyard.toml", EventBus()
    path.write_text("[limits]\nrequests_max = 1\n")
    loaded = load_settings(config_file=path, environment={}, folder=tmp_path)

    async def apply(_changed: Changes, _loaded: LoadedSettings) -> None:
        raise FileNotFoundError("sesame")

    watch = ConfigWatch(loaded, apply, events, SystemClock())
    path.write_text("[limits]\nrequests_max = 2\n")

    told = await watch.reload()

    assert "it could not be taken up: FileNotFoundError" in told.problem
    assert watch.problem == told.problem
    assert watch.loaded is loaded

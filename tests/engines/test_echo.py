"""The scripted worker over its own socket, as a client of it would see it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from modelyard.engines.echo import Echo, echo_model
from modelyard.errors import ConfigError
from modelyard.types.memory import ProcessMemory
from modelyard.types.model import Model
from modelyard.workers.process import Worker, spawn
from modelyard.workers.ready import LoadWatch, wait_ready

CHAT = "http://worker/v1/chat/completions"


class Client:
    """Talks to one worker."""

    def __init__(self, session: aiohttp.ClientSession, worker: Worker) -> None:
        self.session, self.worker = session, worker

    async def chat(self, request_id: str = "r", **body: object) -> tuple[int, dict[str, object]]:
        asked = {"messages": [{"role": "user", "content": "a b c"}], **body}
        async with self.session.post(CHAT, json=asked, headers={"X-Request-Id": request_id}) as answer:
            return answer.status, await answer.json()

    async def stream(self, request_id: str = "r", **body: object) -> str:
        asked = {"messages": [{"role": "user", "content": "a b c"}], "stream": True, **body}
        async with self.session.post(CHAT, json=asked, headers={"X-Request-Id": request_id}) as answer:
            return (await answer.read()).decode("utf-8", "replace")

    async def counters(self) -> dict[str, int]:
        async with self.session.get("http://worker/counters") as answer:
            counters: dict[str, int] = await answer.json()
            return counters


@asynccontextmanager
async def serving(folder: Path, **script: object) -> AsyncIterator[Client]:
    engine, model = Echo({"PATH": os.defpath}), echo_model("a", **script)
    worker = await spawn(
        engine.command(model, engine.options(model), folder / "s.sock"), run_folder=folder, mark="test"
    )
    try:
        await wait_ready(
            worker, LoadWatch("a", 60, 60, engine.explain_failure, ProcessMemory, lambda _phase, _ratio: None)
        )
        connector = aiohttp.UnixConnector(str(worker.socket), force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
            yield Client(session, worker)
    finally:
        await worker.stop()


def frames(text: str) -> list[dict[str, object]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_a_stream_has_role_content_finish_usage_and_end_in_this_order(folder: Path) -> None:
    async with serving(folder) as client:
        text = await client.stream(max_tokens=2, stream_options={"include_usage": True}, return_progress=True)

    progress, role, first, second, finish, usage = frames(text)
    assert progress["prompt_progress"] == {"total": 3, "cache": 0, "processed": 3, "time_ms": 0}
    assert role["choices"] == [{"finish_reason": None, "index": 0, "delta": {"role": "assistant", "content": None}}]
    assert first["choices"] == [{"finish_reason": None, "index": 0, "delta": {"content": "r:0 "}}]
    assert second["choices"] == [{"finish_reason": None, "index": 0, "delta": {"content": "r:1 "}}]
    assert finish["choices"] == [{"finish_reason": "length", "index": 0, "delta": {}}]
    assert usage["choices"] == []
    assert usage["usage"] == {
        "completion_tokens": 2, "prompt_tokens": 3, "total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0},
    }  # fmt: skip


async def test_plain_answers_tools_and_refusals(folder: Path) -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    async with serving(folder, slots=2, context_length=100) as client:
        _, plain = await client.chat(max_tokens=2, n=2)
        _, call = await client.chat(tools=tools, tool_choice="required")
        long_status, long = await client.chat(messages=[{"role": "user", "content": "a " * 200}])
        many_status, _ = await client.chat(n=3)

    assert [choice["message"]["content"] for choice in plain["choices"]] == ["r:0 r:1 "] * 2  # type: ignore[attr-defined]
    assert call["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "add"  # type: ignore[index]
    assert (long_status, long["error"]["type"]) == (400, "exceed_context_size_error")  # type: ignore[index]
    assert many_status == 400


async def test_work_stops_when_the_client_leaves(folder: Path) -> None:
    async with serving(folder, tokens_per_s=100) as client:
        asking = asyncio.create_task(client.stream(max_tokens=100_000))
        while not (await client.counters())["tokens"]:
            pass
        asking.cancel()
        while (counters := await client.counters())["running"]:
            pass

        assert (counters["cancelled"], counters["finished"]) == (1, 0)


async def test_no_more_requests_run_than_there_are_slots(folder: Path) -> None:
    async with serving(folder, slots=2, tokens_per_s=100) as client:
        await asyncio.gather(*(client.stream(max_tokens=5) for _ in range(6)))

        counters = await client.counters()
        assert (counters["running_max"], counters["finished"]) == (2, 6)
        assert counters["waiting_max"] >= 2


async def test_it_crashes_cuts_and_garbles_as_scripted(folder: Path) -> None:
    async with serving(folder, crash_after_tokens=2) as client:
        with pytest.raises(aiohttp.ClientError):
            await client.stream(max_tokens=5)
        assert (await asyncio.wait_for(client.worker.exited, 30)).signal == 9
    async with serving(folder, cut_after_bytes=400) as client:
        with pytest.raises(aiohttp.ClientPayloadError):
            await client.stream(max_tokens=5)
    async with serving(folder, garbage_after_tokens=1) as client:
        with pytest.raises(ValueError, match=r"Expecting value|Invalid|control"):
            frames(await client.stream(max_tokens=2))


def test_a_script_with_an_unknown_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="no such setting"):
        echo_model("a", speed=3)
    with pytest.raises(ConfigError):
        echo_model("a", slots="many")


def test_models_of_different_scripts_have_different_identities() -> None:
    assert echo_model("a").identity == echo_model("a").identity
    assert echo_model("a").identity != echo_model("a", slots=2).identity
    assert not Echo().serves(Model("a", engine="llamacpp"))

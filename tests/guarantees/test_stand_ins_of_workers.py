"""A smaller model answers for one whose worker cannot be had, whatever the cause: the reply says who and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from modelyard import demo
from tests.support.node import Server, client, fetch, running, serving, short_folder, until

MIB = 1024**2


def ladder(*steps: str) -> dict[str, Any]:
    return {"ladder": list(steps)}


def config(folder: Path) -> dict[str, Any]:
    """One model for each way to be out of reach; all lead to `small`, some over others that are no better."""
    (folder / "cut.gguf").write_bytes(demo.gguf_path().read_bytes()[:200_000])
    fine = {"footprint_bytes": MIB}
    return {
        "memory": {"gpus": False, "ram_limit_bytes": 64 * MIB, "headroom_bytes": 1 * MIB},
        "deadlines": {"load_stall_s": 1.0},
        "models": {
            "folders": [str(folder)],
            "launch": {"context_length": 512, "slots": 1, "prompt_cache_bytes": 0},
            "echo": {
                "small": fine,
                "huge": {"footprint_bytes": 900 * 1024 * MIB},
                "dead": {**fine, "fail_load": "no such tensor"},
                "greedy": {**fine, "fail_load": "MemoryError"},
                "stuck": {**fine, "stall_load": True},
                "untried": {**fine, "stall_load": True},
            },
            "options": {
                "huge": ladder("model=dead", "model=small"),
                "dead": ladder("model=small"),
                "greedy": ladder("model=huge"),
                "stuck": ladder("model=small"),
                "untried": ladder("model=small"),
                "cut": ladder("model=nobody", "model=small"),
                "yardling": ladder("kv_type=q8_0", "context_length=256", "model=small"),
            },
        },
    }


CAUSES = {
    "huge": "insufficient_memory",
    "dead": "model_load_failed",
    "greedy": "out_of_memory",
    "stuck": "load_stalled",
    "cut": "model_file_invalid",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with short_folder() as folder, serving(config(folder)) as server:
        yield server


async def asked(server: Server, path: str, model: str, **more: Any) -> tuple[Any, Any]:
    """Headers, and the last JSON that was said."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "prompt": "hi", **more}
    body.pop("prompt" if "chat" in path else "messages")
    async with client() as session, session.post(f"{server.url}{path}", json=body) as answer:
        text = await answer.text()
        assert answer.status == 200, text
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith(("data: {", "{"))]
        return answer.headers, json.loads(lines[-1])


async def is_at_rest(server: Server) -> bool:
    async with client() as session:
        status = await fetch(session, server, "/admin/status")
    return not status["requests"] and not any(one["leases"] or one["waiting"] for one in status["residents"])


@pytest.mark.parametrize("model", CAUSES)
async def test_whatever_the_cause_the_stand_in_answers_and_the_reply_says_who_and_why(
    server: Server, model: str
) -> None:
    headers, body = await asked(server, "/v1/chat/completions", model)

    note = {"model": "small", "degraded": ["model=small"], "fallback_reason": CAUSES[model]}
    assert body["modelyard"] == note
    assert body["choices"][0]["message"]["content"]
    assert headers["x-modelyard-model"] == "small"
    assert headers["x-modelyard-degraded"] == "model=small"
    assert headers["x-modelyard-fallback-reason"] == CAUSES[model]
    assert await is_at_rest(server)


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/chat/completions", {"stream": True}),
        ("/v1/chat/completions", {"stream": True, "stream_options": {"include_usage": True}}),
        ("/v1/completions", {}),
        ("/v1/completions", {"stream": True}),
        ("/api/chat", {"stream": False}),
        ("/api/chat", {}),
        ("/api/generate", {}),
        ("/api/v1/llm/chat", {}),
    ],
)
async def test_it_is_said_in_each_dialect_whole_and_streamed(server: Server, path: str, more: dict[str, Any]) -> None:
    headers, body = await asked(server, path, "huge", **more)

    assert body["modelyard"]["model"] == "small"
    assert body["modelyard"]["fallback_reason"] == "insufficient_memory"
    assert headers["x-modelyard-fallback-reason"] == "insufficient_memory"


async def test_the_models_own_ladder_comes_before_other_models() -> None:
    with short_folder() as folder:
        given = config(folder)
        given["models"]["launch"] |= {"context_length": 2048, "slots": 2}
        async with running({**given, "memory": {**given["memory"], "ram_limit_bytes": 73 * MIB}}) as server:
            _headers, body = await asked(server, "/v1/chat/completions", "yardling", max_tokens=2)
        async with running({**given, "memory": {**given["memory"], "ram_limit_bytes": 20 * MIB}}) as server:
            _headers, instead = await asked(server, "/v1/chat/completions", "yardling", max_tokens=2)

    assert body["modelyard"]["model"] == "yardling"
    assert not any(step.startswith("model=") for step in body["modelyard"]["degraded"])
    assert instead["modelyard"] == {
        "model": "small", "degraded": ["model=small"], "fallback_reason": "insufficient_memory",
    }  # fmt: skip


async def test_who_leaves_while_a_stand_in_is_sought_leaves_nothing_behind(server: Server) -> None:
    async with client() as session:
        body = {"model": "untried", "messages": [{"role": "user", "content": "hi"}]}
        left = 0
        for wait_s in (0.02, 0.07, 0.32):
            patience = aiohttp.ClientTimeout(total=wait_s)
            try:  # once it is known to be stuck, the stand-in may answer in less
                await session.post(f"{server.url}/v1/chat/completions", json=body, timeout=patience)
            except TimeoutError:
                left += 1
        assert left, "nobody left before the answer"

    async def rests() -> bool:
        return await is_at_rest(server)

    await until(rests, "nothing is left of them")

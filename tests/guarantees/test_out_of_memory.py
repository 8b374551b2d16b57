"""A worker that runs out of memory is known for it and dies alone; one that somebody killed is not taken for it."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.gguf_files import write_tiny_llama
from tests.support.node import Answer, Server, ask, client, fetch, resident, running, until

MIB = 1024**2
LIMIT_BYTES = 640 * MIB  # of data, for the server and for each of its workers
WIDE = 4_000_000  # tokens whose KV cache is larger than that
ECHO: dict[str, Any] = {
    "neighbour": {"slots": 4, "tokens_per_s": 20},
    "growing": {"growth_bytes_per_token": 32 * MIB, "tokens_per_s": 50, "context_length": 4096},
    "steady": {"tokens_per_s": 20},
    "slow": {"load_s": 60},
}


@asynccontextmanager
async def limited(tmp_path: Path, **options: dict[str, Any]) -> AsyncIterator[Server]:
    """A server whose workers may have so much data each: what they start with they inherit."""
    write_tiny_llama(tmp_path / "wide.gguf", context_length=WIDE)
    write_tiny_llama(tmp_path / "small.gguf", context_length=2048, seed=1)
    models = {
        "builtin": False, "folders": [str(tmp_path)], "echo": ECHO,
        "launch": {"slots": 1, "threads": 1, "context_length": 1024},
        "options": {"wide": {"context_length": WIDE} | options.get("wide", {})},
    }  # fmt: skip
    async with running({"models": models, "memory": {"gpus": False}}) as server:
        resource.prlimit(server.process.pid, resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
        yield server


def verdict_of(answer: Answer) -> dict[str, Any]:
    assert answer.error is not None
    return dict(answer.error["verdict"])


async def test_a_load_that_runs_out_of_memory_says_so_and_nobody_else_notices(tmp_path: Path) -> None:
    async with limited(tmp_path) as server, client() as session:
        beside = asyncio.create_task(ask(session, server, "neighbour", stream=True, max_tokens=60))
        await until(lambda: any(one["event"] == "model.loaded" for one in server.log_events()), "the neighbour")

        answer = await ask(session, server, "wide", max_tokens=1)

        assert answer.status == 503
        assert answer.error is not None
        assert answer.error["code"] == "out_of_memory"
        verdict = verdict_of(answer)
        assert (verdict["code"], verdict["confidence"] >= 0.8) == ("out_of_memory", True)
        assert verdict["evidence"]["line"].startswith(("ggml_", "alloc_", "unable to allocate", "0."))
        assert answer.error["suggestions"]
        assert str(tmp_path) not in answer.body.decode()
        assert "Traceback" not in answer.body.decode()
        assert (await ask(session, server, "small", max_tokens=2)).status == 200
        other = await beside
        assert (other.done, other.error, len(other.text.split())) == (True, None, 60)


async def test_a_smaller_way_or_another_model_answers_and_says_so(tmp_path: Path) -> None:
    ladder = {"wide": {"ladder": ["context_length=512"]}}
    async with limited(tmp_path, **ladder) as server, client() as session:
        smaller = await ask(session, server, "wide", max_tokens=2, stream=True)
    async with limited(tmp_path, wide={"ladder": ["model=small"]}) as server, client() as session:
        other = await ask(session, server, "wide", max_tokens=2)
        async with session.get(f"{server.url}/metrics") as response:
            metrics = await response.text()

    assert (smaller.status, smaller.done) == (200, True)
    assert smaller.headers["x-modelyard-degraded"] == "context_length=512"
    assert smaller.frames[-1]["modelyard"] == {"model": "wide", "degraded": ["context_length=512"]}
    assert other.status == 200
    assert (other.headers["x-modelyard-model"], other.headers["x-modelyard-degraded"]) == ("small", "model=small")
    assert other.json["model"] == "wide"
    assert other.json["modelyard"] == {
        "model": "small", "degraded": ["model=small"], "fallback_reason": "out_of_memory"
    }  # fmt: skip
    assert 'modelyard_fallbacks_total{model="wide",reason="out_of_memory",to="small"} 1.0' in metrics


async def test_a_worker_that_runs_out_while_it_answers_tells_whom_it_served(tmp_path: Path) -> None:
    async with limited(tmp_path) as server, client() as session:
        beside = asyncio.create_task(ask(session, server, "neighbour", stream=True, max_tokens=40))

        answer = await ask(session, server, "growing", stream=True, max_tokens=2000)

        assert answer.error is not None
        assert (answer.error["code"], answer.done, answer.finish) == ("worker_crashed", False, None)
        assert "ran out of memory" in answer.error["message"]
        assert verdict_of(answer)["code"] == "out_of_memory"
        assert (await ask(session, server, "growing", max_tokens=1)).status == 200
        assert (await beside).done


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
async def test_a_worker_that_somebody_ends_did_not_run_out_of_memory(tmp_path: Path, number: signal.Signals) -> None:
    async with limited(tmp_path) as server, client() as session:
        answering = asyncio.create_task(ask(session, server, "steady", stream=True, max_tokens=2000))

        async def generates() -> bool:
            assert not answering.done(), (answering.result().body, server.text())
            status = await fetch(session, server, "/admin/status")
            return any(each["phase"] == "generating" for each in status["requests"])

        await until(generates, "it answers")
        found = await resident(session, server, "steady")
        assert found is not None

        os.kill(found["pid"], number)

        expected = "crashed" if number == signal.SIGSEGV else "killed"
        assert verdict_of(await answering)["code"] == expected


async def test_a_load_that_somebody_kills_did_not_run_out_of_memory(tmp_path: Path) -> None:
    async with limited(tmp_path) as server, client() as session:
        asking = asyncio.create_task(ask(session, server, "slow", max_tokens=1))
        await until(server.workers, "its worker is started")

        for worker in server.workers():
            worker.kill()
        answer = await asking

        assert answer.error is not None
        assert (answer.error["code"], verdict_of(answer)["code"]) == ("model_load_failed", "killed")

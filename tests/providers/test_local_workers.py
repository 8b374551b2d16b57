"""The data plane over real worker processes: the scripted one, and llama.cpp's own server."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from openai import APIError, AsyncOpenAI, BadRequestError
from tools.gguf_files import write_tiny_llama

from modelyard.engines.echo_settings import EchoSettings
from tests.api.data_plane import DataPlane, data_plane

from .fake_worker import until

LLAMACPP = {"n_ctx": 2048, "n_parallel": 2, "n_batch": 64, "n_ubatch": 64, "n_gpu_layers": 0, "cache_ram_mib": 0,
            "n_ctx_checkpoints": 0, "threads": 1, "kv_type": "f16"}  # fmt: skip
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi there"}]}


async def counters(socket: Path) -> dict[str, int]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket), force_close=True)) as session,
        session.get("http://w/counters") as answer,
    ):
        found: dict[str, int] = await answer.json()
        return found


async def is_idle(socket: Path) -> bool:
    return not (await counters(socket))["running"]


async def becomes(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask a process again and again until it says yes."""
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110 - another process has no event for us to wait on
            await asyncio.sleep(0.02)


async def is_healthy(socket: Path) -> bool:
    connector = aiohttp.UnixConnector(str(socket), force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        try:
            async with session.get("http://w/health") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def over_process(
    argv: Callable[[Path], list[str]],
) -> AsyncIterator[tuple[DataPlane, asyncio.subprocess.Process]]:
    """A data plane whose worker is a real process."""
    folder = Path(tempfile.mkdtemp(prefix="my"))
    socket = folder / "w.sock"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *argv(folder), stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await becomes(lambda: is_healthy(socket))
        async with data_plane() as plane:
            plane.worker.socket = socket
            waiting = asyncio.create_task(process.wait())
            waiting.add_done_callback(
                lambda task: plane.worker.exited.set_result(f"code {task.result()}") if not task.cancelled() else None
            )
            try:
                yield plane, process
            finally:
                waiting.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        assert process.stdin is not None
        process.stdin.close()
        shutil.rmtree(folder)


def echo(**settings: object) -> Callable[[Path], list[str]]:
    script = EchoSettings.parse(settings).to_json()
    return lambda folder: ["modelyard.engines.echo_worker", "--socket", str(folder / "w.sock"), "--settings", script]


def llamacpp(folder: Path) -> list[str]:
    write_tiny_llama(folder / "tiny.gguf")
    params = json.dumps({"model": str(folder / "tiny.gguf"), **LLAMACPP})
    return ["modelyard.engines.llamacpp_launcher", "--socket", str(folder / "w.sock"), "--params", params]


async def test_every_token_of_a_scripted_worker_arrives_once_and_belongs_to_its_request() -> None:
    async with over_process(echo(slots=8)) as (plane, _process):

        async def ask(number: int) -> str:
            connection = await plane.connect()
            await connection.send(CHAT | {"stream": True, "max_tokens": 40}, **{"X-Request-Id": f"q{number}"})
            return (await connection.answer()).text()

        texts = await asyncio.gather(*(ask(number) for number in range(8)))

        for number, text in enumerate(texts):
            tokens = text.split()
            assert [token.split(":")[0] for token in tokens] == [f"q{number}"] * 40
            assert [int(token.split(":")[1]) for token in tokens] == sorted({int(t.split(":")[1]) for t in tokens})


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_caller_that_leaves_stops_a_real_worker(stream: bool) -> None:
    async with over_process(echo(tokens_per_s=50)) as (plane, _process):
        connection = await plane.connect()
        await connection.send(CHAT | {"stream": stream, "max_tokens": 2000})
        await until(lambda: any(r.phase == "generating" for r in plane.inference.snapshot()), "a first token")

        await connection.leave()

        await until(lambda: plane.inference.in_flight_count == 0, "the request is over")
        await becomes(lambda: is_idle(plane.worker.socket))
        found = await counters(plane.worker.socket)
        assert (found["cancelled"], found["finished"]) == (1, 0)
        assert found["tokens"] < 1000


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])
async def test_a_killed_worker_is_told_to_everybody_it_served(stream: bool) -> None:
    async with over_process(echo(tokens_per_s=20, slots=8)) as (plane, process):
        asking = [asyncio.create_task(plane.ask(CHAT | {"stream": stream, "max_tokens": 2000})) for _ in range(8)]
        await until(lambda: [r.phase for r in plane.inference.snapshot()] == ["generating"] * 8, "eight first tokens")

        os.kill(process.pid, signal.SIGKILL)

        for answer in await asyncio.gather(*asking):
            error = (answer.events()[-1] if stream else answer.json())["error"]
            assert error["code"] == "worker_crashed"
            assert b"[DONE]" not in answer.body


@pytest.mark.parametrize("settings", [{"cut_after_bytes": 400}, {"garbage_after_tokens": 2}])
async def test_a_worker_that_lies_is_an_upstream_error(settings: dict[str, int]) -> None:
    async with over_process(echo(**settings)) as (plane, _process):
        answer = await plane.ask(CHAT)

        assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_invalid_response")


async def test_openais_own_client_understands_everything() -> None:
    async with over_process(llamacpp) as (plane, _process):
        client = AsyncOpenAI(base_url=f"http://127.0.0.1:{plane.port}/v1", api_key="x", max_retries=0)
        messages: Any = CHAT["messages"]
        async with client:
            plain = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=6, n=2, seed=5)
            stream = await client.chat.completions.create(
                model="tiny", messages=messages, max_tokens=6, seed=5, stream=True, logprobs=True, top_logprobs=2,
                stream_options={"include_usage": True},
            )  # fmt: skip
            chunks = [chunk async for chunk in stream]
            completion = await client.completions.create(model="tiny", prompt="hi there", max_tokens=5, logprobs=1)
            with pytest.raises(BadRequestError) as too_long:
                await client.chat.completions.create(
                    model="tiny", messages=[{"role": "user", "content": "hi there " * 2000}], stream=True
                )

        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert plain.usage is not None
        assert plain.usage.completion_tokens == 12
        assert [choice.finish_reason for choice in plain.choices] == ["length", "length"]
        assert plain.choices[0].message.content
        assert text
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 6
        assert sum(len(c.choices[0].logprobs.content or ()) for c in chunks if c.choices and c.choices[0].logprobs) == 6
        assert completion.choices[0].logprobs is not None
        assert len(completion.choices[0].logprobs.tokens or ()) == 5
        assert too_long.value.code == "context_length_exceeded"


async def test_openais_own_client_raises_when_a_stream_breaks() -> None:
    async with over_process(echo(tokens_per_s=50, crash_after_tokens=3)) as (plane, _process):
        async with AsyncOpenAI(base_url=f"http://127.0.0.1:{plane.port}/v1", api_key="x", max_retries=0) as client:
            stream = await client.chat.completions.create(model="tiny", messages=CHAT["messages"], stream=True)
            with pytest.raises(APIError) as caught:
                async for _chunk in stream:
                    pass

        assert caught.value.code == "worker_crashed"


async def test_llamacpp_stops_when_its_caller_leaves() -> None:
    async with over_process(llamacpp) as (plane, process):
        connection = await plane.connect()
        await connection.send(CHAT | {"stream": True, "max_tokens": 900})
        await until(lambda: any(r.phase == "generating" for r in plane.inference.snapshot()), "a first token")

        await connection.leave(reset=True)

        await until(lambda: plane.inference.in_flight_count == 0, "the request is over")
        answers = await asyncio.gather(*(plane.ask(CHAT | {"max_tokens": 3}) for _ in range(2)))
        assert [answer.status for answer in answers] == [200, 200]
        assert process.returncode is None

"""Long silence and odd text, as the official clients read them: every keep-alive and every line has to parse."""

from __future__ import annotations

import asyncio
from typing import Any

import ollama
import openai
import pytest

from tests.api.data_plane import DataPlane, data_plane
from tests.providers.fake_worker import DONE, HEAD, Step, delta, until, usage

HELLO: Any = [{"role": "user", "content": "Hello"}]
ODD = 'a\nb\r\n\ndata: x\u2028y\u2029z\u0085w\x0b\x0c\x1c{"done":true}[DONE]'
STEPS: list[Step] = [HEAD, delta(content=ODD), 0.2, delta(content="."), delta("stop"), usage(), DONE]


async def by_ollama(plane: DataPlane) -> str:
    async with ollama.AsyncClient(f"http://127.0.0.1:{plane.port}") as client:
        return "".join([part.message.content or "" async for part in await client.chat("tiny", HELLO, stream=True)])


async def by_ollama_generate(plane: DataPlane) -> str:
    async with ollama.AsyncClient(f"http://127.0.0.1:{plane.port}") as client:
        return "".join([part.response or "" async for part in await client.generate("tiny", "Hello", stream=True)])


async def by_openai(plane: DataPlane) -> str:
    where = f"http://127.0.0.1:{plane.port}/v1"
    async with openai.AsyncOpenAI(base_url=where, api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


@pytest.mark.parametrize("ask", [by_ollama, by_ollama_generate, by_openai])
async def test_a_client_reads_through_silence_before_and_between_words(ask: Any) -> None:
    async with data_plane(lambda _body: STEPS, keepalive_s=0.01) as plane:
        plane.residency.gate = asyncio.Event()
        asking = asyncio.create_task(ask(plane))
        await until(lambda: plane.residency.waiting == 1, "it waits")
        await asyncio.sleep(0.2)  # the silence itself: twenty keep-alives
        plane.residency.gate.set()

        assert await asking == ODD + "."
        await plane.settled(ok=1)

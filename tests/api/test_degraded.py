"""An answer that is not what was asked for says so, and clients still understand it."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.api.data_plane import data_plane

ASKED: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}
GIVEN_UP = ("context_length=8192", "kv_type=q8_0")
NOTE = {"model": "tiny", "degraded": list(GIVEN_UP)}


async def test_a_plain_answer_says_it_in_header_and_body() -> None:
    async with data_plane() as plane:
        plane.residency.degraded = GIVEN_UP

        answer = await plane.ask(ASKED)

        assert answer.headers["x-modelyard-degraded"] == "context_length=8192, kv_type=q8_0"
        assert answer.json()["modelyard"] == NOTE
        assert answer.json()["choices"][0]["message"]["content"] == "Hello there"


async def test_an_answer_in_full_says_nothing() -> None:
    async with data_plane() as plane:
        plain, streamed = await plane.ask(ASKED), await plane.ask(ASKED | {"stream": True})

        for answer in (plain, streamed):
            assert "x-modelyard-degraded" not in answer.headers
            assert b"modelyard" not in answer.body


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_stream_says_it_once_in_its_last_chunk(path: str, include_usage: bool) -> None:
    asked = ASKED if path.endswith("chat/completions") else {"model": "small", "prompt": "hello"}
    async with data_plane() as plane:
        plane.residency.degraded = GIVEN_UP

        options = {"stream": True, "stream_options": {"include_usage": include_usage}}
        answer = await plane.ask(asked | options, path)

        *chunks, last, done = answer.events()
        assert (done, last["modelyard"]) == ("[DONE]", NOTE)
        assert ("usage" in last) is include_usage
        assert not any("modelyard" in chunk for chunk in chunks)
        assert answer.headers["x-modelyard-degraded"] == "context_length=8192, kv_type=q8_0"


@pytest.mark.parametrize("include_usage", [False, True])
async def test_openais_own_client_understands_it(include_usage: bool) -> None:
    async with data_plane() as plane:
        plane.residency.degraded = GIVEN_UP
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{plane.port}/v1", api_key="x") as client:
            whole = await client.chat.completions.create(**ASKED)
            stream = await client.chat.completions.create(
                **ASKED, stream=True, stream_options={"include_usage": include_usage}
            )
            chunks = [chunk async for chunk in stream]

        assert whole.choices[0].message.content == "Hello there"
        assert (whole.model_extra or {})["modelyard"] == NOTE
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello there"
        assert (chunks[-1].model_extra or {})["modelyard"] == NOTE

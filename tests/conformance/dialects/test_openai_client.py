"""The official OpenAI client against a running server on the built-in model: nothing about it is adapted to us."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any, cast

import openai
import pytest

from tests.support.node import Server, ready, short_folder, start_server, stopped

MODEL = "yardling"
HELLO: Any = [{"role": "user", "content": "Hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA: Any = {
    "type": "json_schema",
    "json_schema": {
        "name": "who",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 20}, "size": {"enum": ["small", "large"]}},
            "required": ["name", "size"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with ExitStack() as stack:
        started = start_server(stack.enter_context(short_folder()), {"memory": {"gpus": False}})
        try:
            yield asyncio.run(ready(started))
        finally:
            asyncio.run(stopped(started))


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_plain_chat_has_text_a_finish_reason_and_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0)

    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id


def test_a_stream_has_the_same_text_as_the_plain_answer(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0)
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, temperature=0, stream=True, stream_options={"include_usage": True}
    )

    chunks = list(stream)

    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == (
        plain.choices[0].message.content
    )
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert not chunks[-1].choices
    assert chunks[-1].usage == plain.usage or chunks[-1].usage is not None
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


async def test_the_async_client_streams_many_at_once(async_client: openai.AsyncOpenAI) -> None:
    async def one() -> str:
        stream = await async_client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    texts = await asyncio.gather(*(one() for _ in range(6)))

    assert len(set(texts)) == 1
    assert texts[0]


def test_a_forced_tool_call_is_a_tool_call(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Taipei?"}],
        tools=[WEATHER],
        tool_choice="required",
        temperature=0,
        max_tokens=100,
    )

    calls = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert calls
    assert calls[0].type == "function"
    assert calls[0].function.name == "get_weather"
    assert "city" in json.loads(calls[0].function.arguments)


def test_a_streamed_tool_call_comes_in_pieces_that_join(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Taipei?"}],
        tools=[WEATHER],
        tool_choice="required",
        temperature=0,
        max_tokens=100,
        stream=True,
    )

    chunks = list(stream)

    pieces = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert pieces[0].id
    assert pieces[0].function is not None
    assert pieces[0].function.name == "get_weather"
    assert json.loads("".join(piece.function.arguments or "" for piece in pieces if piece.function))["city"]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_an_answer_keeps_to_a_json_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Say who you are, as JSON."}],
        response_format=SCHEMA,
        temperature=0,
        max_tokens=120,
    )

    said = json.loads(answer.choices[0].message.content or "")
    assert set(said) == {"name", "size"}
    assert said["size"] in ("small", "large")


def test_a_stop_string_a_limit_and_logprobs_are_kept(client: openai.OpenAI) -> None:
    short = client.chat.completions.create(
        model=MODEL, messages=HELLO, temperature=0, max_completion_tokens=3, logprobs=True, top_logprobs=2
    )
    whole = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0)
    word = (whole.choices[0].message.content or "").split()[2]
    stopped_early = client.chat.completions.create(model=MODEL, messages=HELLO, temperature=0, stop=[word])

    assert short.choices[0].finish_reason == "length"
    assert short.usage is not None
    assert short.usage.completion_tokens == 3
    assert short.choices[0].logprobs is not None
    assert len(short.choices[0].logprobs.content or ()) == 3
    assert word not in (stopped_early.choices[0].message.content or "")
    assert stopped_early.choices[0].finish_reason == "stop"


def test_the_same_seed_gives_the_same_answer(client: openai.OpenAI) -> None:
    def once(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=MODEL, messages=HELLO, temperature=1.5, seed=seed, max_tokens=20, n=1
        )
        return answer.choices[0].message.content

    assert once(7) == once(7)


def test_several_choices_are_numbered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, n=2, max_tokens=8)

    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(choice.finish_reason for choice in answer.choices)


def test_a_plain_completion_works(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="Hello", max_tokens=5, temperature=0)
    streamed = client.completions.create(model=MODEL, prompt="Hello", max_tokens=5, temperature=0, stream=True)

    assert answer.object == "text_completion"
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).owned_by == "modelyard"


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        ({"model": "yardlin"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": "hot"}, openai.BadRequestError, "invalid_value"),
        ({"temperature": -1}, openai.BadRequestError, "invalid_value"),
        ({"max_tokens": -5}, openai.BadRequestError, "invalid_value"),
        ({"messages": []}, openai.BadRequestError, "invalid_value"),
        (
            {"messages": [{"role": "user", "content": "word " * 5000}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
    ],
)
def test_errors_are_typed(
    client: openai.OpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], code: str
) -> None:
    request: dict[str, Any] = {"model": MODEL, "messages": HELLO, **fields}

    with pytest.raises(error) as caught:
        client.chat.completions.create(**request)

    body = cast(dict[str, Any], caught.value.body)
    assert body["code"] == code
    assert body["request_id"]
    assert set(body) >= {"message", "type", "param", "code", "suggestions"}

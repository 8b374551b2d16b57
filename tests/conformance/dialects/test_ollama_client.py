"""The official Ollama client against a running server on the built-in model: nothing about it is adapted to us."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import ollama
import pytest

from tests.support.node import Server, ready, short_folder, start_server, stopped, until

MODEL = "yardling"
HELLO: Any = [{"role": "user", "content": "Hello"}]
GREEDY = {"temperature": 0, "num_predict": 40}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA: Any = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "size": {"enum": ["small", "large"]}},
    "required": ["name", "size"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    models = {"echo": {"echo": {"slots": 2}, "slow": {"load_s": 1.0}}}
    with ExitStack() as stack:
        config = {"memory": {"gpus": False}, "models": models}
        started = start_server(stack.enter_context(short_folder()), config)
        try:
            yield asyncio.run(ready(started))
        finally:
            asyncio.run(stopped(started))


@pytest.fixture
def client(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(server.url) as made:
        yield made


def resident(client: ollama.Client, name: str) -> ollama.ProcessResponse.Model | None:
    return next((one for one in client.ps().models if one.model == f"{name}:latest"), None)


def test_a_chat_has_text_counts_and_times(client: ollama.Client) -> None:
    answer = client.chat(MODEL, HELLO, options=GREEDY)

    assert answer.model == MODEL
    assert answer.message.role == "assistant"
    assert answer.message.content
    assert (answer.done, answer.done_reason) == (True, "stop")
    assert answer.prompt_eval_count
    assert answer.eval_count
    assert answer.total_duration
    assert answer.eval_duration
    assert answer.created_at


def test_a_stream_has_the_same_text_as_the_plain_answer(client: ollama.Client) -> None:
    plain = client.chat(MODEL, HELLO, options=GREEDY)

    pieces = list(client.chat(MODEL, HELLO, options=GREEDY, stream=True))

    assert "".join(piece.message.content or "" for piece in pieces) == plain.message.content
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert pieces[-1].eval_count == plain.eval_count


def test_a_text_is_generated_whole_and_streamed(client: ollama.Client) -> None:
    plain = client.generate(MODEL, "What is Modelyard?", options=GREEDY)
    pieces = list(client.generate(MODEL, "What is Modelyard?", options=GREEDY, stream=True))

    assert plain.response
    assert "".join(piece.response or "" for piece in pieces) == plain.response
    assert pieces[-1].done_reason == "stop"


def test_a_raw_prompt_is_continued(client: ollama.Client) -> None:
    answer = client.generate(MODEL, "Once", raw=True, options={"num_predict": 4, "temperature": 0})

    assert answer.response
    assert (answer.done_reason, answer.eval_count) == ("length", 4)


async def test_the_async_client_streams_many_at_once(server: Server) -> None:
    async with ollama.AsyncClient(server.url) as client:

        async def one() -> str:
            stream = await client.chat(MODEL, HELLO, options=GREEDY, stream=True)
            return "".join([piece.message.content or "" async for piece in stream])

        texts = await asyncio.gather(*(one() for _ in range(6)))

    assert len(set(texts)) == 1
    assert texts[0]


@pytest.mark.parametrize("stream", [True, False])
def test_a_tool_call_is_whole_and_its_arguments_are_an_object(client: ollama.Client, stream: bool) -> None:
    question: Any = [{"role": "user", "content": "What is the weather in Taipei? Use the tool."}]
    options = {"temperature": 0, "num_predict": 100}
    if stream:
        pieces = list(client.chat(MODEL, question, tools=[WEATHER], options=options, stream=True))
        calls = [call for piece in pieces for call in piece.message.tool_calls or ()]
    else:
        calls = list(client.chat(MODEL, question, tools=[WEATHER], options=options).message.tool_calls or ())

    (call,) = calls
    assert call.function.name == "get_weather"
    assert call.function.arguments["city"]


def test_a_conversation_with_a_tools_result_goes_on(client: ollama.Client) -> None:
    question: Any = [{"role": "user", "content": "What is the weather in Taipei? Use the tool."}]
    options = {"temperature": 0, "num_predict": 100}
    called = client.chat(MODEL, question, tools=[WEATHER], options=options)

    turns = [*question, called.message, {"role": "tool", "tool_name": "get_weather", "content": "rain, 20 degrees"}]
    answer = client.chat(MODEL, turns, tools=[WEATHER], options=options)

    assert answer.done


def test_a_function_becomes_a_tool(client: ollama.Client) -> None:
    def get_weather(city: str) -> str:
        """Tell the weather of a city.

        Args:
            city: its name
        """
        return city

    answer = client.chat(
        MODEL, [{"role": "user", "content": "What is the weather in Taipei? Use the tool."}], tools=[get_weather],
        options={"temperature": 0, "num_predict": 100},
    )  # fmt: skip

    assert answer.done


def test_an_answer_keeps_to_a_json_schema_and_to_json(client: ollama.Client) -> None:
    question: Any = [{"role": "user", "content": "Say who you are, as JSON."}]
    options = {"temperature": 0, "num_predict": 120}
    by_schema = client.chat(MODEL, question, format=SCHEMA, options=options)
    generated = client.generate(MODEL, "Say who you are, as JSON.", format=SCHEMA, options=options)
    free = client.chat("echo", question, format="json")

    assert set(json.loads(by_schema.message.content or "")) == {"name", "size"}
    assert set(json.loads(generated.response or "")) == {"name", "size"}
    assert free.done


def test_options_and_think_are_taken(client: ollama.Client) -> None:
    options = ollama.Options(temperature=0, num_ctx=1024, num_predict=3, top_k=5, stop=["zzz"], num_gpu=0)
    answer = client.chat(MODEL, HELLO, options=options, think=False)

    assert (answer.eval_count, answer.done_reason) == (3, "length")


def test_models_are_listed_and_shown(client: ollama.Client) -> None:
    listed = {model.model: model for model in client.list().models}
    shown = client.show(MODEL)

    entry = listed[f"{MODEL}:latest"]
    assert entry.size
    assert entry.details is not None
    assert entry.details.format == "gguf"
    assert entry.modified_at is not None
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "qwen2"
    assert "tools" in (shown.capabilities or [])


def test_keep_alive_loads_keeps_and_unloads(client: ollama.Client) -> None:
    loaded = client.generate("slow", keep_alive="10m")
    there = resident(client, "slow")
    for_ever = client.chat("slow", keep_alive=-1)
    kept = resident(client, "slow")
    unloaded = client.generate("slow", keep_alive=0)

    assert (loaded.done_reason, for_ever.done_reason, unloaded.done_reason) == ("load", "load", "unload")
    assert there is not None
    assert there.size
    assert there.expires_at is not None
    assert kept is not None
    assert kept.expires_at is not None
    assert kept.expires_at.year == 2300
    assert resident(client, "slow") is None


def test_an_answer_with_keep_alive_zero_is_the_last_one(client: ollama.Client) -> None:
    answer = client.chat("echo", HELLO, keep_alive=0)

    assert answer.done
    asyncio.run(until(lambda: resident(client, "echo") is None, "it leaves"))


@pytest.mark.parametrize(
    ("ask", "status", "words"),
    [
        (lambda client: client.chat("yardlin", HELLO), 404, 'model "yardlin" not found, try pulling it first'),
        (lambda client: client.show("nothing"), 404, "not found"),
        (lambda client: client.chat(MODEL, HELLO, options={"temperature": -1}), 400, "temperature"),
        (lambda client: client.chat(MODEL, HELLO, format={"$ref": "http://x"}), 400, "format"),
        (lambda client: client.generate(MODEL, "x", template="{{ .Prompt }}"), 400, "template"),
        (lambda client: client.generate(MODEL, "x", images=[b"not an image"]), 400, "images"),
        (lambda client: client.generate(MODEL, "x", images=[b"\x89PNG\r\n\x1a\n" + b"\x00" * 20]), 400, "vision"),
        (lambda client: client.embed(MODEL, "x"), 400, "does not support embeddings"),
        (lambda client: client.embeddings(MODEL, "x"), 400, "does not support embeddings"),
        (lambda client: client.push("x/y"), 501, "does not do that"),
        (lambda client: client.create("x", from_=MODEL), 501, "does not do that"),
        (lambda client: client.delete("nothing"), 404, "not found"),
        (lambda client: client.copy("nothing", "other"), 404, "not found"),
        (lambda client: client.pull("../x"), 400, "model"),
        (lambda client: client.chat(MODEL, [{"role": "user", "content": "word " * 5000}]), 400, "context"),
    ],
)
def test_errors_are_typed(client: ollama.Client, ask: Any, status: int, words: str) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        ask(client)

    assert caught.value.status_code == status
    assert words in caught.value.error


def test_errors_in_streams_are_raised(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        list(client.chat("nothing", HELLO, stream=True))

    assert caught.value.status_code == 404


def test_pulling_what_is_here_succeeds(client: ollama.Client) -> None:
    whole = client.pull(MODEL)
    steps = list(client.pull(MODEL, stream=True))

    assert whole.status == "success"
    assert steps[-1].status == "success"

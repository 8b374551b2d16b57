"""The official clients of both dialects against every kind of provider, through a running server of ours."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import ollama
import openai
import pytest

from modelyard.testing import FAULTS, FakeModel, FakeOllama, FakeOpenAI, Script, Tool
from modelyard.testing.server import FakeServer
from tests.support.fakes_thread import running
from tests.support.node import Server, ready, short_folder, start_server, stopped

SCRIPT = Path(__file__).parents[1] / "dialects" / "javascript_clients.mjs"
KINDS = ("local", "ollama", "openai")
REMOTE = ("ollama", "openai")
ASK: Any = [{"role": "user", "content": "Hello there friend"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather.",
        "parameters": {"type": "object", "properties": {}},
    },
}
SCHEMA: Any = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@dataclass
class World:
    """A server of ours, with a model of each kind."""

    server: Server
    fakes: dict[str, FakeServer]
    models = {"local": "parrot", "ollama": "llama:8b", "openai": "gpt-fake"}  # noqa: RUF012 - the same for all

    def play(self, kind: str, script: Script) -> None:
        if kind in self.fakes:
            self.fakes[kind].play(script)

    def asked(self, kind: str) -> dict[str, Any]:
        return self.fakes[kind].questions[-1].body


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    everything = FakeModel("llama:8b", capabilities=("completion", "tools", "vision", "thinking", "embedding"))
    fakes: dict[str, FakeServer] = {
        "ollama": FakeOllama([everything]),
        "openai": FakeOpenAI(["gpt-fake"], key="sesame-key"),
    }
    with ExitStack() as stack:
        stack.enter_context(running(*fakes.values()))
        config = {
            "models": {"builtin": False, "echo": {"parrot": {"echo_prompt": True}}},
            "memory": {"gpus": False},
            "routing": {"retry_floor": 100},
            "nodes": [
                {"name": "studio", "url": fakes["ollama"].url},
                {"name": "cloud", "kind": "openai", "url": f"{fakes['openai'].url}/v1", "key": "env:CLOUD_KEY"},
            ],
        }
        folder = stack.enter_context(short_folder())
        server = start_server(folder, config, environment={"CLOUD_KEY": "sesame-key"})
        try:
            yield World(asyncio.run(ready(server)), fakes)
        finally:
            asyncio.run(stopped(server))


@pytest.fixture(autouse=True)
def _well(request: pytest.FixtureRequest) -> None:
    if "world" not in request.fixturenames:
        return
    world: World = request.getfixturevalue("world")
    for fake in world.fakes.values():
        fake.play(Script())


@pytest.fixture
def client(world: World) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{world.server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def llama(world: World) -> Iterator[ollama.Client]:
    with native_client(world.server) as made:
        yield made


@contextmanager
def native_client(server: Server) -> Iterator[ollama.Client]:
    made = ollama.Client(host=server.url)
    try:
        yield made
    finally:
        made._client.close()  # it has no other way


@pytest.mark.parametrize("kind", KINDS)
def test_openai_plain(world: World, client: openai.OpenAI, kind: str) -> None:
    answer = client.chat.completions.create(model=world.models[kind], messages=ASK)

    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


@pytest.mark.parametrize("kind", KINDS)
def test_openai_streamed(world: World, client: openai.OpenAI, kind: str) -> None:
    plain = client.chat.completions.create(model=world.models[kind], messages=ASK)
    stream = client.chat.completions.create(
        model=world.models[kind], messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)

    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].message.content
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason] == ["stop"]
    assert chunks[-1].usage is not None
    assert {chunk.model for chunk in chunks} == {world.models[kind]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("streamed", [False, True])
def test_ollama_chat(world: World, llama: ollama.Client, kind: str, streamed: bool) -> None:
    given = llama.chat(model=world.models[kind], messages=ASK, stream=streamed)  # type: ignore[call-overload]
    parts = list(given) if streamed else [given]

    assert "".join(part.message.content or "" for part in parts)
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].done_reason == "stop"
    assert parts[-1].eval_count
    assert parts[-1].total_duration


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("streamed", [False, True])
def test_ollama_generate(world: World, llama: ollama.Client, kind: str, streamed: bool) -> None:
    given = llama.generate(model=world.models[kind], prompt="Hello", stream=streamed)  # type: ignore[call-overload]
    parts = list(given) if streamed else [given]

    assert "".join(part.response for part in parts)
    assert parts[-1].done_reason == "stop"


@pytest.mark.parametrize("kind", REMOTE)
def test_a_tool_call_keeps_its_name_and_arguments(
    world: World, client: openai.OpenAI, llama: ollama.Client, kind: str
) -> None:
    world.play(kind, Script(tool=Tool("get_weather", {"city": "台北"})))
    model = world.models[kind]

    plain = client.chat.completions.create(model=model, messages=ASK, tools=[WEATHER]).choices[0]
    stream = client.chat.completions.create(model=model, messages=ASK, tools=[WEATHER], stream=True)
    pieces = [call for chunk in stream for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    native = llama.chat(model=model, messages=ASK, tools=[WEATHER])
    parts = list(llama.chat(model=model, messages=ASK, tools=[WEATHER], stream=True))

    assert plain.finish_reason == "tool_calls"
    assert plain.message.tool_calls
    call = plain.message.tool_calls[0]
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "台北"})
    arguments = "".join((piece.function.arguments or "") if piece.function else "" for piece in pieces)
    assert json.loads(arguments) == {"city": "台北"}
    assert pieces[0].id
    assert native.message.tool_calls
    assert native.message.tool_calls[0].function.arguments == {"city": "台北"}
    assert [call.function.name for part in parts for call in part.message.tool_calls or ()] == ["get_weather"]


@pytest.mark.parametrize("kind", REMOTE)
def test_thinking_is_told_apart_from_the_answer(
    world: World, client: openai.OpenAI, llama: ollama.Client, kind: str
) -> None:
    world.play(kind, Script(thinking="Let me see.", tokens=("Yes",)))
    model = world.models[kind]

    message = client.chat.completions.create(model=model, messages=ASK, reasoning_effort="low").choices[0].message
    native = llama.chat(model=model, messages=ASK, think=True)

    assert (message.content, cast(Any, message).reasoning_content) == ("Yes", "Let me see.")
    assert (native.message.content, native.message.thinking) == ("Yes", "Let me see.")


@pytest.mark.parametrize("kind", REMOTE)
def test_a_schema_reaches_the_node_in_its_own_dialect(
    world: World, client: openai.OpenAI, llama: ollama.Client, kind: str
) -> None:
    model = world.models[kind]
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "who", "schema": SCHEMA}}
    client.chat.completions.create(model=model, messages=ASK, response_format=wanted)
    by_openai = world.asked(kind)
    llama.chat(model=model, messages=ASK, format=SCHEMA)
    by_ollama = world.asked(kind)

    for body in (by_openai, by_ollama):
        sent = body["format"] if kind == "ollama" else body["response_format"]["json_schema"]["schema"]
        assert sent == SCHEMA


@pytest.mark.parametrize("kind", REMOTE)
def test_options_reach_the_node_under_its_own_names(
    world: World, client: openai.OpenAI, llama: ollama.Client, kind: str
) -> None:
    model = world.models[kind]
    client.chat.completions.create(model=model, messages=ASK, temperature=0.25, max_tokens=9, stop=["x"], seed=3)
    by_openai = world.asked(kind)
    options = {"temperature": 0.25, "num_predict": 9, "stop": ["x"], "seed": 3}
    llama.chat(model=model, messages=ASK, options=options, keep_alive="10m")
    by_ollama = world.asked(kind)

    names = ("temperature", "num_predict" if kind == "ollama" else "max_tokens", "stop", "seed")
    for body in (by_openai, by_ollama):
        told = body["options"] if kind == "ollama" else body
        assert [told[name] for name in names] == [0.25, 9, ["x"], 3]
    assert by_ollama.get("keep_alive") == (600 if kind == "ollama" else None)


@pytest.mark.parametrize("kind", KINDS)
def test_a_length_that_ran_out_is_told_as_such(
    world: World, client: openai.OpenAI, llama: ollama.Client, kind: str
) -> None:
    world.play(kind, Script(tokens=("Hello",), finish="length"))
    model = world.models[kind]

    choice = client.chat.completions.create(model=model, messages=ASK, max_tokens=1).choices[0]
    native = llama.chat(model=model, messages=ASK, options={"num_predict": 1})

    assert choice.finish_reason == "length"
    assert native.done_reason == "length"


@pytest.mark.parametrize("kind", REMOTE)
def test_embeddings_in_both_dialects(world: World, client: openai.OpenAI, llama: ollama.Client, kind: str) -> None:
    model = world.models[kind]

    vectors = client.embeddings.create(model=model, input=["a", "bcd"])
    native = llama.embed(model=model, input=["a", "bcd"])

    assert [one.embedding[0] for one in vectors.data] == [1.0, 3.0]
    assert [vector[0] for vector in native.embeddings] == [1.0, 3.0]


def test_a_server_that_ranks_is_asked_and_ollama_never_is(world: World, client: openai.OpenAI) -> None:
    body = {"query": "q", "documents": ["a", "bcd", {"text": "ef"}], "top_n": 2}
    found = client.post("/rerank", body={"model": world.models["openai"], **body}, cast_to=object)
    with pytest.raises(openai.BadRequestError, match="rerank"):
        client.post("/rerank", body={"model": world.models["ollama"], **body}, cast_to=object)

    assert found == {
        "object": "list", "model": world.models["openai"], "usage": {"prompt_tokens": 3, "total_tokens": 3},
        "results": [{"index": 1, "relevance_score": 0.03}, {"index": 2, "relevance_score": 0.02}],
    }  # fmt: skip
    assert world.asked("openai")["documents"] == ["a", "bcd", "ef"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_javascript_clients_chat_whole_and_streamed(world: World, packages: Path, kind: str) -> None:
    for check in ("ollamaChat", "ollamaGenerate", "openaiChat"):
        said = javascript(world, packages, check, world.models[kind])

        assert said["whole"], check
        assert said["text"] == said["whole"], check


@pytest.mark.parametrize("kind", REMOTE)
def test_the_javascript_clients_get_tool_calls(world: World, packages: Path, kind: str) -> None:
    world.play(kind, Script(tool=Tool("get_weather", {"city": "Taipei"})))
    native = javascript(world, packages, "ollamaTools", world.models[kind])
    (call,) = javascript(world, packages, "openaiTools", world.models[kind])

    called = native["calls"][0]["function"]
    assert (called["name"], called["arguments"]) == ("get_weather", {"city": "Taipei"})
    assert json.loads(call["function"]["arguments"]) == {"city": "Taipei"}


def javascript(world: World, packages: Path, check: str, model: str) -> Any:
    command = ["node", str(SCRIPT), str(packages), world.server.url, check, model]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("500", 502, "upstream_error"),
        ("429", 429, "upstream_rate_limited"),
        ("503", 503, "upstream_overloaded"),
        ("html", 502, "upstream_invalid_response"),
        ("redirect", 502, "upstream_invalid_response"),
        ("invalid-utf8", 502, "upstream_invalid_response"),
        ("endless-line", 502, "upstream_invalid_response"),
        ("401", 502, "upstream_refused_key"),
    ],
)
def test_what_goes_wrong_there_is_a_typed_error_here(kind: str, fault: str, status: int, code: str) -> None:
    with failing(kind, fault) as (made, llama, server):
        with pytest.raises(openai.APIStatusError) as caught:
            made.chat.completions.create(model="m@one", messages=ASK)
        with pytest.raises(ollama.ResponseError) as native:
            llama.chat(model="m@two", messages=ASK)

    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert native.value.status_code == status
    assert native.value.error
    for told in (str(caught.value), native.value.error):
        assert "127.0.0.1" not in told.replace(server.url, "")


@pytest.mark.parametrize("kind", REMOTE)
@pytest.mark.parametrize("fault", ["cut", "malformed", "error-event", "truncated"])
def test_what_goes_wrong_in_mid_stream_is_the_last_that_a_client_hears(kind: str, fault: str) -> None:
    with failing(kind, fault) as (made, llama, _server):
        heard: list[str] = []
        told: list[str] = []
        chunks = made.chat.completions.create(model="m@one", messages=ASK, stream=True)
        with pytest.raises(openai.APIError) as caught:
            heard.extend(chunk.choices[0].delta.content or "" for chunk in chunks)
        parts = llama.chat(model="m@two", messages=ASK, stream=True)
        with pytest.raises(ollama.ResponseError) as native:
            told.extend(f"{part.message.content}{'END' * bool(part.done)}" for part in parts)

    assert caught.value.code in ("upstream_invalid_response", "upstream_error")
    assert native.value.error
    assert "".join(heard).startswith("Hello from")
    assert "".join(told) == "".join(heard)


@contextmanager
def failing(kind: str, fault: str) -> Iterator[tuple[openai.OpenAI, ollama.Client, Server]]:
    """Two nodes with one fault, each for one question: a node that has just failed is left alone for a while."""
    with ExitStack() as stack:
        nodes = []
        for name in ("one", "two"):
            fake: FakeServer = FakeOllama(["m"]) if kind == "ollama" else FakeOpenAI(["m:latest"])
            stack.enter_context(running(fake))
            fake.play(replace(FAULTS[fault], between_s=0.02))  # else what came before it comes in one piece with it
            nodes.append({"name": name, "kind": kind, "url": fake.url, "look_s": 3600})
        given = {"models": {"builtin": False}, "nodes": nodes, "memory": {"gpus": False}}
        server = start_server(stack.enter_context(short_folder()), given)
        try:
            asyncio.run(ready(server))
            made = stack.enter_context(openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0))
            yield made, stack.enter_context(native_client(server)), server
        finally:
            asyncio.run(stopped(server))

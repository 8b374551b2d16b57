"""How long prompts may be, on a whole server with real workers: refused with counts, or trimmed and said so."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from modelyard.testing import FakeOllama
from tests.support.fleet import fleet
from tests.support.node import Server, client, running, serving, until

LAUNCH: dict[str, Any] = {"context_length": 512, "slots": 1, "prompt_cache_bytes": 0}
CONFIG: dict[str, Any] = {
    "memory": {"gpus": False},
    "prompts": {"max_input_tokens": 200},
    "models": {
        "launch": LAUNCH,
        "echo": {"words": {"context_length": 4096}, "short": {"context_length": 4096}},
        "options": {"yardling": {"trim": True}, "short": {"max_message_tokens": 32, "trim": True}},
        "default": "yardling",
    },
}
OLD = "The quick brown fox jumps over the lazy dog again and again. " * 6


def turn(user: str, assistant: str = "Yes.") -> list[dict[str, Any]]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


SYSTEM = {"role": "system", "content": "You are helpful."}
QUESTION = {"role": "user", "content": "What is Modelyard?"}
LONG = [SYSTEM, *turn(OLD), *turn(OLD), *turn("Hi"), QUESTION]


@pytest.fixture(scope="module")
def server() -> Any:
    with serving(CONFIG) as server:
        yield server


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with client() as session:
        yield session


async def post(
    session: aiohttp.ClientSession, server: Server, path: str, **body: Any
) -> tuple[int, Mapping[str, str], Any]:
    async with session.post(f"{server.url}{path}", json=body) as answer:
        text = await answer.text()
        if answer.content_type == "text/event-stream":
            events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
            return answer.status, answer.headers, [json.loads(one) for one in events if one != "[DONE]"]
        if answer.content_type == "application/x-ndjson":
            return answer.status, answer.headers, [json.loads(line) for line in text.splitlines()]
        return answer.status, answer.headers, json.loads(text)


async def used(session: aiohttp.ClientSession, server: Server, messages: list[dict[str, Any]]) -> int:
    _status, _headers, body = await post(
        session, server, "/v1/chat/completions", model="yardling", messages=messages, max_tokens=1
    )
    return int(body["usage"]["prompt_tokens"])


async def test_old_turns_are_left_out_and_the_reply_says_so(session: aiohttp.ClientSession, server: Server) -> None:
    status, headers, body = await post(
        session, server, "/v1/chat/completions", model="yardling", messages=LONG, max_tokens=4
    )
    shorter = await used(session, server, [SYSTEM, *turn("Hi"), QUESTION])

    assert status == 200
    trimmed = body["modelyard"]["trimmed"]
    assert trimmed["messages"] == 4
    assert not trimmed["is_estimated"]
    assert trimmed["tokens_before"] > 200 >= trimmed["tokens_after"]
    assert trimmed["tokens_after"] == body["usage"]["prompt_tokens"] == shorter
    assert headers["x-modelyard-trimmed"] == "messages=4, characters=0"


async def test_what_keeps_the_limit_is_left_alone(session: aiohttp.ClientSession, server: Server) -> None:
    _status, headers, body = await post(
        session, server, "/v1/chat/completions", model="yardling", messages=[SYSTEM, QUESTION], max_tokens=4
    )

    assert "modelyard" not in body
    assert "x-modelyard-trimmed" not in headers


@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_stream_says_it_in_its_last_chunk(
    session: aiohttp.ClientSession, server: Server, include_usage: bool
) -> None:
    _status, headers, chunks = await post(
        session, server, "/v1/chat/completions", model="yardling", messages=LONG, max_tokens=4, stream=True,
        stream_options={"include_usage": include_usage},
    )  # fmt: skip

    assert chunks[-1]["modelyard"]["trimmed"]["messages"] == 4
    assert not any("modelyard" in chunk for chunk in chunks[:-1])
    assert headers["x-modelyard-trimmed"] == "messages=4, characters=0"


async def test_ollamas_dialect_says_it_too(session: aiohttp.ClientSession, server: Server) -> None:
    options = {"num_predict": 4}
    _status, headers, whole = await post(
        session, server, "/api/chat", model="yardling", messages=LONG, stream=False, options=options
    )
    _status, _headers, lines = await post(
        session, server, "/api/chat", model="yardling", messages=LONG, options=options
    )

    assert whole["modelyard"]["trimmed"]["messages"] == lines[-1]["modelyard"]["trimmed"]["messages"] == 4
    assert headers["x-modelyard-trimmed"] == "messages=4, characters=0"


async def test_a_text_to_be_continued_keeps_its_end(session: aiohttp.ClientSession, server: Server) -> None:
    status, _headers, body = await post(
        session, server, "/v1/completions", model="yardling", prompt=OLD * 4 + "The end", max_tokens=2
    )
    raw_status, _headers, raw = await post(
        session, server, "/api/generate", model="yardling", prompt=OLD * 4, raw=True, stream=False,
        options={"num_predict": 2},
    )  # fmt: skip

    assert (status, raw_status) == (200, 200)
    for told in (body["modelyard"]["trimmed"], raw["modelyard"]["trimmed"]):
        assert told["messages"] == 0
        assert told["characters"] > 0
        assert told["tokens_after"] <= 200
    assert body["usage"]["prompt_tokens"] == body["modelyard"]["trimmed"]["tokens_after"]


async def test_what_must_stay_and_is_too_long_is_refused_with_the_counts(
    session: aiohttp.ClientSession, server: Server
) -> None:
    messages = [SYSTEM, *turn(OLD), {"role": "user", "content": OLD * 3}]
    status, _headers, body = await post(session, server, "/v1/chat/completions", model="yardling", messages=messages)
    _status, _headers, ollama = await post(session, server, "/api/chat", model="yardling", messages=messages)

    assert status == 400
    assert body["error"]["code"] == ollama["code"] == "context_length_exceeded"
    assert "the limit for yardling is 200" in body["error"]["message"]
    assert any("What always stays" in one for one in body["error"]["suggestions"])
    assert any("MAX_INPUT_TOKENS" in one for one in body["error"]["suggestions"])


async def test_without_trimming_it_is_refused_with_the_counts(session: aiohttp.ClientSession, server: Server) -> None:
    messages = [{"role": "user", "content": "word " * 201}]
    status, _headers, body = await post(session, server, "/v1/chat/completions", model="words", messages=messages)
    messages[0]["content"] = "word " * 200
    fits, _headers, _body = await post(session, server, "/v1/chat/completions", model="words", messages=messages)
    ids, _headers, ids_body = await post(session, server, "/v1/completions", model="words", prompt=[1] * 201)

    assert (status, fits, ids) == (400, 200, 400)
    assert body["error"]["message"] == "The prompt has 201 tokens; the limit for words is 200."
    assert ids_body["error"]["message"] == "The prompt has 201 tokens; the limit for words is 200."
    assert any("prompts.trim" in one for one in body["error"]["suggestions"])


async def test_a_message_over_its_own_limit_is_cut_and_others_are_not(
    session: aiohttp.ClientSession, server: Server
) -> None:
    messages = [{"role": "user", "content": "first " + "word " * 100 + "last"}, *turn("a", "b"), QUESTION]
    status, _headers, body = await post(session, server, "/v1/chat/completions", model="short", messages=messages)

    assert status == 200
    trimmed = body["modelyard"]["trimmed"]
    assert trimmed["messages"] == 0
    assert trimmed["characters"] > 300
    assert 20 <= body["usage"]["prompt_tokens"] <= 32 + 5


async def test_the_context_is_the_limit_where_no_other_is_set() -> None:
    config = {**CONFIG, "prompts": {"trim": True}, "models": {"launch": LAUNCH}}
    async with running(config) as server, client() as session:
        messages = [SYSTEM, *turn(OLD) * 12, QUESTION]
        status, _headers, body = await post(
            session, server, "/v1/chat/completions", model="yardling", messages=messages, max_tokens=8
        )
        (server.folder / "modelyard.json").write_text(json.dumps({**config, "prompts": {"trim": False}}))

        async def refused() -> bool:
            answer = await post(
                session, server, "/v1/chat/completions", model="yardling", messages=messages, max_tokens=8
            )
            return answer[0] == 400 and answer[2]["error"]["code"] == "context_length_exceeded"

        await until(refused, "the setting is taken up while the server runs")

    assert status == 200
    assert body["modelyard"]["trimmed"]["tokens_before"] > 512
    assert body["usage"]["prompt_tokens"] <= 512 - 8


async def test_a_node_is_spared_what_is_too_long_by_an_estimate() -> None:
    nodes = {"one": FakeOllama(["big:70b"])}
    settings = {"prompts": {"max_input_tokens": 100}, "models": {"options": {"big:70b": {"trim": True}}}}
    async with fleet(nodes, settings) as yard:

        async def ask(messages: list[dict[str, Any]]) -> tuple[int, Any]:
            body = {"model": "big:70b", "messages": messages}
            async with yard.http.post(f"{yard.server.url}/v1/chat/completions", json=body) as answer:
                return answer.status, json.loads(await answer.read())

        status, body = await ask([*turn(OLD), QUESTION])
        refused, why = await ask([{"role": "user", "content": OLD * 2}])
        asked = [one.body for one in nodes["one"].questions if one.body.get("messages")]

    assert (status, refused) == (200, 400)
    assert body["modelyard"]["trimmed"]["is_estimated"]
    assert [message["content"] for message in asked[-1]["messages"]] == [QUESTION["content"]]
    assert "The prompt has about " in why["error"]["message"]
    assert len(asked) == 1

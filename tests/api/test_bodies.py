"""Bodies that are wrong, hostile or large, as the endpoints see them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from modelyard.api.asked import Asked
from modelyard.api.bodies import BRACKETS_MAX, COMMAS_MAX, ESCAPES_MAX
from modelyard.api.openai_codec import read_chat, read_completion
from modelyard.errors import BadRequest, MalformedBody, RequestTooLarge
from modelyard.types.chat import ImagePart

from .data_plane import data_plane

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
NUMBERS = (
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "top_k", "min_p", "typical_p", "n",
    "repeat_penalty", "repeat_last_n", "dynatemp_range", "dynatemp_exponent", "mirostat", "mirostat_tau", "max_tokens",
    "mirostat_eta", "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base", "dry_allowed_length",
    "dry_penalty_last_n", "max_completion_tokens", "top_logprobs",
)  # fmt: skip


def chat(**members: object) -> Asked:
    return read_chat(json.dumps(CHAT | members).encode())


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "-3", "9223372036854775808", '"1"', "[1]", "{}", "true"])
def test_a_number_that_is_not_possible_never_reaches_a_worker(name: str, value: str) -> None:
    body = json.dumps(CHAT)[:-1] + f', "{name}": {value}}}'

    with pytest.raises(BadRequest) as caught:
        read_chat(body.encode())

    assert caught.value.param in (name, None)


@pytest.mark.parametrize(
    ("member", "value", "param"),
    [
        ("messages", [], "messages"),
        ("messages", [{"role": "robot", "content": "x"}], "messages[0].role"),
        ("messages", [{"role": "user"}], "messages[0].content"),
        ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
        ("messages", [{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0].type"),
        ("model", 5, "model"),
        ("model", "x" * 513, "model"),
        ("stream", "yes", "stream"),
        ("stream_options", {"include_usage": True}, "stream_options"),
        ("stop", [""] * 17, "stop"),
        ("logit_bias", {"5": 1e6}, "logit_bias[...]"),
        ("top_logprobs", 3, "top_logprobs"),
        ("n", 9, "n"),
        ("keep_alive", "soon", "keep_alive"),
        ("tool_choice", {"type": "function", "function": {"name": "nobody"}}, "tool_choice"),
        ("tools", [{"type": "function", "function": {"name": "a b"}}], "tools[0].function.name"),
        ("response_format", {"type": "xml"}, "response_format.type"),
        ("response_format", {"type": "json_schema"}, "response_format.json_schema"),
        ("functions", [], "functions"),
        ("modalities", ["audio"], "modalities"),
        ("reasoning_effort", "much", "reasoning_effort"),
    ],
)
def test_a_refusal_names_the_member_at_fault(member: str, value: object, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(**{member: value})

    assert caught.value.param == param
    assert type(caught.value) is BadRequest


@pytest.mark.parametrize("name", ["api_base", "base_url", "api_key", "headers", "extra_headers", "extra_body", "proxy"])
@pytest.mark.parametrize("value", ["http://evil.example", None, {}])
def test_a_caller_never_chooses_where_a_request_goes(name: str, value: object) -> None:
    with pytest.raises(BadRequest) as caught:
        chat(**{name: value})

    assert caught.value.param == name


def test_what_we_do_not_know_is_dropped() -> None:
    asked = chat(
        user="u", store=True, metadata={"a": 1}, n_discard=-5, id_slot=3, chat_template="{{ x }}", samplers=["x"]
    )

    assert asked.request.options == {}


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/x.png",
        "file:///etc/passwd",
        "data:text/html;base64,AAAA",
        "data:image/png,AAAA",
        "data:image/svg+xml;base64,AAAA",
        "AAAA",
    ],
)
def test_images_come_inline_or_not_at_all(url: str) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]

    with pytest.raises(BadRequest) as caught:
        chat(messages=[{"role": "user", "content": content}])

    assert caught.value.param == "messages[0].content[0].image_url.url"


def test_an_inline_image_is_taken() -> None:
    content = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0="}}]

    asked = chat(messages=[{"role": "user", "content": content}])

    assert asked.request.messages[0].content == (ImagePart("image/png", "iVBORw0="),)


def test_thinking_is_switched_by_allow_listed_template_options_only() -> None:
    asked = chat(reasoning_effort="none", chat_template_kwargs={"enable_thinking": True, "evil": "x"})

    assert asked.request.think is False


def deep(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _level in range(levels):
        found = {"a": found}
    return found


@pytest.mark.parametrize("arguments", [deep(70), deep(300), {"a": 2**70}])
async def test_arguments_that_cannot_be_written_down_are_refused_in_every_dialect(arguments: dict[str, Any]) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": arguments}}
    body = {"model": "tiny", "messages": [{"role": "assistant", "content": "x", "tool_calls": [call]}]}
    async with data_plane() as plane:
        for path in ("/v1/chat/completions", "/api/chat", "/api/v1/llm/chat"):
            answer = await plane.ask(body, path)

            assert answer.status in (400, 413)
        assert plane.residency.asked == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model":"\xff"}', b'{"a":"\\ud800"}', b"{} x"])
def test_what_is_no_json_object_is_malformed(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        read_chat(body)

    assert isinstance(caught.value, MalformedBody) or caught.value.param in ("model", "messages")


def test_hostile_structure_is_refused_before_it_is_decoded() -> None:
    brackets = b'{"x":[' + b"[]," * BRACKETS_MAX + b"[]]}"
    commas = b'{"x":[' + b"1," * (COMMAS_MAX + 1) + b"1]}"
    escapes = b'{"x":"' + b"\\n" * (ESCAPES_MAX + 1) + b'"}'

    for body in (brackets, commas, escapes):
        with pytest.raises(RequestTooLarge):
            read_chat(body)


@pytest.mark.parametrize("count", [65, 5_000, 30_000])
def test_nesting_is_bounded_wherever_it_is(count: int) -> None:
    deep = '{"a":' * count + "1" + "}" * count
    schema = '{"type":"json_schema","json_schema":{"schema":' + deep + "}}"
    parameters = '[{"type":"function","function":{"name":"f","parameters":' + deep + "}}]"

    for member in (f'"response_format":{schema}', f'"tools":{parameters}'):
        with pytest.raises(RequestTooLarge):
            read_chat((json.dumps(CHAT)[:-1] + "," + member + "}").encode())


def test_a_schema_with_too_many_items_is_refused() -> None:
    schema = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(15_000)}}

    with pytest.raises(BadRequest, match="more than 20000 items"):
        chat(response_format={"type": "json_schema", "json_schema": {"schema": schema}})


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("x", "x"), (["x"], "x"), ([1, 2], (1, 2)), ([[1, 2]], (1, 2))],
)
def test_a_prompt_is_a_text_or_token_ids(prompt: object, expected: object) -> None:
    asked = read_completion(json.dumps({"model": "m", "prompt": prompt}).encode())

    assert asked.request.prompt == expected


@pytest.mark.parametrize("prompt", [[], ["a", "b"], [1, "a"], [True], [-1], [2**31], [[[1]], 2], [1.5]])
def test_other_prompts_are_refused(prompt: object) -> None:
    with pytest.raises(BadRequest) as caught:
        read_completion(json.dumps({"model": "m", "prompt": prompt}).encode())

    assert caught.value.param == "prompt"


@pytest.mark.parametrize("member", [{"echo": True}, {"suffix": "x"}, {"best_of": 3}])
def test_what_plain_completions_cannot_do_is_said(member: dict[str, object]) -> None:
    with pytest.raises(BadRequest) as caught:
        read_completion(json.dumps({"model": "m", "prompt": "x"} | member).encode())

    assert caught.value.param in member


async def test_bodies_of_another_type_or_encoding_are_refused() -> None:
    async with data_plane() as plane:
        for headers in ({"Content-Type": "text/plain"}, {"Content-Type": ""}, {"Content-Encoding": "gzip"}):
            connection = await plane.connect()
            await connection.send(CHAT, "/v1/chat/completions", **headers)

            assert (await connection.answer()).status == 415
        await plane.settled(unsupported_media_type=3)


async def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    async with data_plane() as plane:
        connection = await plane.connect()
        await connection.send(b"{", "/v1/chat/completions", **{"Content-Length": str(11 * 1024 * 1024)})

        answer = await connection.answer()
        assert (answer.status, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_body_without_a_length_is_bounded_too() -> None:
    async with data_plane() as plane:
        connection = await plane.connect()
        connection.writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        piece = b"10000\r\n" + b" " * 65536 + b"\r\n"
        for _ in range(11 * 16):
            connection.writer.write(piece)

        assert (await connection.head())[0] == 413
        connection.writer.transport.abort()
        await plane.settled(request_too_large=1)


async def test_a_sender_that_leaves_within_the_body_is_forgotten() -> None:
    async with data_plane() as plane:
        connection = await plane.connect()
        await connection.send(b'{"model"', "/v1/chat/completions", **{"Content-Length": "500"})
        await asyncio.sleep(0)
        connection.writer.transport.abort()

        while not plane.outcomes():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await plane.settled(client_closed=1)

"""What Ollama's clients send and see when they chat, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import Any

import pytest

from modelyard.errors import InsufficientMemory, ModelNotFound, QueueFull
from modelyard.gateway.keys import Caller, Right
from modelyard.providers.deadlines import Deadlines
from tests.providers.fake_worker import DONE, HEAD, Step, delta, event, until, usage
from tests.support.counts import PROVE

from .data_plane import data_plane

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
WHOLE = CHAT | {"stream": False}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\x00" * 30).decode()
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]


def call_steps(*pieces: str, finish: str = "stop", name: str = "now", index: int = 0) -> list[Step]:
    """A call whose arguments come in these pieces."""
    first = {"index": index, "id": "c1", "type": "function", "function": {"name": name, "arguments": ""}}
    rest = [delta(tool_calls=[{"index": index, "function": {"arguments": piece}}]) for piece in pieces]
    return [HEAD, delta(tool_calls=[first]), *rest, delta(finish), usage(), DONE]


async def test_a_chat_is_streamed_as_lines_of_json_unless_told_otherwise() -> None:
    async with data_plane() as plane:
        answer = await plane.ask(CHAT, "/api/chat")

        *texts, last = answer.lines()
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["cache-control"] == "no-cache"
        assert [line["message"] for line in texts] == [
            {"role": "assistant", "content": "Hello"},
            {"role": "assistant", "content": " there"},
        ]
        assert all(line["done"] is False and line["model"] == "tiny" for line in texts)
        assert all(TIME.fullmatch(line["created_at"]) for line in [*texts, last])
        assert (last["done"], last["done_reason"], last["message"]["content"]) == (True, "stop", "")
        assert (last["prompt_eval_count"], last["eval_count"]) == (3, 2)
        assert (last["prompt_eval_duration"], last["eval_duration"]) == (5_000_000, 8_000_000)
        assert last["load_duration"] == 500_000_000
        assert isinstance(last["total_duration"], int)
        await plane.settled(ok=1)


async def test_a_whole_chat_is_one_object() -> None:
    async with data_plane() as plane:
        answer = await plane.ask(WHOLE | {"model": "SMALL"}, "/api/chat")

        body = answer.json()
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-modelyard-model"] == "tiny"
        assert TIME.fullmatch(body.pop("created_at"))
        assert body.pop("total_duration") > 0
        assert body == {
            "model": "SMALL",
            "message": {"role": "assistant", "content": "Hello there"},
            "done": True,
            "done_reason": "stop",
            "load_duration": 500_000_000,
            "prompt_eval_count": 3,
            "prompt_eval_duration": 5_000_000,
            "eval_count": 2,
            "eval_duration": 8_000_000,
        }


async def test_options_reach_the_engine_under_its_names_and_unknown_ones_do_not() -> None:
    known = {
        "num_ctx": 2048, "num_predict": 7, "temperature": 0.5, "top_k": 5, "stop": ["x"], "seed": 3,
        "repeat_last_n": -1,
    }  # fmt: skip
    unknown = {
        "num_gpu": 99,
        "main_gpu": 1,
        "use_mmap": False,
        "api_base": "http://evil",
        "n_discard": -1,
        "min_p": None,
    }
    async with data_plane() as plane:
        await plane.ask(WHOLE | {"options": known | unknown, "keep_alive": "10m"}, "/api/chat")

        (asked,) = plane.worker.bodies
        sent = {name for name in asked if name not in ("model", "messages", "stream", "stream_options")}
        assert sent == {"return_progress", "max_tokens", "temperature", "top_k", "stop", "repeat_last_n", "seed"}
        assert (asked["max_tokens"], asked["stop"], asked["repeat_last_n"]) == (7, ["x"], -1)
        assert plane.residency.asked[0]["keep_alive_s"] == 600
        assert plane.residency.wishes[0].context_length == 2048


@pytest.mark.parametrize("unlimited", [0, -1, -2])
async def test_a_negative_number_of_tokens_is_no_limit(unlimited: int) -> None:
    async with data_plane() as plane:
        await plane.ask(WHOLE | {"options": {"num_predict": unlimited}}, "/api/chat")

        assert "max_tokens" not in plane.worker.bodies[0]


@pytest.mark.parametrize(
    ("given", "seconds"), [(300, 300.0), ("90s", 90.0), ("1h30m", 5400.0), (-1, -1.0), ("-1m", -60.0), (0, 0.0)]
)
async def test_keep_alive_is_seconds_or_a_duration(given: object, seconds: float) -> None:
    async with data_plane() as plane:
        await plane.ask(WHOLE | {"keep_alive": given}, "/api/chat")

        assert plane.residency.asked[0]["keep_alive_s"] == seconds


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep_alive": "soon"},
        {"options": {"temperature": "hot"}},
        {"options": {"temperature": -1}},
        {"options": {"num_ctx": 0}},
        {"options": {"num_predict": -3}},
        {"options": {"num_predict": 2**63}},
        {"options": {"top_k": [1]}},
        {"options": 5},
        {"think": "very"},
        {"format": "yaml"},
        {"format": 5},
        {"format": {"type": "string", "pattern": "((a*)*)*((a*)*)*((a*)*)*((a*)*)*((a*)*)*"}},
        {"messages": [{"role": "user", "content": "x", "images": ["!!!"]}]},
        {"messages": [{"role": "user", "content": "x", "images": [base64.b64encode(b"<svg onload=x>").decode()]}]},
        {"messages": [{"role": "wizard", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        {"top_logprobs": 3},
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_asked(wrong: dict[str, Any]) -> None:
    async with data_plane() as plane:
        answer = await plane.ask(CHAT | wrong, "/api/chat")

        body = answer.json()
        assert answer.status == 400
        assert isinstance(body["error"], str)
        assert set(body) == {"error", "code", "suggestions", "request_id"}
        assert plane.residency.asked == []


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'{"model": "tiny", "messages": 3}'])
async def test_a_body_that_is_no_object_is_400(body: bytes) -> None:
    async with data_plane() as plane:
        answer = await plane.ask(body, "/api/chat")

        assert answer.status == 400
        assert answer.json()["error"]


async def test_what_curl_sends_by_itself_is_read() -> None:
    async with data_plane() as plane:
        connection = await plane.connect()
        await connection.send(WHOLE, "/api/chat", **{"Content-Type": "application/x-www-form-urlencoded"})
        taken = await connection.answer()
        connection = await plane.connect()
        await connection.send(WHOLE, "/api/chat", **{"Content-Type": "text/plain"})
        refused = await connection.answer()

        assert (taken.status, refused.status) == (200, 415)


async def test_a_tool_call_is_sent_whole_as_soon_as_its_arguments_are() -> None:
    steps = call_steps('{"zone":', ' "a}\\', '"b", "deep": {"x": [1', "]}}")
    async with data_plane(lambda _body: steps) as plane:
        streamed = await plane.ask(CHAT | {"tools": TOOLS}, "/api/chat")
        whole = await plane.ask(WHOLE | {"tools": TOOLS}, "/api/chat")

        call = {
            "id": "c1",
            "function": {"index": 0, "name": "now", "arguments": {"zone": 'a}"b', "deep": {"x": [1]}}},
        }
        first, last = streamed.lines()
        assert first["message"] == {"role": "assistant", "content": "", "tool_calls": [call]}
        assert (last["done"], last["done_reason"]) == (True, "stop")
        assert whole.json()["message"]["tool_calls"] == [call]
        assert plane.worker.bodies[0]["tools"] == TOOLS


async def test_calls_without_arguments_are_calls_and_cut_ones_are_not_told() -> None:
    async with data_plane(lambda _body: call_steps()) as plane:
        empty = await plane.ask(WHOLE | {"tools": TOOLS}, "/api/chat")
    async with data_plane(lambda _body: call_steps('{"zone": "U', finish="length")) as plane:
        cut = await plane.ask(WHOLE | {"tools": TOOLS}, "/api/chat")

    assert empty.json()["message"]["tool_calls"][0]["function"]["arguments"] == {}
    assert "tool_calls" not in cut.json()["message"]
    assert cut.json()["done_reason"] == "length"


@pytest.mark.parametrize("arguments", ['{"zone": "U', "[1]", '"text"', "{]}", "nonsense"])
async def test_arguments_that_are_no_object_are_an_error_and_no_answer(arguments: str) -> None:
    async with data_plane(lambda _body: call_steps(arguments)) as plane:
        whole = await plane.ask(WHOLE | {"tools": TOOLS}, "/api/chat")
        streamed = await plane.ask(CHAT | {"tools": TOOLS}, "/api/chat")

        assert (whole.status, whole.json()["code"]) == (502, "upstream_invalid_response")
        assert (streamed.status, streamed.json()["code"]) == (502, "upstream_invalid_response")


async def test_a_conversation_with_tools_images_and_thinking_reaches_the_worker() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "time?"},
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [
            {"function": {"name": "now", "arguments": {"zone": "UTC"}}},
            {"function": {"name": "day", "arguments": {}}},
        ]},
        {"role": "tool", "tool_name": "day", "content": "Monday"},
        {"role": "tool", "tool_name": "now", "content": "noon"},
    ]  # fmt: skip
    async with data_plane() as plane:
        await plane.ask({"model": "tiny", "messages": messages, "stream": False}, "/api/chat")

        asked = plane.worker.bodies[0]["messages"]
        assert asked[2]["reasoning_content"] == "hm"
        assert [call["id"] for call in asked[2]["tool_calls"]] == ["call_0", "call_1"]
        assert json.loads(asked[2]["tool_calls"][0]["function"]["arguments"]) == {"zone": "UTC"}
        assert [(turn["tool_call_id"], turn["name"]) for turn in asked[3:]] == [("call_1", "day"), ("call_0", "now")]


async def test_an_image_goes_to_a_model_that_sees_and_is_refused_by_one_that_does_not() -> None:
    async with data_plane() as plane:
        answer = await plane.ask(
            WHOLE | {"messages": [{"role": "user", "content": "what?", "images": [PNG]}]}, "/api/chat"
        )

        assert answer.status == 400
        assert answer.json()["error"] == '"tiny" does not support vision'


@pytest.mark.parametrize(("think", "options"), [
    (False, {"enable_thinking": False}), (True, {"enable_thinking": True}), ("high", {"reasoning_effort": "high"}),
])  # fmt: skip
async def test_think_reaches_the_template(think: object, options: dict[str, object]) -> None:
    async with data_plane() as plane:
        await plane.ask(WHOLE | {"think": think}, "/api/chat")

        assert plane.worker.bodies[0]["chat_template_kwargs"] == options


async def test_thinking_is_told_apart_from_the_answer() -> None:
    steps: list[Step] = [
        HEAD, delta(reasoning_content="so "), delta(reasoning="then"), delta(content="42"),
        delta("stop"), usage(), DONE,
    ]  # fmt: skip
    async with data_plane(lambda _body: steps) as plane:
        streamed = await plane.ask(CHAT, "/api/chat")
        whole = await plane.ask(WHOLE, "/api/chat")

        assert [line["message"].get("thinking") for line in streamed.lines()] == ["so ", "then", None, None]
        assert whole.json()["message"] == {"role": "assistant", "content": "42", "thinking": "so then"}


async def test_formats_become_grammars() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    async with data_plane() as plane:
        for format in ("json", schema, "", None):
            await plane.ask(WHOLE | {"format": format}, "/api/chat")

        assert [asked.get("response_format") for asked in plane.worker.bodies] == [
            {"type": "json_object"},
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
            None,
            None,
        ]


@pytest.mark.parametrize("body", [CHAT, WHOLE])
async def test_an_error_before_the_first_content_has_its_status_and_ollamas_words(body: dict[str, Any]) -> None:
    async with data_plane() as plane:
        unknown = await plane.ask(body | {"model": "tiyn"}, "/api/chat")
        plane.residency.refusal = QueueFull(waiting=512)
        full = await plane.ask(body, "/api/chat")
        plane.residency.refusal = InsufficientMemory(
            model="tiny", needed="1", device="ram", budget="0", free="0", never=True
        )
        hopeless = await plane.ask(body, "/api/chat")

        assert unknown.status == 404
        assert unknown.json()["error"] == 'model "tiyn" not found, try pulling it first'
        assert (full.status, full.headers["retry-after"], full.json()["code"]) == (503, "2", "queue_full")
        assert full.json()["error"].startswith("server busy, please try again.")
        assert (hopeless.status, hopeless.headers["x-should-retry"]) == (503, "false")


async def test_an_error_after_the_first_content_is_the_last_line() -> None:
    steps: list[Step] = [HEAD, delta(content="Hel"), 0.05, event({"error": {"code": 500, "message": "boom\n\ndone"}})]
    async with data_plane(lambda _body: steps) as plane:
        answer = await plane.ask(CHAT, "/api/chat")

        first, last = answer.lines()
        assert first["message"]["content"] == "Hel"
        assert (last["code"], last["request_id"]) == ("upstream_error", "req-1")
        assert isinstance(last["error"], str)
        assert "done" not in last
        await plane.settled(upstream_error=1)


async def test_a_cut_answer_is_never_done() -> None:
    complete = [HEAD, delta(content="Hello"), delta("stop"), usage(), DONE]
    wire = b"".join(part for part in complete[1:] if isinstance(part, bytes))
    async with data_plane(deadlines=Deadlines(exit_news_s=0.001)) as plane:
        for end in range(0, len(wire) - len(b"\n\n"), 1 if PROVE else 7):
            steps: list[Step] = [HEAD + wire[:end]]
            plane.worker.script = lambda _body, steps=steps: steps  # type: ignore[misc]
            streamed = await plane.ask(CHAT, "/api/chat")
            whole = await plane.ask(WHOLE, "/api/chat")

            assert b'"done":true' not in streamed.body, end
            assert b'"done":true' not in whole.body, end
            assert whole.status == 502


async def test_silence_is_filled_with_valid_lines_that_say_nothing() -> None:
    async with data_plane(keepalive_s=0.02) as plane:
        plane.residency.gate = asyncio.Event()
        connection = await plane.connect()
        await connection.send(CHAT, "/api/chat")
        status, headers = await connection.head()
        raw = b""
        while raw.count(b"\n") < 12:
            raw += await connection.reader.read(65536)
        plane.residency.gate.set()
        await connection.reader.read()

        lines = [json.loads(line) for line in raw.split(b"\n") if line.startswith(b"{")]
        assert (status, headers["content-type"]) == (200, "application/x-ndjson")
        assert lines
        assert all(line["message"] == {"role": "assistant", "content": ""} and not line["done"] for line in lines)


HOSTILE = 'a\nb\r\n\n{"done":true}\u2028x\u2029y\u0085z\x0b\x0c\x1c[DONE]'


async def test_text_of_a_model_cannot_end_a_line() -> None:
    steps: list[Step] = [HEAD, delta(content=HOSTILE), delta("stop"), usage(), DONE]
    async with data_plane(lambda _body: steps) as plane:
        answer = await plane.ask(CHAT | {"model": "TINY"}, "/api/chat")

        lines = answer.body.decode().splitlines()
        assert [json.loads(line)["message"]["content"] for line in lines] == [HOSTILE, ""]


async def test_who_leaves_is_noticed_while_waiting() -> None:
    async with data_plane() as plane:
        plane.residency.gate = asyncio.Event()
        connection = await plane.connect()
        await connection.send(CHAT, "/api/chat")
        await until(lambda: plane.residency.waiting == 1, "it waits")
        await connection.leave()

        await plane.settled(client_closed=1)


@pytest.mark.parametrize(("keep_alive", "act"), [(None, "load"), ("5m", "load"), (0, "unload"), ("0s", "unload")])
@pytest.mark.parametrize("stream", [True, False])
async def test_no_messages_load_and_unload(keep_alive: object, act: str, stream: bool) -> None:
    body = {"model": "tiny", "messages": [], "keep_alive": keep_alive, "stream": stream}
    async with data_plane() as plane:
        answer = await plane.ask(body, "/api/chat")

        said = answer.json()
        assert plane.standby.asked[0][:2] == (act, "tiny")
        assert said.pop("created_at")
        assert said == {
            "model": "tiny", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": act,
        }  # fmt: skip
        assert plane.worker.bodies == []


async def test_a_load_that_fails_is_an_error_with_its_status() -> None:
    async with data_plane() as plane:
        plane.standby.refusal = ModelNotFound(model="tiny")
        answer = await plane.ask({"model": "tiny"}, "/api/chat")

        assert answer.status == 404


async def test_a_long_load_keeps_its_connection_alive() -> None:
    async with data_plane(keepalive_s=0.02) as plane:
        plane.standby.gate = asyncio.Event()
        connection = await plane.connect()
        await connection.send({"model": "tiny", "messages": []}, "/api/chat")
        await connection.head()
        await connection.reader.readuntil(b'"done":false}\n')
        plane.standby.gate.set()
        rest = await connection.reader.read()

        assert b'"done_reason":"load"' in rest


async def test_a_model_outside_the_callers_key_is_refused() -> None:
    caller = Caller("narrow", frozenset((Right.INFER,)), models=frozenset(("other",)))
    async with data_plane(caller=caller) as plane:
        answer = await plane.ask(CHAT, "/api/chat")

        assert (answer.status, answer.json()["code"]) == (403, "model_not_allowed")


async def test_logprobs_are_a_list_beside_the_message() -> None:
    token = {"token": "a", "logprob": -1, "top_logprobs": []}
    one = event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None,
                              "logprobs": {"content": [token]}}]})  # fmt: skip
    async with data_plane(lambda _body: [HEAD, one, delta("stop"), usage(), DONE]) as plane:
        streamed = await plane.ask(CHAT | {"logprobs": True, "top_logprobs": 1}, "/api/chat")
        whole = await plane.ask(WHOLE | {"logprobs": True}, "/api/chat")

        assert streamed.lines()[0]["logprobs"] == [token]
        assert whole.json()["logprobs"] == [token]

"""What OpenAI's clients send and see, over real sockets."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

from modelyard.errors import InsufficientMemory, QueueFull
from modelyard.gateway.keys import Caller, Right
from tests.providers.fake_worker import DONE, HEAD, HELLO, Step, delta, event, refusal, usage

from .data_plane import data_plane

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}


async def test_a_plain_chat_is_put_together_from_the_workers_stream() -> None:
    async with data_plane() as plane:
        answer = await plane.ask(CHAT)

        body = answer.json()
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert re.fullmatch(r"chatcmpl-[0-9a-f]{24}", body.pop("id"))
        assert body.pop("created") > 1_700_000_000
        assert body == {
            "object": "chat.completion",
            "model": "tiny",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hello there", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": 3,
                "completion_tokens": 2,
                "total_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
        }
        await plane.settled(ok=1)


async def test_workers_are_always_asked_for_a_stream_with_progress_and_usage() -> None:
    async with data_plane() as plane:
        await plane.ask(
            CHAT | {"max_completion_tokens": 7, "max_tokens": 9, "stop": "x", "top_k": 5, "api": 1, "seed": 3}
        )

        assert plane.worker.bodies == [
            {
                "model": "tiny",
                "messages": [{"role": "user", "content": "hi"}],
                "stream": True,
                "stream_options": {"include_usage": True},
                "return_progress": True,
                "max_tokens": 7,
                "stop": ["x"],
                "top_k": 5,
                "seed": 3,
            }
        ]
        assert b"X-Request-Id: req-1\r\n" in plane.worker.heads[0]
        assert b"Connection: close\r\n" in plane.worker.heads[0]


async def test_a_streamed_chat_has_role_content_finish_and_the_end_mark_in_that_order() -> None:
    async with data_plane() as plane:
        answer = await plane.ask(STREAM)

        *events, last = answer.events()
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        assert last == "[DONE]"
        assert [event["choices"][0]["delta"] for event in events] == [
            {"role": "assistant", "content": ""},
            {"content": "Hello"},
            {"content": " there"},
            {},
        ]
        assert [event["choices"][0]["finish_reason"] for event in events] == [None, None, None, "stop"]
        assert len({(event["id"], event["created"], event["model"], event["object"]) for event in events}) == 1
        assert all("usage" not in event for event in events)


async def test_usage_comes_in_a_chunk_of_its_own_if_it_was_asked_for() -> None:
    async with data_plane() as plane:
        answer = await plane.ask(STREAM | {"stream_options": {"include_usage": True}})

        *chunks, with_usage, _done = answer.events()
        assert all(chunk["usage"] is None for chunk in chunks)
        assert with_usage["choices"] == []
        assert with_usage["usage"]["total_tokens"] == 5


async def test_an_answer_tells_what_happened_to_it() -> None:
    async with data_plane() as plane:
        answer = await plane.ask(CHAT | {"model": "SMALL"})

        assert answer.json()["model"] == "SMALL"
        assert answer.headers["x-modelyard-model"] == "tiny"
        assert answer.headers["x-modelyard-node"] == "local"
        assert answer.headers["x-modelyard-queue-ms"] == "250"
        assert answer.headers["x-modelyard-load-ms"] == "500"
        assert float(answer.headers["x-modelyard-overhead-ms"]) >= 0
        assert int(answer.headers["openai-processing-ms"]) >= 0


TOOL_STEPS: list[Step] = [
    HEAD,
    delta(tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "now", "arguments": ""}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '{"zone":'}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": '"UTC"}'}}]),
    delta("stop"), usage(), DONE,
]  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]


async def test_tool_calls_are_relayed_piece_by_piece() -> None:
    async with data_plane(lambda _body: TOOL_STEPS) as plane:
        answer = await plane.ask(
            STREAM | {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "now"}}}
        )

        pieces = [event["choices"][0]["delta"].get("tool_calls") for event in answer.events()[:-1]]
        assert pieces[1:-1] == [
            [{"index": 0, "id": "c1", "type": "function", "function": {"name": "now", "arguments": ""}}],
            [{"index": 0, "function": {"arguments": '{"zone":'}}],
            [{"index": 0, "function": {"arguments": '"UTC"}'}}],
        ]
        assert answer.events()[-2]["choices"][0]["finish_reason"] == "tool_calls"
        assert plane.worker.bodies[0]["tools"] == TOOLS
        assert plane.worker.bodies[0]["tool_choice"] == {"type": "function", "function": {"name": "now"}}


async def test_tool_calls_of_a_plain_answer_are_whole() -> None:
    async with data_plane(lambda _body: TOOL_STEPS) as plane:
        answer = await plane.ask(CHAT | {"tools": TOOLS})

        choice = answer.json()["choices"][0]
        call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"zone":"UTC"}'}}
        assert choice["message"] == {"role": "assistant", "content": None, "refusal": None, "tool_calls": [call]}
        assert choice["finish_reason"] == "tool_calls"


async def test_a_conversation_with_tools_images_and_reasoning_reaches_the_worker_whole() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"zone":"UTC"}'}}
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "time?"}], "name": "Ann"},
        {"role": "assistant", "content": None, "reasoning": "hm", "tool_calls": [call]},
        {"role": "tool", "content": "noon", "tool_call_id": "c1"},
    ]
    async with data_plane() as plane:
        await plane.ask({"model": "tiny", "messages": messages})

        assert plane.worker.bodies[0]["messages"] == [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "time?"}], "name": "Ann"},
            {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]},
            {"role": "tool", "content": "noon", "tool_call_id": "c1"},
        ]


async def test_several_choices_are_asked_for_one_by_one_under_one_lease() -> None:
    async with data_plane() as plane:
        plain = await plane.ask(CHAT | {"n": 3, "seed": 10})
        streamed = await plane.ask(STREAM | {"n": 2, "stream_options": {"include_usage": True}})

        body = plain.json()
        assert [(choice["index"], choice["message"]["content"]) for choice in body["choices"]] == [
            (0, "Hello there"), (1, "Hello there"), (2, "Hello there"),
        ]  # fmt: skip
        assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (3, 6)
        assert [asked.get("seed") for asked in plane.worker.bodies] == [10, 11, 12, None, None]
        assert all("n" not in asked for asked in plane.worker.bodies)
        assert len(plane.residency.leases) == 2
        finishes = [
            e["choices"][0] for e in streamed.events()[:-1] if e["choices"] and e["choices"][0]["finish_reason"]
        ]
        assert [(choice["index"], choice["finish_reason"]) for choice in finishes] == [(0, "stop"), (1, "stop")]
        assert streamed.events()[-2]["usage"]["completion_tokens"] == 4
        await plane.settled(ok=2)


async def test_a_completion_answers_in_its_own_shape() -> None:
    logprobs = {"content": [{"token": "ab", "logprob": -1.0, "top_logprobs": [{"token": "ab", "logprob": -1.0}]}]}
    steps: list[Step] = [
        HEAD,
        event({"choices": [{"index": 0, "text": "ab", "logprobs": logprobs, "finish_reason": None}]}),
        event({"choices": [{"index": 0, "text": "", "finish_reason": "length"}],
               "usage": {"prompt_tokens": 2, "completion_tokens": 1}}),
        DONE,
    ]  # fmt: skip
    async with data_plane(lambda _body: steps) as plane:
        plain = await plane.ask({"model": "tiny", "prompt": "say", "logprobs": 1}, "/v1/completions")
        streamed = await plane.ask({"model": "tiny", "prompt": [1, 2], "stream": True}, "/v1/completions")

        legacy = {"tokens": ["ab"], "token_logprobs": [-1.0], "top_logprobs": [{"ab": -1.0}], "text_offset": [0]}
        assert plain.json()["object"] == "text_completion"
        assert plain.json()["choices"] == [{"index": 0, "text": "ab", "logprobs": legacy, "finish_reason": "length"}]
        texts = [event["choices"][0]["text"] for event in streamed.events()[:-1]]
        assert texts == ["ab", ""]
        assert streamed.events()[-1] == "[DONE]"
        assert [asked["prompt"] for asked in plane.worker.bodies] == ["say", [1, 2]]


async def test_logprobs_of_a_plain_chat_are_joined() -> None:
    def one(token: str) -> bytes:
        return event({"choices": [{"index": 0, "delta": {"content": token}, "finish_reason": None,
                      "logprobs": {"content": [{"token": token, "logprob": -1}]}}]})  # fmt: skip

    async with data_plane(lambda _body: [HEAD, one("a"), one("b"), delta("stop"), usage(), DONE]) as plane:
        answer = await plane.ask(CHAT | {"logprobs": True, "top_logprobs": 1})

        content = [{"token": "a", "logprob": -1}, {"token": "b", "logprob": -1}]
        assert answer.json()["choices"][0]["logprobs"] == {"content": content, "refusal": None}


async def test_a_schema_reaches_the_worker() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    async with data_plane() as plane:
        await plane.ask(
            CHAT | {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
        )
        await plane.ask(CHAT | {"response_format": {"type": "json_object"}})

        assert [asked["response_format"] for asked in plane.worker.bodies] == [
            {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
            {"type": "json_object"},
        ]


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_an_error_before_the_first_content_keeps_its_status(body: dict[str, Any]) -> None:
    async with data_plane() as plane:
        plane.residency.refusal = QueueFull(waiting=512)
        full = await plane.ask(body)
        plane.residency.refusal = InsufficientMemory(
            model="tiny", needed="1", device="ram", budget="0", free="0", never=True
        )
        hopeless = await plane.ask(body)
        plane.residency.refusal = None
        unknown = await plane.ask(body | {"model": "tiyn"})
        plane.worker.script = lambda _body: refusal(
            400, {"error": {"code": 400, "type": "exceed_context_size_error", "n_prompt_tokens": 9000, "n_ctx": 4096}}
        )
        too_long = await plane.ask(body)
        plane.worker.script = lambda _body: [
            HEAD,
            delta(role="assistant"),
            event({"error": {"code": 500, "message": "x"}}),
        ]
        broken = await plane.ask(body)

        assert (full.status, full.json()["error"]["code"], full.headers["retry-after"]) == (503, "queue_full", "2")
        assert (hopeless.status, hopeless.headers["x-should-retry"]) == (503, "false")
        assert (unknown.status, unknown.json()["error"]["code"]) == (404, "model_not_found")
        assert (too_long.status, too_long.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert (broken.status, broken.json()["error"]["code"]) == (502, "upstream_error")
        await plane.settled(
            queue_full=1, insufficient_memory=1, model_not_found=1, context_length_exceeded=1, upstream_error=1
        )


async def test_a_model_outside_the_callers_key_is_refused_under_every_name() -> None:
    caller = Caller("narrow", frozenset((Right.INFER,)), models=frozenset(("other",)))
    async with data_plane(caller=caller) as plane:
        answers = [await plane.ask(CHAT | {"model": name}) for name in ("tiny", "TINY", "small")]

        assert [answer.status for answer in answers] == [403, 403, 403]
        assert plane.residency.asked == []


async def test_what_the_model_cannot_do_is_refused_before_anything_is_loaded() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    async with data_plane() as plane:
        answer = await plane.ask({"model": "tiny", "messages": [{"role": "user", "content": [picture]}]})
        long_prompt = await plane.ask({"model": "tiny", "prompt": [1] * 5000}, "/v1/completions")

        assert (answer.status, answer.json()["error"]["code"]) == (400, "unsupported_capability")
        assert (long_prompt.status, long_prompt.json()["error"]["code"]) == (400, "context_length_exceeded")
        assert plane.residency.asked == []


@pytest.mark.parametrize(("default", "status"), [("tiny", 200), (None, 400)])
async def test_a_request_that_names_no_model_gets_the_default_one(default: str | None, status: int) -> None:
    nameless = {name: value for name, value in CHAT.items() if name != "model"}
    async with data_plane(default_model=default) as plane:
        connection = await plane.connect()
        await connection.send(orjson.dumps(nameless), "/v1/chat/completions")
        answer = await connection.answer()

    assert answer.status == status
    said = answer.json()
    assert said["model"] == "tiny" if default else said["error"]["param"] == "model"


async def test_models_are_listed_without_waking_them() -> None:
    async with data_plane() as plane:
        connection = await plane.connect()
        await connection.send(b"", "/v1/models")
        listed = (await connection.answer()).json()
        connection = await plane.connect()
        await connection.send(b"", "/v1/models/SMALL")
        one = (await connection.answer()).json()

        assert listed == {"object": "list", "data": [one]}
        assert (one["id"], one["object"], one["owned_by"], one["created"]) == (
            "tiny",
            "model",
            "modelyard",
            1_700_000_000,
        )
        assert one["modelyard"] == {
            "state": "absent", "size_bytes": 1000, "context_length": 4096, "engine": "fake",
            "format": "", "architecture": "", "parameter_count": None, "quantization": "",
            "capabilities": ["chat", "completion", "tools"], "aliases": ["small"], "problem": "",
            "nodes": [{"node": "local", "state": "absent", "size_bytes": 1000, "age_s": 0.0}],
        }  # fmt: skip
        assert plane.residency.asked == []


async def test_keep_alive_reaches_the_lease() -> None:
    async with data_plane() as plane:
        for value in ("10m", -1, 0):
            await plane.ask(CHAT | {"keep_alive": value})

        assert [asked["keep_alive_s"] for asked in plane.residency.asked] == [600, -1, 0]
        assert len({asked["ticket"] for asked in plane.residency.asked}) == 3
        assert HELLO

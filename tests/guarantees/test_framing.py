"""What a model says stays inside its JSON, and no name or id breaks a line of the log, whatever they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.api.data_plane import data_plane
from tests.providers.fake_worker import DONE, HEAD, Step, delta, usage
from tests.support.node import Server, ask, client, echo, serving, until

HOSTILE = (
    "a\nb", "a\r\nb\rc", "\n\ndata: [DONE]\n\n", "data: {\"error\":{}}\n\n", "event: end\n", "id: 7\nretry: 0\n",
    ": note\n", "[DONE]", "\u2028\u2029\x85\x0b\x0c", "\x00\x01\x1b[31m\x7f", "\ufeff", "\U0001f600\U000e0041",
    "</script><!--",
    "\\n\\u000a", "\"}\n\ndata: [DONE]\n\n{\"", "\u202e\u200b", "\U0001f600",
)  # fmt: skip
LONE_SURROGATES = (rb'"\ud800"', rb'"\udc00 x"', rb'"a\ud800\ud800b"')
INVALID_UTF8 = (b'"\xff\xfe"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xe4\xb8"', b'"\xf5\x80\x80\x80"')


def frame(text: bytes) -> bytes:
    """One event whose content is this JSON text, as raw as it is."""
    head = b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":'
    return head + text + b'}}],"created":1,"id":"x","model":"m","object":"chat.completion.chunk"}\n\n'


@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "raw"])
async def test_hostile_text_comes_out_as_it_went_in_streamed_and_whole(ascii_only: bool) -> None:
    steps: list[Step] = [HEAD, *(frame(json.dumps(text, ensure_ascii=ascii_only).encode()) for text in HOSTILE)]
    steps += [delta("stop"), usage(), DONE]
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}
    async with data_plane(lambda _body: steps) as plane:
        streamed = await plane.ask({**body, "stream": True})
        whole = await plane.ask(body)

    assert streamed.text() == "".join(HOSTILE)
    assert streamed.events()[-1] == "[DONE]"
    assert streamed.body.count(b"[DONE]\n") == 1
    lines = streamed.body.split(b"\n")
    assert {line[:6] for line in lines if line} == {b"data: "}  # no text became a field of its own
    assert b"\r" not in streamed.body
    assert whole.json()["choices"][0]["message"]["content"] == "".join(HOSTILE)


@pytest.mark.parametrize("where", ["reasoning_content", "tool_calls"])
async def test_so_do_reasoning_and_tool_calls(where: str) -> None:
    text = "".join(HOSTILE)
    call = {"index": 0, "id": text, "type": "function", "function": {"name": "f\n\ndata: x", "arguments": text}}
    piece = delta(reasoning_content=text) if where == "reasoning_content" else delta(tool_calls=[call])
    async with data_plane(lambda _body: [HEAD, piece, delta("stop"), usage(), DONE]) as plane:
        answer = await plane.ask({"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True})

    found = [event["choices"][0]["delta"].get(where) for event in answer.events()[:-1] if event["choices"]]
    told = next(item for item in found if item)
    assert (told if where == "reasoning_content" else told[0]["function"]["arguments"]) == text
    assert {line[:6] for line in answer.body.split(b"\n") if line} == {b"data: "}


@pytest.mark.parametrize("text", [*LONE_SURROGATES, *INVALID_UTF8], ids=repr)
@pytest.mark.parametrize("stream", [True, False])
async def test_text_that_is_none_is_an_error_or_is_repaired_and_never_goes_out_broken(
    text: bytes, stream: bool
) -> None:
    steps: list[Step] = [HEAD, frame(text), delta("stop"), usage(), DONE]
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": stream}
    async with data_plane(lambda _body: steps) as plane:
        answer = await plane.ask(body)
        sane = await plane.ask({**body, "model": "nobody"})  # the server goes on

    answer.body.decode("utf-8")  # raises if it went out broken
    if stream and answer.status == 200:
        last = answer.events()[-1]
        assert last == "[DONE]" or last["error"]["code"].startswith("upstream")
    elif answer.status != 200:
        assert answer.json()["error"]["code"].startswith("upstream")
    assert sane.status == 404


# ---- logs ----

NAMES = (
    "x\n{\"event\": \"forged\"}", "x\r\n[forged]", "\u2028forged", "\x1b[2Jforged", "%s%n${jndi:x}{0}", "a" * 500,
    "\x00", "x\x85forged", "'; DROP TABLE models; --", "{{7*7}}", "\ud7ff\ue000",
)  # fmt: skip
IDS = (
    "forged event=model.loaded",
    '","event":"forged","x":"',
    "x" * 512,
    "{}",
    "%(message)s",
    "\\n\\r",
    "\t",
    "ab\x7f",
)


@pytest.fixture(scope="module", params=["json", "console"])
def server(request: pytest.FixtureRequest) -> Iterator[tuple[Server, str]]:
    config = {**echo(quick={"reply_tokens": 1}), "log": {"format": request.param}}
    with serving(config) as server:
        yield server, request.param


async def test_names_and_ids_break_no_line_of_the_log(server: tuple[Server, str]) -> None:
    node, format = server
    async with client() as session:
        for name in NAMES:
            for path in ("/v1/chat/completions", "/v1/completions"):
                body = {"model": name, "messages": [{"role": "user", "content": name}], "prompt": name, "user": name}
                async with session.post(node.url + path, json=body) as response:
                    assert response.status in (400, 404), name
        for request_id in IDS:
            with_id = {"X-Request-Id": request_id} if request_id.isprintable() else {"X-Client-Request-Id": "x"}
            answer = await ask(session, node, "quick", headers=with_id)
            assert answer.status == 200
        await until(lambda: node.text().count("request.finished") >= len(IDS), "every request is logged")

    assert "forged" not in re.sub(r'request_id["\']?[:=].*', "", node.text())
    for line in node.text().splitlines():
        assert line.isprintable() or format == "console", repr(line)
        assert not any(sign in line.replace("\x1b[", "") for sign in "\x00\x1b\x85\u2028\x7f"), repr(line)
    if format == "json":
        lines = [line for line in node.text().splitlines() if line.startswith("{")]
        assert all(json.loads(line)["event"] != "forged" for line in lines)
        ids = {json.loads(line).get("request_id") for line in lines}
        assert {each for each in IDS if each.isprintable()} <= ids

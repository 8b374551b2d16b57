"""The decoder over streams that llama.cpp's server really sent (tools/record_streams.py), and over hostile ones."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from modelyard.errors import BadRequest, ContextLengthExceeded, UpstreamError, UpstreamInvalid
from modelyard.providers.openai_wire import AnswerDecoder
from modelyard.providers.upstream_errors import http_failure
from modelyard.types.chat import Chunk, Delta, Progress, ToolCallDelta, Usage

from .fake_worker import DONE, delta, event, usage

RECORDED = Path(__file__).parent / "recorded"
STREAMS = sorted(RECORDED.glob("*.sse"))
TOOLS = (
    delta(tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}])
    + delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}])
    + delta(tool_calls=[{"index": 0, "function": {"arguments": "1}"}}])
    + delta("stop")
    + usage()
    + DONE
)


def choices_of(path: Path) -> int:
    return 2 if "two-choices" in path.name else 1


def decoded(data: bytes, choices: int = 1) -> list[Chunk]:
    decoder = AnswerDecoder("m", choices)
    chunks = decoder.feed(data)
    assert decoder.done
    assert decoder.end() is None
    return chunks


def is_end(chunk: Chunk) -> bool:
    return isinstance(chunk, Usage) or (isinstance(chunk, Delta) and chunk.finish is not None)


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_a_stream_cut_at_any_byte_is_an_error_and_never_looks_finished(path: Path) -> None:
    data = path.read_bytes()
    terminal_at = data.index(b"data: [DONE]") + len(b"data: [DONE]\n\n")
    decoder = AnswerDecoder("m", choices_of(path))

    for at in range(terminal_at - 1):
        chunks = decoder.feed(data[at : at + 1])  # the state after each byte is that of a stream cut there
        assert not any(is_end(chunk) for chunk in chunks)
        assert isinstance(decoder.end(), UpstreamInvalid)

    last = decoder.feed(data[terminal_at - 1 :])
    assert sum(isinstance(chunk, Delta) for chunk in last) == choices_of(path)
    assert decoder.end() is None


@pytest.mark.parametrize("path", STREAMS, ids=lambda path: path.stem)
def test_chunks_do_not_depend_on_how_the_bytes_arrive(path: Path) -> None:
    data, choices, dice = path.read_bytes(), choices_of(path), random.Random(7)
    whole = decoded(data, choices)

    for _ in range(50):
        decoder, chunks, at = AnswerDecoder("m", choices), [], 0
        while at < len(data):
            size = dice.randint(1, 700)
            chunks += decoder.feed(data[at : at + size])
            at += size
        assert chunks == whole


def test_a_recorded_chat_has_progress_text_finish_and_usage_in_that_order() -> None:
    chunks = decoded((RECORDED / "chat.sse").read_bytes())

    kinds = [type(chunk).__name__ for chunk in chunks]
    last = chunks[-1]
    assert kinds == ["Progress", "Progress", "Delta", "Delta", "Delta", "Delta", "Delta", "Usage"]
    assert chunks[1] == Progress(24, 24)
    assert isinstance(last, Usage)
    assert (last.input_tokens, last.output_tokens) == (24, 4)
    assert last.prefill_s
    assert last.decode_s


def test_recorded_logprobs_are_kept_as_the_engine_gave_them() -> None:
    chunks = decoded((RECORDED / "chat-logprobs.sse").read_bytes())

    found = [chunk.logprobs for chunk in chunks if isinstance(chunk, Delta) and chunk.logprobs is not None]
    assert len(found) == 4
    assert all(isinstance(logprobs, dict) and len(logprobs["content"]) == 1 for logprobs in found)


def test_a_tool_call_that_ends_with_stop_ends_with_tool_calls() -> None:
    chunks = decoded(TOOLS)

    assert chunks[0] == Delta(tool_calls=(ToolCallDelta(0, "c1", "f", ""),))
    assert chunks[1] == Delta(tool_calls=(ToolCallDelta(0, None, None, '{"a":'),))
    assert chunks[-2] == Delta(finish="tool_calls")


def test_usage_is_not_invented() -> None:
    assert decoded(delta(content="a") + delta("length") + DONE) == [Delta(text="a"), Delta(finish="length")]


@pytest.mark.parametrize(
    "data",
    [
        DONE,
        delta(content="a") + DONE,
        delta("load") + DONE,
        delta("abort", content="a"),
        delta("stop", index=3),
        delta("stop", index=-1),
        delta("stop") + delta(content="more"),
        b"data: nonsense\n\n",
        b"data: [1]\n\n",
        b'data: {"choices":7}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":-5}}\n\n',
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
def test_what_makes_no_sense_is_an_error(data: bytes) -> None:
    decoder = AnswerDecoder("m")

    with pytest.raises(UpstreamInvalid):
        decoder.feed(data)

    assert not decoder.done


def test_bytes_after_the_end_are_ignored() -> None:
    decoder = AnswerDecoder("m")

    decoder.feed(delta("stop") + DONE + delta(content="late"))

    assert decoder.feed(b"data: nonsense\n\n") == []


def test_text_that_looks_like_framing_stays_text() -> None:
    hostile = "\n\ndata: [DONE]\n\nevent: x\r\n\u2028: ping"

    chunks = decoded(delta(content=hostile) + delta("stop") + DONE)

    assert chunks[0] == Delta(text=hostile)


@pytest.mark.parametrize("form", [b"data: ", b"error: "])
def test_an_error_in_the_stream_is_that_error(form: bytes) -> None:
    body = event({"error": {"code": 500, "message": "broke at /srv/models/x.gguf", "type": "server_error"}})

    with pytest.raises(UpstreamError) as caught:
        AnswerDecoder("m").feed(body.replace(b"data: ", form))

    assert "/srv" not in str(caught.value)


def test_a_prompt_that_is_too_long_is_told_with_its_numbers() -> None:
    error = http_failure("m", 400, (RECORDED / "too-long.400.json").read_bytes())

    assert isinstance(error, ContextLengthExceeded)
    assert error.fields["prompt_tokens"] == 15020
    assert error.fields["context_length"] == 1024


def test_a_refusal_is_the_callers_error_and_tells_no_path() -> None:
    error = http_failure("m", 400, b'{"error":{"code":400,"message":"bad grammar in /tmp/x/y\\nline 2"}}')

    assert type(error) is BadRequest
    assert str(error) == "The engine refused the request: bad grammar in ... line 2"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"error":7}', b'{"error":{"message":[1]}}', b"\xff"])
def test_a_failure_without_sense_is_an_upstream_error(body: bytes) -> None:
    assert type(http_failure("m", 500, body)) is UpstreamError


def test_a_reported_lack_of_memory_is_a_guess_beside_the_error_and_its_text_is_not_repeated() -> None:
    text = "prompt 'a secret' failed: CUDA out of memory. Tried to allocate 2 GiB"
    error = http_failure("m", 500, json.dumps({"error": {"message": text}}).encode())
    other = http_failure("m", 500, b'{"error":{"message":"slot unavailable, memory is fine"}}')

    verdict = error.fields["verdict"]
    assert isinstance(verdict, dict)
    assert (type(error), verdict["code"], verdict["confidence"]) == (UpstreamError, "out_of_memory", 0.6)
    assert "secret" not in f"{error} {verdict} {error.suggestions}"
    assert "verdict" not in other.fields

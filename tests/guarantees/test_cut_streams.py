"""An answer cut anywhere on its way is an error to whoever asked: never a finish, never an end mark, never a usage.

What happens at every offset inside the decoder is proven beside it; here the connections of real workers are cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import aiohttp
import pytest

from modelyard.engines.echo_answer import DONE, Frames, Question
from modelyard.engines.echo_settings import EchoSettings
from tests.support.counts import PROVE
from tests.support.node import Answer, Server, ask, client, echo, fetch, resident, serving, tagged

TOKENS = 4
AT_ONCE = 64
TIMINGS_BYTES = 120  # how much longer an answer may be than one whose timings are zeros


def frames_of_an_answer() -> list[int]:
    """The lengths of the frames a worker sends, for a request and a model whose names have these lengths."""
    question = Question("r-0000", True, True, True, True, 1, ("hello",), ("hello",), TOKENS, "length", model="cut-at-0")
    frames = Frames(question, 1_700_000_000, EchoSettings())
    timings = {"cache_n": 0, "prompt_n": 1, "prompt_ms": 0.0, "predicted_n": TOKENS, "predicted_ms": 0.0}
    sent = [frames.progress(1, 0.0), frames.first(), *(frames.content(number) for number in range(TOKENS))]
    return [len(frame) for frame in (*sent, frames.finish(), frames.usage(timings), DONE)]


BOUNDARIES = list(accumulate(frames_of_an_answer()))
WHOLE = BOUNDARIES[-1]
CUTS: dict[str, range] = {f"cut-at-{n}": range(at - 1, at + 2) for n, at in enumerate(BOUNDARIES)}
CUTS["cut-else"] = range(0, WHOLE + TIMINGS_BYTES + 50, 1 if PROVE else 37)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    cut: dict[str, Any] = {
        name.replace("-", "_"): {"slots": AT_ONCE, "cut_after_bytes": at.start, "cut_step_bytes": at.step}
        for name, at in CUTS.items()
    }
    faults: dict[str, Any] = {
        "stalls": {"stall_after_tokens": 2},
        "silent": {"stall_before_first": True},
        "garbage": {"garbage_after_tokens": 2},
    }
    patience = {"between_tokens_s": 1, "first_token_s": 1}
    with serving({**echo(**cut, **faults), "deadlines": patience}) as node:
        yield node


async def answers(session: aiohttp.ClientSession, server: Server, model: str, *, stream: bool) -> list[Answer]:
    """One answer for each of a model's offsets, in whatever order."""
    at_once = asyncio.Semaphore(AT_ONCE // 2)

    async def one(number: int) -> Answer:
        fields: dict[str, Any] = {"stream_options": {"include_usage": True}} if stream else {}
        headers = {"X-Request-Id": f"r-{number:04}"}
        async with at_once:
            return await ask(
                session, server, model, stream=stream, max_tokens=TOKENS, headers=headers, **fields
            )  # fmt: skip

    return await asyncio.gather(*(one(number) for number in range(len(CUTS[model]))))


def is_whole(answer: Answer, number: int, *, stream: bool) -> bool:
    """Whether an answer is complete; one that is not must say so and nothing else."""
    text = tagged(f"r-{number:04}", TOKENS)
    if not stream and answer.status == 200:
        choice = answer.json["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, "length")
        return True
    if stream and answer.done:
        assert (answer.text, answer.finish, answer.error) == (text, "length", None)
        assert answer.frames[-1]["usage"]["completion_tokens"] == TOKENS
        return True
    assert answer.error is not None, "it ended without a word"
    assert answer.error["code"] == "upstream_invalid_response"
    assert answer.status == (200 if answer.frames else 502)
    assert answer.finish is None
    assert all(frame.get("usage") is None for frame in answer.frames)
    assert text.startswith(answer.text)
    return False


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
async def test_an_answer_cut_at_any_byte_is_an_error(server: Server, stream: bool) -> None:
    async with client() as session:
        # What a worker sends is the same for both: in the suite the plain answers are cut where it matters most.
        models = list(CUTS) if stream or PROVE else ["cut-else", f"cut-at-{len(BOUNDARIES) - 3}"]
        received = await asyncio.gather(*(answers(session, server, model, stream=stream) for model in models))
        for model, found in zip(models, received, strict=True):
            whole = sum(is_whole(answer, number, stream=stream) for number, answer in enumerate(found))

            offsets = CUTS[model]
            assert whole <= sum(at >= WHOLE - len(b"\n") for at in offsets), f"{model}: an answer was made up"
            assert whole >= sum(at >= WHOLE + TIMINGS_BYTES for at in offsets), f"{model}: an answer was lost"
            # The next worker begins its offsets anew.
            await fetch(session, server, f"/admin/models/{model}/unload", "POST", json={})


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
@pytest.mark.parametrize(
    ("model", "code", "status"),
    [
        ("stalls", "upstream_stalled", 504),
        ("silent", "upstream_timeout", 504),
        ("garbage", "upstream_invalid_response", 502),
    ],
)
async def test_an_answer_that_stops_or_turns_into_garbage_is_an_error(
    server: Server, model: str, code: str, status: int, stream: bool
) -> None:
    async with client() as session:
        answer = await ask(session, server, model, stream=stream, max_tokens=TOKENS, headers={"X-Request-Id": "r"})

        assert answer.error is not None
        assert answer.error["code"] == code
        assert answer.status == (200 if answer.frames else status)
        assert stream or not answer.frames
        assert (answer.done, answer.finish) == (False, None)
        assert tagged("r", 2).startswith(answer.text)
        found = await resident(session, server, model)
        assert found is None or found["leases"] == 0

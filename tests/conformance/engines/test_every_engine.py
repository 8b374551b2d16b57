"""What every engine does alike: answers, counts, ends, stops, refuses, shares its slots, and gives its memory back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import psutil
import pytest

from modelyard.providers.worker_http import RunningWorker
from modelyard.providers.worker_tokens import WorkerCounter
from modelyard.types.chat import InferenceRequest, Message
from tests.support.node import Answer, Server, ask, client, fetch, resident, until

from .cases import CASES, CONTEXT_TOKENS, Case, address_of, cpu_s

QUESTION = "What is Modelyard?"
LONG_CHARS = 5 * CONTEXT_TOKENS
STEPS_S = 0.3  # a worker at rest uses less than a fifth of a core for so long
REST_RATIO = 0.2
THINKING = [case for case in CASES if not case.is_scripted]  # a script knows neither stop strings nor chance


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with client() as opened:
        yield opened


async def whole(session: aiohttp.ClientSession, yard: Server, model: str, **fields: Any) -> dict[str, Any]:
    """A plain answer."""
    answer = await ask(session, yard, model, **fields)
    assert answer.status == 200, answer.body
    return answer.json


def words(count: int) -> str:
    return " ".join(["Modelyard"] * count)


async def worker_pid(session: aiohttp.ClientSession, yard: Server, model: str) -> int:
    found = await resident(session, yard, model)
    assert found is not None
    return int(found["pid"])


async def at_rest(pid: int) -> bool:
    """Whether a worker does nothing any more, as the system sees it."""
    before = cpu_s(pid)
    await asyncio.sleep(STEPS_S)
    return cpu_s(pid) - before < REST_RATIO * STEPS_S


async def hung_up(session: aiohttp.ClientSession, yard: Server, model: str, frames: int, **fields: Any) -> Answer:
    """Ask, and hang up after so many frames."""
    answer = Answer()
    enough = asyncio.Event()

    def count(so_far: Answer) -> None:
        answer.frames = so_far.frames
        if len(so_far.frames) >= frames:
            enough.set()

    asking = asyncio.create_task(ask(session, yard, model, stream=True, on_frame=count, **fields))
    if frames:
        await asyncio.wait((asking, asyncio.create_task(enough.wait())), return_when=asyncio.FIRST_COMPLETED)
    else:
        await until(lambda: is_with_worker(session, yard), "the prompt being read")
    assert not asking.done(), "it was over before anybody could hang up"
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    return answer


async def is_with_worker(session: aiohttp.ClientSession, yard: Server) -> bool:
    """Whether the worker has a request. The fastest may have read its prompt already."""
    status = await fetch(session, yard, "/admin/status")
    return any(request["phase"] not in ("queued", "loading") for request in status["requests"])


async def test_a_plain_answer_and_a_streamed_one_say_the_same(
    yard: Server, session: aiohttp.ClientSession, case: Case
) -> None:
    fields: dict[str, Any] = {"content": QUESTION, "temperature": 0, "headers": {"X-Request-Id": "same"}}

    plain = await whole(session, yard, case.model, **fields)
    streamed = await ask(session, yard, case.model, stream=True, **fields)

    (choice,) = plain["choices"]
    assert streamed.text == choice["message"]["content"] != ""
    assert streamed.finish == choice["finish_reason"] == "stop"
    assert streamed.done


async def test_usage_adds_up(yard: Server, session: aiohttp.ClientSession, case: Case) -> None:
    fields: dict[str, Any] = {"content": QUESTION, "temperature": 0, "max_tokens": 7}

    plain = await whole(session, yard, case.model, **fields)
    streamed = await ask(session, yard, case.model, stream=True, stream_options={"include_usage": True}, **fields)

    usage = plain["usage"]
    told = streamed.frames[-1]["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert (usage["completion_tokens"], plain["choices"][0]["finish_reason"]) == (7, "length")
    assert (told["prompt_tokens"], told["completion_tokens"]) == (usage["prompt_tokens"], 7)


async def test_its_tokenizer_counts_what_its_usage_tells(
    yard: Server, session: aiohttp.ClientSession, case: Case
) -> None:
    chat = InferenceRequest("m", (Message("system", "Be brief."), Message("user", QUESTION)))
    text = InferenceRequest("m", prompt=QUESTION)

    messages = [{"role": one.role, "content": one.content} for one in chat.messages]
    told = await whole(session, yard, case.model, messages=messages, max_tokens=1)
    continued = await fetch(
        session, yard, "/v1/completions", "POST", json={"model": case.model, "prompt": QUESTION, "max_tokens": 1}
    )
    worker = SimpleNamespace(socket=address_of(psutil.Process(await worker_pid(session, yard, case.model))))
    counter = WorkerCounter(cast(RunningWorker, worker), "count", 2.0)

    assert await counter.prompt(chat) == told["usage"]["prompt_tokens"]
    assert await counter.prompt(text) == continued["usage"]["prompt_tokens"]
    assert (await counter.text("")) == 0
    assert (await counter.text(QUESTION) or 0) > 1


async def test_a_plain_completion_goes_on_with_its_prompt(
    yard: Server, session: aiohttp.ClientSession, case: Case
) -> None:
    body = {"model": case.model, "prompt": "one two three", "max_tokens": 5, "temperature": 0}

    async with session.post(f"{yard.url}/v1/completions", json=body) as response:
        answer = await response.json()

    assert response.status == 200
    assert answer["choices"][0]["text"]
    assert answer["usage"]["completion_tokens"] <= 5


@pytest.mark.parametrize("case", THINKING, ids=lambda case: case.engine)
async def test_an_answer_ends_exactly_before_a_stop_string(
    yard: Server, session: aiohttp.ClientSession, case: Case
) -> None:
    text = (await whole(session, yard, case.model, content=QUESTION, temperature=0))["choices"][0]["message"]["content"]

    for at in range(3, len(text) - 4, 7):  # wherever tokens begin and end
        stop = text[at : at + 4]
        answer = await ask(session, yard, case.model, content=QUESTION, temperature=0, stop=[stop], stream=True)

        assert answer.text == text[: text.index(stop)]
        assert answer.finish == "stop"


async def test_a_prompt_longer_than_the_context_is_refused_with_the_counts_and_harms_nobody(
    yard: Server, session: aiohttp.ClientSession, case: Case
) -> None:
    answer = await ask(session, yard, case.model, content=words(LONG_CHARS))
    after = await whole(session, yard, case.model, content=QUESTION, max_tokens=3)

    assert answer.status == 400
    assert answer.error is not None
    assert answer.error["code"] == "context_length_exceeded"
    assert str(CONTEXT_TOKENS) in answer.error["message"]
    assert after["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("case", THINKING, ids=lambda case: case.engine)
async def test_requests_side_by_side_are_sampled_each_in_its_own_way(
    yard: Server, session: aiohttp.ClientSession, case: Case
) -> None:
    greedy: dict[str, Any] = {"content": QUESTION, "temperature": 0, "max_tokens": 24}
    wild: dict[str, Any] = {"content": QUESTION, "temperature": 2, "top_k": 0, "top_p": 1, "min_p": 0, "max_tokens": 24}

    alone = await whole(session, yard, case.model, **greedy)
    answers = await asyncio.gather(
        whole(session, yard, case.model, **greedy),
        whole(session, yard, case.model, **wild, seed=1),
        whole(session, yard, case.model, **wild, seed=2),
        whole(session, yard, case.model, **wild, seed=1),
    )

    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert texts[0] == alone["choices"][0]["message"]["content"]
    assert texts[0] not in texts[1:]
    assert texts[1] != texts[2]
    assert texts[1] == texts[3]


EXTREMES: tuple[dict[str, Any], ...] = (
    {"temperature": 1e-30, "top_p": 1e-9},
    {"temperature": 2, "top_p": 0, "top_k": 1_000_000},
    {"temperature": 0.001, "min_p": 1, "presence_penalty": -2, "frequency_penalty": 2},
    {"temperature": 1, "logit_bias": {"0": -100, "999999999": 100}, "repeat_penalty": 0.01, "repeat_last_n": 0},
    {"temperature": 0, "seed": 2**31, "top_k": 0},
)


async def test_no_way_to_choose_tokens_ends_a_worker(yard: Server, session: aiohttp.ClientSession, case: Case) -> None:
    await ask(session, yard, case.model, content=QUESTION, max_tokens=1)
    pid = await worker_pid(session, yard, case.model)

    answers = [await ask(session, yard, case.model, content=QUESTION, max_tokens=4, **each) for each in EXTREMES]
    body = {"model": case.model, "prompt": [1, 10**8], "max_tokens": 2}
    async with session.post(f"{yard.url}/v1/completions", json=body) as response:
        impossible = response.status

    assert all(answer.status in (200, 400) for answer in answers)
    assert impossible in ((200,) if case.is_scripted else (400,))
    assert await worker_pid(session, yard, case.model) == pid


async def test_several_choices_are_several_answers(yard: Server, session: aiohttp.ClientSession, case: Case) -> None:
    answer = await whole(session, yard, case.model, content=QUESTION, n=2, max_tokens=4, temperature=0)

    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 8


async def test_what_an_engine_lacks_is_refused_by_name_before_its_worker_is_asked(
    yard: Server, session: aiohttp.ClientSession, case: Case
) -> None:
    for fields, name in zip(case.lacks, case.names, strict=True):
        answer = await ask(session, yard, case.model, **fields)

        assert answer.status == 400
        assert answer.error is not None
        assert answer.error["code"] == "unsupported_capability"
        assert name in answer.error["message"]


async def test_two_at_once_share_a_worker_and_a_third_waits_its_turn(
    yard: Server, session: aiohttp.ClientSession, case: Case
) -> None:
    fields: dict[str, Any] = {"content": QUESTION, "temperature": 0, "max_tokens": 20}

    answers = await asyncio.gather(*(ask(session, yard, case.model, stream=True, **fields) for _ in range(5)))

    assert all(answer.done for answer in answers)
    if not case.is_scripted:  # whose tokens name their request
        assert len({answer.text for answer in answers}) == 1
    seen = await resident(session, yard, case.model)
    assert seen is not None
    assert (seen["slots"], seen["leases"]) == (2, 0)


async def test_a_client_that_leaves_while_tokens_come_stops_the_worker(
    yard: Server, session: aiohttp.ClientSession, case: Case
) -> None:
    fields: dict[str, Any] = {"content": QUESTION, **case.endless}
    await ask(session, yard, case.model, content=QUESTION, max_tokens=1)
    pid = await worker_pid(session, yard, case.model)
    began = cpu_s(pid)
    await ask(session, yard, case.model, stream=True, **fields)
    to_the_end_s = cpu_s(pid) - began

    began = cpu_s(pid)
    await hung_up(session, yard, case.model, 5, **fields)
    await until(lambda: at_rest(pid), "the worker at rest")

    assert cpu_s(pid) - began < max(0.6 * to_the_end_s, 0.2)
    seen = await resident(session, yard, case.model)
    assert seen is not None
    assert seen["leases"] == 0


async def test_a_client_that_leaves_while_its_prompt_is_read_stops_the_worker(
    yard: Server, session: aiohttp.ClientSession, case: Case
) -> None:
    await ask(session, yard, case.model, content=QUESTION, max_tokens=1)
    pid = await worker_pid(session, yard, case.model)

    await hung_up(session, yard, case.model, 0, content=words(CONTEXT_TOKENS * 3 // 4), **case.endless)
    await until(lambda: at_rest(pid), "the worker at rest")
    after = await whole(session, yard, case.model, content=QUESTION, max_tokens=3)

    seen = await resident(session, yard, case.model)
    assert seen is not None
    assert (seen["leases"], seen["pid"]) == (0, pid)
    assert after["usage"]["completion_tokens"] == 3


async def test_memory_is_back_after_an_unload(yard: Server, session: aiohttp.ClientSession, case: Case) -> None:
    await ask(session, yard, case.model, content=QUESTION, max_tokens=1)
    pid = await worker_pid(session, yard, case.model)

    done = await fetch(session, yard, f"/admin/models/{case.model}/unload", "POST", json={})

    assert done["receipt"]["leaked_bytes"] == 0
    assert not psutil.pid_exists(pid)
    assert await resident(session, yard, case.model) is None


async def test_a_worker_that_is_killed_ends_its_answer_with_an_error_and_is_replaced(
    yard: Server, session: aiohttp.ClientSession, case: Case
) -> None:
    await ask(session, yard, case.model, content=QUESTION, max_tokens=1)
    pid = await worker_pid(session, yard, case.model)

    def kill(answer: Answer) -> None:
        if len(answer.frames) == 5:
            os.kill(pid, signal.SIGKILL)

    answer = await ask(session, yard, case.model, content=QUESTION, stream=True, on_frame=kill, **case.endless)
    after = await ask(session, yard, case.model, content=QUESTION, max_tokens=2, stream=True)

    assert answer.error is not None
    assert answer.error["code"] == "worker_crashed"
    assert not answer.done
    assert after.done


async def test_the_model_is_listed_with_its_engine_and_how_it_is_started(
    yard: Server, session: aiohttp.ClientSession, case: Case
) -> None:
    told = (await fetch(session, yard, f"/v1/models/{case.model}"))["modelyard"]

    assert told["engine"] == case.engine
    assert told["launch"]["slots"] == 2
    assert told["footprint"]["bytes"]["ram"] > 0


def test_every_case_names_what_its_engine_lacks() -> None:
    assert all(len(case.lacks) == len(case.names) for case in CASES)


async def test_a_folder_is_never_deleted_by_half(yard: Server, session: aiohttp.ClientSession) -> None:
    async with session.delete(f"{yard.url}/api/delete", json={"model": "yardling-hf"}) as answer:
        told = await answer.json()
    listed = await fetch(session, yard, "/v1/models/yardling-hf")

    assert (answer.status, "Nothing was deleted" in told["error"]) == (400, True)
    assert listed["modelyard"]["problem"] == ""

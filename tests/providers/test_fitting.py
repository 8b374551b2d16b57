"""Who is counted, by whom, and what is told: with counters and workers that say what they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from modelyard.errors import ContextLengthExceeded
from modelyard.providers.fitting import NoCounter, PromptLimits, fitted
from modelyard.providers.prompt_tokens import text_about, tokens_at_most
from modelyard.providers.ticket import Ticket
from modelyard.providers.worker_http import RunningWorker
from modelyard.providers.worker_tokens import WorkerCounter
from modelyard.types.chat import ImagePart, InferenceRequest, Message, TextPart
from tests.support.node import short_folder

WORDS = "one two three four five six seven eight nine ten "


class Words:
    """A word is a token."""

    def __init__(self) -> None:
        self.asked = 0

    async def prompt(self, request: InferenceRequest) -> int | None:
        self.asked += 1
        text = request.prompt if isinstance(request.prompt, str) else " ".join(str(m.content) for m in request.messages)
        return len(text.split())

    async def text(self, text: str) -> int | None:
        self.asked += 1
        return len(text.split())


def ticket() -> Ticket:
    return Ticket("r1", request_id="x", route="/", caller_id="me", started_at=0.0)


def user(text: str, **more: Any) -> InferenceRequest:
    return InferenceRequest("m", (Message("user", text),), **more)


async def test_what_cannot_be_near_a_limit_is_not_counted() -> None:
    counter, request = Words(), user(WORDS * 20)
    limits = PromptLimits(max_input_tokens=tokens_at_most(request), max_message_tokens=len(WORDS) * 20)

    assert await fitted(request, limits, counter, ticket(), model="m") is request
    assert counter.asked == 0

    assert await fitted(request, PromptLimits(200), counter, ticket(), model="m") is request
    assert counter.asked == 1


async def test_without_limits_nothing_is_looked_at() -> None:
    counter = Words()

    await fitted(user(WORDS * 10_000), PromptLimits(), counter, ticket(), model="m", context_length=10)

    assert counter.asked == 0


async def test_a_context_leaves_room_for_the_answer() -> None:
    talk = InferenceRequest(
        "m", (Message("user", WORDS * 10), Message("assistant", WORDS), Message("user", WORDS * 30))
    )
    of = ticket()

    fits = await fitted(talk, PromptLimits(trim=True), Words(), of, model="m", context_length=1000)
    assert fits is talk
    shorter = await fitted(talk, PromptLimits(trim=True), Words(), of, model="m", context_length=600)
    assert len(shorter.messages) == 1
    assert of.trimmed is not None
    assert (of.trimmed.tokens_before, of.trimmed.tokens_after) == (410, 300)
    with pytest.raises(ContextLengthExceeded, match="the limit for m is 100"):
        await fitted(talk, PromptLimits(trim=True), Words(), of, model="m", context_length=200)


async def test_a_failed_attempt_leaves_nothing_on_the_ticket() -> None:
    of, talk = ticket(), (Message("user", WORDS * 10), Message("assistant", "x"), Message("user", WORDS))
    await fitted(InferenceRequest("m", talk), PromptLimits(50, trim=True), Words(), of, model="m")
    assert of.trimmed is not None

    await fitted(InferenceRequest("m", talk), PromptLimits(), Words(), of, model="other")
    assert of.trimmed is None


async def test_numbers_of_tokens_are_counted_as_they_are_and_keep_their_end() -> None:
    request, of = InferenceRequest("m", prompt=tuple(range(100))), ticket()

    shorter = await fitted(request, PromptLimits(30, trim=True), Words(), of, model="m")

    assert shorter.prompt == tuple(range(70, 100))
    with pytest.raises(ContextLengthExceeded, match="has 100 tokens"):
        await fitted(request, PromptLimits(30), Words(), of, model="m")


async def test_a_long_message_is_cut_to_its_limit_and_its_images_stay() -> None:
    picture = ImagePart("image/png", "AAAA")
    request = InferenceRequest("m", (Message("user", (TextPart(WORDS * 50), picture)), Message("user", "and?")))
    of = ticket()

    shorter = await fitted(request, PromptLimits(max_message_tokens=100, trim=True), Words(), of, model="m")

    content = shorter.messages[0].content
    assert isinstance(content, tuple)
    text, image = content
    assert isinstance(text, TextPart)
    assert 80 < len(text.text.split()) <= 100
    assert " characters left out ...]" in text.text
    assert (image, shorter.messages[1]) == (picture, request.messages[1])
    with pytest.raises(ContextLengthExceeded) as caught:
        await fitted(request, PromptLimits(max_message_tokens=100), Words(), of, model="m")
    assert caught.value.param == "messages[0]"
    assert str(caught.value) == "Message 0 has 500 tokens; the limit for one message is 100."


@pytest.mark.parametrize("text", [WORDS * 100, "你好世界" * 300, "é" * 3000, "😀" * 500])
async def test_without_a_tokenizer_an_estimate_counts_and_says_so(text: str) -> None:
    about = text_about(text)
    assert len(text.encode()) / 5 <= about <= len(text.encode())

    with pytest.raises(ContextLengthExceeded, match="has about"):
        await fitted(user(text), PromptLimits(about // 2), NoCounter(), ticket(), model="m")


class Socket:
    """A worker that says one thing, whatever it is asked, and counts how often it is asked."""

    def __init__(self, path: Path, status: int, body: bytes) -> None:
        self.socket = path
        self.serving: list[asyncio.Task[object] | None] = []
        self._said = b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._said)
        with suppress(ConnectionError):
            while await reader.read(65536):  # until the other side hangs up
                pass
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@asynccontextmanager
async def saying(status: int, body: bytes) -> AsyncIterator[tuple[WorkerCounter, Socket]]:
    with short_folder() as folder:
        worker = Socket(folder / "w.sock", status, body)
        server = await asyncio.start_unix_server(worker.serve, worker.socket)
        yield WorkerCounter(cast(RunningWorker, worker), "x", 1.0), worker
        await asyncio.gather(*(task for task in worker.serving if task is not None))
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, b"{}"), (200, b"[]"), (200, b'{"prompt": 3}'), (200, b'{"tokens": '), (200, b""), (500, b"\xff")],
)
async def test_a_worker_without_a_tokenizer_is_one_that_cannot_tell(status: int, body: bytes) -> None:
    async with saying(status, body) as (counter, _worker):
        assert await counter.prompt(user(WORDS)) is None
        assert await counter.text(WORDS) is None


async def test_one_that_refuses_is_asked_once() -> None:
    async with saying(404, b"{}") as (counter, worker):
        for _time in range(3):
            assert await counter.text(WORDS) is None

        assert len(worker.serving) == 1


@pytest.mark.parametrize(("tokens", "count"), [(b"[]", 0), (b"[ ]", 0), (b"[1]", 1), (b"[1, 2,3]", 3)])
async def test_tokens_are_counted_however_they_are_written(tokens: bytes, count: int) -> None:
    async with saying(200, b'{"tokens": ' + tokens + b"}") as (counter, _worker):
        assert await counter.text(WORDS) == count


async def test_a_worker_that_is_gone_cannot_tell(tmp_path: Path) -> None:
    gone = cast(RunningWorker, Socket(tmp_path / "none", 200, b""))

    assert await WorkerCounter(gone, "x", 1.0).text(WORDS) is None

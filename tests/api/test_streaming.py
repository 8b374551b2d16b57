"""Streams that are cut, silent, abandoned or read slowly, over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelyard.api.streaming import EventWriter, wait_comment
from modelyard.errors import ShuttingDown
from modelyard.providers.deadlines import Deadlines
from modelyard.providers.ticket import Ticket
from modelyard.types.status import WaitStatus
from tests.providers.fake_worker import DONE, HEAD, HELLO, Step, delta, event, until, usage

from .data_plane import DataPlane, data_plane

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}
BODY = b"".join(step for step in HELLO[1:] if isinstance(step, bytes))
END = BODY.index(b"[DONE]") + len(b"[DONE]\n\n")
CHUNKED = HEAD.replace(b"Connection: close", b"Transfer-Encoding: chunked")
QUICK = Deadlines(exit_news_s=0.001)


def has_ended_well(body: bytes) -> bool:
    return b"[DONE]" in body or b'"finish_reason":"' in body or b'"completion_tokens"' in body


async def cut_everywhere(plane: DataPlane, body: dict[str, Any], end: list[Step], *, chunked: bool) -> None:
    """Ask once for every byte at which the worker's answer could be cut; all must be told of it."""
    cuts = iter(range(END - 1))
    taken: dict[str, int] = {}

    def script(asked: dict[str, Any]) -> list[Step]:
        sent = BODY[: taken[asked["stop"][0]]]
        framed = b"%x\r\n%b\r\n" % (len(sent), sent) if sent else b""
        return [CHUNKED + framed, *end] if chunked else [HEAD + sent, *end]

    async def one_after_another() -> None:
        for cut in cuts:
            taken[f"cut{cut}"] = cut
            answer = await plane.ask(body | {"stop": f"cut{cut}"})
            last = answer.events()[-1] if answer.status == 200 else answer.json()
            assert last["error"]["code"] == "upstream_invalid_response", f"cut at {cut}"
            assert not has_ended_well(answer.body), f"cut at {cut}"
            if not body.get("stream"):
                assert answer.status == 502, f"cut at {cut}"

    plane.worker.script = script
    await asyncio.gather(*(one_after_another() for _ in range(16)))


@pytest.mark.parametrize(
    ("end", "chunked"), [("close", True), ("close", False), ("reset", True)], ids=["chunked", "until-close", "reset"]
)
@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "streamed"])
async def test_an_answer_cut_at_any_byte_is_an_error(body: dict[str, Any], end: str, chunked: bool) -> None:
    async with data_plane(deadlines=QUICK) as plane:
        await cut_everywhere(plane, body, ["reset"] if end == "reset" else [], chunked=chunked)

        await plane.settled(upstream_invalid_response=END - 1)


async def test_an_error_after_the_first_content_is_the_last_frame() -> None:
    steps: list[Step] = [HEAD, delta(content="Hel"), 0.1, event({"error": {"code": 500, "message": "broke"}})]
    async with data_plane(lambda _body: steps) as plane:
        answer = await plane.ask(STREAM)

        *_content, last = answer.events()
        assert answer.status == 200
        assert answer.text() == "Hel"
        assert set(last["error"]) == {"message", "type", "param", "code", "backend", "suggestions", "request_id"}
        assert (last["error"]["code"], last["error"]["request_id"]) == ("upstream_error", "req-1")
        await plane.settled(upstream_error=1)


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "streamed"])
async def test_a_worker_that_dies_is_told_by_name_with_its_last_lines(body: dict[str, Any]) -> None:
    async with data_plane(lambda _body: [HEAD, delta(content="Hel"), "hang"]) as plane:
        asking = asyncio.create_task(plane.ask(body))
        await until(lambda: any(r.phase == "generating" for r in plane.inference.snapshot()), "a first token")

        plane.worker.exited.set_result("signal 9")
        answer = await asking

        error = (answer.events()[-1] if body.get("stream") else answer.json())["error"]
        assert error["code"] == "worker_crashed"
        assert "signal 9" in error["message"]
        assert "loading ... | boom" in error["suggestions"][0]
        assert not has_ended_well(answer.body)
        await plane.settled(worker_crashed=1)


@pytest.mark.parametrize(("reason", "code"), [("operator", "model_unloaded"), ("shutdown", "shutting_down")])
async def test_a_worker_that_was_ended_on_purpose_did_not_crash(reason: str, code: str) -> None:
    async with data_plane(lambda _body: [HEAD, delta(content="Hel"), "hang"]) as plane:
        asking = asyncio.create_task(plane.ask(STREAM))
        await until(lambda: any(r.phase == "generating" for r in plane.inference.snapshot()), "a first token")

        plane.residency.leases[0].leaving_because = reason
        plane.worker.exited.set_result("signal 15")

        assert (await asking).events()[-1]["error"]["code"] == code


HANGING: dict[str, list[Step]] = {
    "before the head": ["hang"],
    "prefill": [HEAD, event({"choices": [], "prompt_progress": {"total": 9, "processed": 1}}), "hang"],
    "decode": [HEAD, delta(content="Hel"), "hang"],
}


@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("phase", HANGING)
@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "streamed"])
async def test_a_caller_that_leaves_stops_the_work(body: dict[str, Any], phase: str, reset: bool) -> None:
    async with data_plane(lambda _body: HANGING[phase]) as plane:
        connection = await plane.connect()
        await connection.send(body)
        await until(lambda: plane.worker.running, "the worker works")
        if phase == "decode":
            await until(lambda: plane.inference.snapshot()[0].phase == "generating", "a first token")

        await connection.leave(reset=reset)

        await until(lambda: plane.worker.gone == 1, "the worker sees its connection closed")
        await plane.settled(client_closed=1)
        assert plane.worker.finished == 0


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "streamed"])
async def test_a_caller_that_leaves_while_waiting_is_never_dispatched(body: dict[str, Any]) -> None:
    async with data_plane() as plane:
        plane.residency.gate = asyncio.Event()
        connection = await plane.connect()
        await connection.send(body)
        await until(lambda: plane.residency.waiting, "the request waits")

        await connection.leave()

        await plane.settled(client_closed=1)
        plane.residency.gate.set()
        assert plane.worker.started == 0


async def test_cancelling_one_request_ends_only_that_one() -> None:
    async with data_plane() as plane:
        gate = asyncio.Event()
        plane.worker.script = lambda body: HANGING["decode"] if body["stop"] == ["victim"] else HELLO
        victim = await plane.connect()
        await victim.send(STREAM | {"stop": "victim"}, "/v1/chat/completions", **{"X-Request-Id": "victim"})
        await until(lambda: any(r.phase == "generating" for r in plane.inference.snapshot()), "a first token")
        others = [asyncio.create_task(plane.ask(STREAM | {"stop": "other"})) for _ in range(8)]

        assert plane.inference.cancel("victim")
        assert not plane.inference.cancel("nobody")
        gate.set()

        assert (await victim.answer()).events()[-1]["error"]["code"] == "request_cancelled"
        assert [(await other).text() for other in others] == ["Hello there"] * 8
        await plane.settled(request_cancelled=1, ok=8)


async def test_a_shutdown_is_told_to_streams() -> None:
    async with data_plane(lambda _body: HANGING["decode"]) as plane:
        asking = asyncio.create_task(plane.ask(STREAM))
        await until(lambda: any(r.phase == "generating" for r in plane.inference.snapshot()), "a first token")

        assert plane.inference.interrupt_all(ShuttingDown()) == 1

        assert (await asking).events()[-1]["error"]["code"] == "shutting_down"


async def test_silence_is_filled_with_comments_after_the_head() -> None:
    async with data_plane(keepalive_s=0.02) as plane:
        plane.residency.gate = asyncio.Event()
        connection = await plane.connect()
        await connection.send(STREAM)
        status, headers = await connection.head()
        first = await asyncio.wait_for(connection.reader.readuntil(b"keepalive\n\n"), 10)
        second = await asyncio.wait_for(connection.reader.readuntil(b"keepalive\n\n"), 10)

        plane.residency.gate.set()
        rest = await asyncio.wait_for(connection.reader.read(), 10)

        assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert b": keepalive" in first
        assert b": keepalive" in second
        assert rest.index(b"Hello") < rest.index(b"[DONE]")
        await plane.settled(ok=1)


async def test_an_error_after_silence_is_a_frame_because_the_head_is_out() -> None:
    async with data_plane(keepalive_s=0.02) as plane:
        plane.residency.gate, plane.residency.refusal = asyncio.Event(), ShuttingDown()
        connection = await plane.connect()
        await connection.send(STREAM)
        await asyncio.wait_for(connection.reader.readuntil(b"keepalive\n\n"), 10)

        plane.residency.gate.set()
        rest = await asyncio.wait_for(connection.reader.read(), 10)

        assert b'"code":"shutting_down"' in rest
        assert b"[DONE]" not in rest


async def test_a_reader_that_takes_nothing_is_cut_and_the_work_stops() -> None:
    flood: list[Step] = [HEAD, *[delta(content="x" * 4000)] * 5000, delta("stop"), usage(), DONE]
    async with data_plane(lambda _body: flood, keepalive_s=0.1, blocked_s=0.2) as plane:
        connection = await plane.connect()
        await connection.send(STREAM)

        await until(lambda: plane.outcomes(), "the reader is given up")

        connection.writer.transport.abort()
        await plane.settled(client_closed=1)
        assert plane.worker.finished == 0


async def test_a_slow_reader_gets_everything() -> None:
    many: list[Step] = [HEAD, *[delta(content="x" * 1000)] * 1000, delta("stop"), usage(), DONE]
    async with data_plane(lambda _body: many) as plane:
        connection = await plane.connect()
        await connection.send(STREAM)
        await connection.head()
        got = b""
        while data := await asyncio.wait_for(connection.reader.read(20_000), 10):
            got += data
            await asyncio.sleep(0)

        assert got.count(b"x" * 1000) == 1000
        assert b"[DONE]" in got


STALLS = Deadlines(first_token_s=0.3, between_tokens_s=0.3, exit_news_s=0.001)


@pytest.mark.parametrize(
    ("steps", "code", "status"),
    [
        (["hang"], "upstream_timeout", 504),
        ([HEAD, delta(role="assistant"), "hang"], "upstream_timeout", 504),
        ([HEAD, delta(content="Hel"), "hang"], "upstream_stalled", 504),
        ([HEAD, delta(content="Hel"), *[b": ping\n\n", 0.05] * 100], "upstream_stalled", 504),
    ],
    ids=["no head", "no token", "no further token", "only comments"],
)
async def test_a_worker_that_goes_quiet_is_given_up_and_reported(steps: list[Step], code: str, status: int) -> None:
    async with data_plane(lambda _body: steps, deadlines=STALLS) as plane:
        answer = await plane.ask(CHAT)

        assert (answer.status, answer.json()["error"]["code"]) == (status, code)
        assert [error.code for error in plane.residency.leases[0].failures] == [code]
        await plane.settled(**{code: 1})


async def test_reading_the_prompt_extends_the_first_token() -> None:
    progress: list[Step] = []
    for done in range(8):
        progress += [event({"choices": [], "prompt_progress": {"total": 8, "processed": done}}), 0.1]
    async with data_plane(lambda _body: [HEAD, *progress, *HELLO[2:]], deadlines=STALLS) as plane:
        answer = await plane.ask(CHAT)

        assert answer.json()["choices"][0]["message"]["content"] == "Hello there"


async def test_progress_in_another_slot_keeps_an_answer_alive() -> None:
    slow: list[Step] = [HEAD, delta(content="Hello"), 0.9, delta(content=" there"), delta("stop"), usage(), DONE]
    async with data_plane(lambda _body: slow, deadlines=STALLS) as plane:
        asking = asyncio.create_task(plane.ask(CHAT))
        await until(lambda: plane.residency.leases, "a lease")
        while not asking.done():
            plane.residency.leases[0].progressed()
            await asyncio.sleep(0.02)

        assert (await asking).json()["choices"][0]["message"]["content"] == "Hello there"


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["plain", "streamed"])
async def test_a_worker_that_cannot_be_reached_is_an_upstream_error(body: dict[str, Any]) -> None:
    async with data_plane(deadlines=QUICK) as plane:
        plane.worker.socket = plane.worker.socket.with_name("other")
        answer = await plane.ask(body)

        assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_unreachable")
        assert str(plane.worker.socket) not in answer.body.decode()


async def test_an_answer_that_is_no_event_stream_is_invalid() -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi"
    async with data_plane(lambda _body: [page]) as plane:
        assert (await plane.ask(CHAT)).json()["error"]["code"] == "upstream_invalid_response"


async def test_content_waits_for_a_comment_under_way() -> None:
    sent: list[str] = []
    may_go, is_held = asyncio.Event(), asyncio.Event()

    async def send(message: Any) -> None:
        if not sent and not may_go.is_set():
            is_held.set()
            await may_go.wait()  # the connection is full: the head cannot go out yet
        sent.append(message.get("body", b"head").decode())

    ticket = Ticket("r1", request_id="r", route="/", caller_id="me", started_at=0.0)
    writer = EventWriter(send, ticket, list, keepalive_s=0.01)
    await asyncio.wait_for(is_held.wait(), 10)
    content = asyncio.create_task(writer.finish(b"content"))
    await asyncio.sleep(0)
    may_go.set()
    await asyncio.wait_for(content, 10)

    assert sent == ["head", ": keepalive\n\n", "content"]


async def test_a_comment_tells_how_it_stands_at_that_moment() -> None:
    waits = [WaitStatus("qwen", 2, "memory", 1.0, 12.3), WaitStatus("qwen", 1, "loading", 9.0, 8.0, "43%"), None]
    sent: list[bytes] = []
    is_enough = asyncio.Event()

    async def send(message: Any) -> None:
        if body := message.get("body"):
            sent.append(body)
        if len(sent) == 3:
            is_enough.set()

    ticket = Ticket("r1", request_id="r", route="/", caller_id="me", started_at=0.0)
    writer = EventWriter(send, ticket, list, keepalive_s=0.01, comment=lambda: wait_comment(waits.pop(0)))
    await asyncio.wait_for(is_enough.wait(), 10)
    writer.close()

    assert sent == [
        b": queued model=qwen position=2 reason=memory eta=12s\n\n",
        b": loading model=qwen progress=43% eta=8s\n\n",
        b": keepalive\n\n",
    ]

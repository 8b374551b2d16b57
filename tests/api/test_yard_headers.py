"""Our own request headers: what they mean, and that nonsense in them is refused in every dialect."""

from __future__ import annotations

import pytest

from modelyard.api.yard_headers import take_headers
from modelyard.errors import BadRequest, DeadlineExceeded, LoopDetected
from modelyard.providers.ticket import Ticket

from .data_plane import data_plane

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def taken(*headers: tuple[str, str]) -> Ticket:
    ticket = Ticket("r1", request_id="req-1", route="/x", caller_id="me", started_at=100.0)
    take_headers([(name.lower().encode(), value.encode("latin-1")) for name, value in headers], ticket)
    return ticket


def test_each_header_is_noted_on_the_ticket() -> None:
    ticket = taken(
        ("X-Modelyard-Deadline-Ms", "2500"), ("X-Modelyard-Hops", "2"), ("X-Modelyard-Retry", "1"),
        ("X-Session-Id", "a chat"), ("X-Modelyard-Wait-Seconds", "0.5"),
    )  # fmt: skip

    assert (ticket.deadline_at, ticket.hops, ticket.is_retry) == (102.5, 2, True)
    assert (ticket.affinity, ticket.wait_s_max) == ("a chat", 0.5)


def test_our_own_session_header_counts_before_the_common_one() -> None:
    assert taken(("X-Modelyard-Session", "ours"), ("X-Session-Id", "theirs")).affinity == "ours"


def test_without_headers_nothing_is_said() -> None:
    ticket = taken(("Accept", "*/*"))

    assert (ticket.deadline_at, ticket.hops, ticket.is_retry, ticket.affinity) == (None, 0, False, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("X-Modelyard-Deadline-Ms", value) for value in ("", "-1", "NaN", "inf", "1e3", "0x1", "9" * 20, "1 ")),
        *(("X-Modelyard-Hops", value) for value in ("", "-1", "1.5", "a", "9" * 20)),
        *(("X-Modelyard-Retry", value) for value in ("", "yes", "2", "true")),
        *(("X-Session-Id", value) for value in ("", "x" * 257, "a\x7fb", "a\x85b")),
        ("X-Modelyard-Session", ""),
        ("X-Modelyard-Wait-Seconds", "soon"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(name: str, value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        taken((name, value))

    assert caught.value.param == name


def test_a_header_that_is_there_twice_is_refused() -> None:
    with pytest.raises(BadRequest):
        taken(("X-Modelyard-Hops", "1"), ("X-Modelyard-Hops", "1"))


def test_no_time_left_and_too_many_servers_end_a_request_at_once() -> None:
    with pytest.raises(DeadlineExceeded):
        taken(("X-Modelyard-Deadline-Ms", "0"))
    with pytest.raises(LoopDetected):
        taken(("X-Modelyard-Hops", "4"))
    assert taken(("X-Modelyard-Hops", "3")).hops == 3


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"X-Modelyard-Deadline-Ms": "0"}, 504, "deadline_exceeded"),
        ({"X-Modelyard-Hops": "4"}, 508, "loop_detected"),
        ({"X-Modelyard-Retry": "maybe"}, 400, "invalid_value"),
    ],
)
async def test_they_end_requests_of_every_dialect_before_anything_is_asked(
    headers: dict[str, str], status: int, code: str
) -> None:
    async with data_plane() as plane:
        for path in ("/v1/chat/completions", "/api/chat", "/api/v1/llm/chat"):
            connection = await plane.connect()
            await connection.send(CHAT, path, **headers)
            answer = await connection.answer()

            error = answer.json()["error"]
            assert answer.status == status
            assert (answer.json() if isinstance(error, str) else error)["code"] == code
        assert plane.residency.asked == []


async def test_an_answer_that_takes_longer_than_its_deadline_ends_with_it() -> None:
    async with data_plane(lambda _body: ["hang"]) as plane:
        connection = await plane.connect()
        await connection.send(CHAT | {"stream": False}, "/api/chat", **{"X-Modelyard-Deadline-Ms": "150"})
        answer = await connection.answer()

        assert (answer.status, answer.json()["code"]) == (504, "deadline_exceeded")
        await plane.settled(deadline_exceeded=1)

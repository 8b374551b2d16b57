"""What is asked again and what is not, counted where it is asked."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from modelyard.client import OllamaConnectionError, OllamaServiceError, Retries, ollama_transport
from modelyard.client.ollama_questions import TAGS
from tests.client.ollama_script import (
    DEADLINE_S,
    Act,
    black_hole,
    hang_up,
    head,
    nowhere,
    plain,
    raw,
    reset,
    scripted,
    silence,
    stream,
)  # fmt: skip
from tests.client.twins import Call, opened

DONE = {"model": "m", "response": "yes", "done": True}
LOOKS: list[Call] = [("list_models", ()), ("show_model", ("m",)), ("ps", ()), ("version", ())]
WORK: list[Call] = [
    ("generate", ("m", "?")), ("generate", ("m", "?", True)), ("chat", ("m", [])), ("chat", ("m", [], True)),
    ("embed", ("m", "?")), ("load", ("m",)), ("unload", ("m",)),
]  # fmt: skip
PULL: list[Call] = [("pull_model", ("m",))]
SHORT_S = 0.2
CUT = raw(head(content_length="100") + b'{"response": "ye')


def everywhere(*acts: Act) -> dict[str, list[Act]]:
    names = ("tags", "show", "ps", "version", "generate", "chat", "embed", "pull")
    return {name: list(acts) for name in names}


async def fails(kind: str, url: str, call: Call, **named: Any) -> tuple[OllamaConnectionError, int]:
    """The error of a call, and how many attempts it took."""
    method, arguments = call
    with capture_logs() as logs:
        async with opened(kind, url, **named) as ask:
            with pytest.raises(OllamaConnectionError) as caught:
                await ask(method, *arguments)
    return caught.value, sum(one["event"] == "ollama.failed" for one in logs)


@pytest.mark.usefixtures("no_logs_set_up")
@pytest.mark.parametrize(("call", "attempts"), [(one, 3) for one in LOOKS + WORK] + [(one, 2) for one in PULL])
async def test_without_a_connection_anything_is_tried_again(kind: str, call: Call, attempts: int) -> None:
    error, count = await fails(kind, nowhere(), call)

    assert count == attempts
    assert isinstance(error.__cause__, httpx2.ConnectError)


@pytest.mark.usefixtures("no_logs_set_up")
async def test_a_connection_that_does_not_come_about_in_time_is_tried_again(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ollama_transport, "CONNECT_S", SHORT_S)
    with black_hole() as url:
        error, count = await fails(kind, url, ("generate", ("m", "?")))

    assert count == 3
    assert isinstance(error.__cause__, httpx2.ConnectTimeout)


@pytest.mark.parametrize("how", [hang_up, reset])
@pytest.mark.parametrize("call", [*LOOKS, ("generate", ("m", "?")), ("load", ("m",))])
async def test_a_connection_lost_before_the_answer_is_tried_again(kind: str, call: Call, how: Act) -> None:
    answer = plain({**DONE, "models": [], "version": "1"})
    with scripted(**everywhere(how, how, answer)) as server:
        async with opened(kind, server.url) as ask:
            await ask(call[0], *call[1])

    assert len(server.asked) == 3


async def test_a_streamed_generation_whose_connection_was_lost_before_the_answer_is_tried_again(kind: str) -> None:
    with scripted(generate=[hang_up, reset, stream(DONE)]) as server:
        async with opened(kind, server.url) as ask:
            assert await ask("generate", "m", "?", stream=True) == ["yes"]

    assert len(server.asked) == 3


@pytest.mark.parametrize("call", LOOKS)
async def test_a_look_that_was_cut_is_tried_again_three_times_in_all(kind: str, call: Call) -> None:
    with scripted(**everywhere(CUT)) as server:
        error, _count = await fails(kind, server.url, call)

    assert len(server.asked) == 3
    assert isinstance(error.__cause__, httpx2.RemoteProtocolError)


@pytest.mark.parametrize("call", WORK)
@pytest.mark.parametrize("how", [CUT, raw(head(transfer_encoding="chunked"))], ids=["in the middle", "after the head"])
async def test_work_is_never_asked_for_again_once_the_answer_has_begun(kind: str, call: Call, how: Act) -> None:
    with scripted(**everywhere(how)) as server:
        await fails(kind, server.url, call)

    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("call", "attempts"), [(one, 3) for one in LOOKS] + [(one, 1) for one in WORK + PULL]
)  # fmt: skip
async def test_after_silence_only_a_look_is_tried_again(kind: str, call: Call, attempts: int) -> None:
    with scripted(**everywhere(silence)) as server:
        error, _count = await fails(kind, server.url, call, timeout=SHORT_S)

    assert len(server.asked) == attempts
    assert isinstance(error.__cause__, httpx2.ReadTimeout)
    assert f"said nothing for {SHORT_S} s" in str(error)


async def test_health_is_looked_at_again_after_silence(kind: str) -> None:
    with scripted(version=[silence, plain({"version": "1"})]) as server:
        async with opened(kind, server.url, timeout=1.0) as ask:
            assert await ask("health_check")

    assert len(server.asked) == 2


async def test_health_does_not_wait_as_long_as_a_generation_may(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_transport, "HEALTH_S", SHORT_S)
    with scripted(version=silence) as server:
        async with opened(kind, server.url, timeout=DEADLINE_S) as ask:
            assert not await ask("health_check")

    assert len(server.asked) == 3  # the first would still be waiting


async def test_silence_in_the_middle_of_a_generation_ends_it(kind: str) -> None:
    with scripted(generate=stream({"response": "a"}, then=silence)) as server:
        error, _count = await fails(kind, server.url, ("generate", ("m", "?", True)), timeout=SHORT_S)

    assert error.fields["trouble"] == "silence"
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_what_the_server_says_is_final(kind: str, status: int) -> None:
    with scripted(**everywhere(plain({"error": "no"}, status=status))) as server:
        async with opened(kind, server.url) as ask:
            for method, arguments in LOOKS + WORK + PULL:
                with pytest.raises(OllamaServiceError, match=f"{status}: no"):
                    await ask(method, *arguments)

    assert len(server.asked) == len(LOOKS + WORK + PULL)


@pytest.mark.parametrize("how", [None, hang_up, reset], ids=["properly", "hang up", "reset"])
async def test_a_cut_pull_is_asked_for_again_and_goes_on(kind: str, how: Act | None) -> None:
    first = stream({"status": "p", "digest": "d", "total": 9, "completed": 6}, then=how)
    second = stream({"status": "p", "digest": "d", "total": 9, "completed": 4}, {"status": "success"})
    with scripted(pull=[first, second]) as server:
        async with opened(kind, server.url) as ask:
            progress = await ask("pull_model", "m")

    assert len(server.asked) == 2
    assert [one.get("completed") for one in progress] == [6, 6, None]
    assert progress[-1] == {"status": "success"}


async def test_a_pull_that_is_cut_twice_fails(kind: str) -> None:
    with scripted(pull=stream({"status": "p"})) as server:
        error, _count = await fails(kind, server.url, ("pull_model", ("m",)))

    assert len(server.asked) == 2
    assert "before it was complete" in str(error)


async def test_a_pull_the_server_gives_up_is_not_asked_for_again(kind: str) -> None:
    with scripted(pull=stream({"status": "p"}, {"error": "pull model manifest: file does not exist"})) as server:
        async with opened(kind, server.url) as ask:
            with pytest.raises(OllamaServiceError, match="file does not exist"):
                await ask("pull_model", "m")

    assert len(server.asked) == 1


async def test_the_waits_double_from_one_second_to_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def note(wait_s: float) -> None:
        waits.append(wait_s)

    monkeypatch.setattr("stamina._core._smart_sleep", note)
    with capture_logs(), suppress(OllamaConnectionError):
        async for attempt in Retries(attempts_max=7, jitter_s=0).attempts(TAGS):
            with attempt:
                raise OllamaConnectionError(trouble="connect")

    assert waits == [1, 2, 4, 8, 10, 10]


def test_by_default_there_are_three_attempts_and_two_of_a_pull() -> None:
    assert Retries() == Retries(attempts_max=3, pull_attempts_max=2, wait_first_s=1, wait_max_s=10, jitter_s=1)

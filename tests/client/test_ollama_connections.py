"""Connections of the Ollama client, counted at the server: how many, kept how long, and closed when somebody leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from modelyard.client import OllamaConnectionError, OllamaService, OllamaServiceError, OllamaStream, SyncOllamaService
from modelyard.client.ollama_settings import get_settings
from modelyard.client.ollama_transport import client_arguments
from tests.client.ollama_script import (
    DEADLINE_S,
    OllamaScript,
    after_the_gate,
    head,
    plain,
    raw,
    scripted,
    silence,
    stream,
)
from tests.client.twins import AT_ONCE, opened

TEXT = {"response": "a", "done": False}
DONE = {"model": "m", "response": "", "done": True}
ENDLESS = stream(TEXT, TEXT, then=silence)


async def until(server: OllamaScript, is_so: Any) -> bool:
    return await asyncio.to_thread(server.until, is_so)


async def left(server: OllamaScript) -> bool:
    return await asyncio.to_thread(server.left.wait, DEADLINE_S)


def test_the_pool_and_the_times_are_as_documented() -> None:
    arguments = client_arguments(get_settings({}), key=None)

    assert arguments["limits"] == httpx2.Limits(max_connections=10, max_keepalive_connections=5, keepalive_expiry=30.0)
    assert arguments["timeout"] == httpx2.Timeout(connect=10.0, read=300.0, write=30.0, pool=300.0)


async def test_there_are_never_more_than_twice_the_connections_that_are_kept() -> None:
    with scripted(generate=after_the_gate(plain(DONE))) as server:
        async with OllamaService(server.url, max_connections=2) as service:
            calls = [asyncio.create_task(service.generate("m", str(number))) for number in range(10)]
            assert await until(server, lambda: len(server.asked) == 4)
            server.gate.set()
            await asyncio.gather(*calls)

            assert len(server.asked) == 10
            assert server.open_max == 4
            assert await until(server, lambda: server.open_count == 2)


async def test_calls_one_after_another_share_a_connection(kind: str) -> None:
    with scripted(tags=plain({"models": []}), generate=plain(DONE), show=plain({"error": "no"}, 400)) as server:
        async with opened(kind, server.url) as ask:
            await ask("list_models")
            await ask("generate", "m", "?")
            with pytest.raises(OllamaServiceError):
                await ask("show_model", "m")
            await ask("list_models")

    assert server.connections_count == 1


async def test_a_stream_read_to_its_end_leaves_its_connection_to_the_next() -> None:
    with scripted(generate=stream(TEXT, DONE), pull=stream({"status": "success"})) as server:
        async with OllamaService(server.url) as service:
            for _ in range(3):
                assert [text async for text in await service.generate("m", "?", stream=True)] == ["a"]
                assert [one async for one in service.pull_model("m")] == [{"status": "success"}]

    assert server.connections_count == 1


async def test_a_stream_that_is_complete_does_not_wait_for_a_server_that_forgets_to_end_it(kind: str) -> None:
    with scripted(generate=stream(TEXT, DONE, then=silence)) as server:
        async with opened(kind, server.url) as ask:
            assert await ask("generate", "m", "?", stream=True) == ["a"]
            assert await left(server)


async def test_a_connection_the_server_closed_meanwhile_is_not_used_again(kind: str) -> None:
    with scripted(version=raw(head(content_length="15") + b'{"version":"1"}')) as server:
        async with opened(kind, server.url) as ask:
            for _ in range(3):
                assert await ask("version") == "1"
                assert await until(server, lambda: server.open_count == 0)

    assert len(server.asked) == 3


@pytest.mark.usefixtures("no_logs_set_up")
async def test_all_connections_in_use_is_an_error_that_says_so_and_is_not_tried_again() -> None:
    with scripted(generate=ENDLESS) as server:
        async with AsyncExitStack() as stack:
            service = OllamaService(server.url, timeout=0.3, max_connections=1, retries=AT_ONCE)
            await stack.enter_async_context(service)
            for _ in range(2):
                await stack.enter_async_context(await service.generate("m", "?", stream=True))
            with capture_logs() as logs, pytest.raises(OllamaConnectionError, match=r"in use for 0\.3 s") as caught:
                await service.generate("m", "?")

    assert "max_connections" in caught.value.suggestions[0]
    assert [one["trouble"] for one in logs] == ["busy"]


# Leaving.


async def test_the_context_manager_closes_what_it_opened(kind: str) -> None:
    with scripted(version=plain({"version": "1"})) as server:
        async with opened(kind, server.url) as ask:
            await ask("version")
            assert server.open_count == 1

        assert await until(server, lambda: server.open_count == 0)


async def test_clean_up_without_a_context_manager() -> None:
    with scripted(version=plain({"version": "1"})) as server:
        service = OllamaService(server.url)
        await service.version()
        await service.close()
        await service.close()  # twice does no harm
        twin = SyncOllamaService(server.url)
        twin.version()
        twin.close()
        twin.close()

        assert await until(server, lambda: server.open_count == 0)
        assert server.connections_count == 2


async def test_a_block_that_fails_closes_too() -> None:
    with scripted(version=plain({"version": "1"})) as server:
        with suppress(ZeroDivisionError):
            async with OllamaService(server.url) as service:
                await service.version()
                _ = 1 / 0

        assert await until(server, lambda: server.open_count == 0)


async def test_a_cancelled_generation_closes_its_connection() -> None:
    with scripted(generate=silence) as server:
        async with OllamaService(server.url) as service:
            call = asyncio.create_task(service.generate("m", "?"))
            assert await until(server, lambda: server.asked)
            call.cancel()

            assert await left(server)
            with pytest.raises(asyncio.CancelledError):
                await call
    assert len(server.asked) == 1


@pytest.mark.parametrize("method", ["generate", "chat", "pull_model"])
async def test_a_cancelled_stream_closes_its_connection(method: str) -> None:
    first = {"response": "a", "message": {"content": "a"}, "status": "pulling"}
    seen = asyncio.Event()

    async def read(service: OllamaService) -> None:
        pieces: AsyncIterator[Any]
        match method:
            case "generate":
                pieces = await service.generate("m", "?", stream=True)
            case "chat":
                pieces = await service.chat("m", [], stream=True)
            case _:
                pieces = service.pull_model("m")
        async for _piece in pieces:
            seen.set()

    act = stream(first, then=silence)
    with scripted(generate=act, chat=act, pull=act) as server:
        async with OllamaService(server.url, retries=AT_ONCE) as service:
            reading = asyncio.create_task(read(service))
            await seen.wait()
            reading.cancel()

            assert await left(server)
            with pytest.raises(asyncio.CancelledError):
                await reading
    assert len(server.asked) == 1


async def test_a_timeout_around_a_generation_closes_its_connection() -> None:
    with scripted(generate=silence) as server:
        async with OllamaService(server.url) as service:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await service.generate("m", "?")

            assert await left(server)


async def test_leaving_a_stream_closes_its_connection() -> None:
    with scripted(generate=ENDLESS) as server:
        async with OllamaService(server.url) as service:
            async with await service.generate("m", "?", stream=True) as pieces:
                async for _text in pieces:
                    break

            assert await left(server)
            with pytest.raises(StopAsyncIteration):
                await anext(pieces)


async def test_breaking_out_of_a_stream_nobody_holds_closes_its_connection() -> None:
    with scripted(generate=ENDLESS, pull=stream({"status": "pulling"}, then=silence)) as server:
        async with OllamaService(server.url) as service:
            async for _text in await service.generate("m", "?", stream=True):
                break
            assert await left(server)

            server.left.clear()
            async for _progress in service.pull_model("m"):
                break
            assert await left(server)


async def test_a_stream_that_is_never_read_does_not_keep_its_connection() -> None:
    with scripted(generate=ENDLESS) as server:
        async with OllamaService(server.url) as service:
            await service.generate("m", "?", stream=True)

            assert await left(server)


def test_leaving_the_twins_streams_closes_their_connections() -> None:
    pulling = stream({"status": "pulling"}, then=silence)
    with scripted(generate=ENDLESS, pull=pulling) as server, SyncOllamaService(server.url) as service:
        with service.generate("m", "?", stream=True) as pieces:
            assert next(pieces) == "a"
        assert server.left.wait(DEADLINE_S)

        server.left.clear()
        for _progress in service.pull_model("m"):
            break
        assert server.left.wait(DEADLINE_S)

        server.left.clear()
        service.generate("m", "?", stream=True)
        assert server.left.wait(DEADLINE_S)


async def test_closing_the_service_ends_its_streams() -> None:
    with scripted(generate=ENDLESS) as server:
        service = OllamaService(server.url)
        pieces = await service.generate("m", "?", stream=True)
        assert isinstance(pieces, OllamaStream)
        await service.close()

        assert await left(server)
        with pytest.raises(OllamaServiceError):
            _ = [text async for text in pieces]


async def test_closing_the_service_fails_the_calls_that_wait_and_none_is_asked_again() -> None:
    with scripted(generate=silence, tags=silence) as server:
        service = OllamaService(server.url, retries=AT_ONCE)
        calls = [asyncio.create_task(call) for call in (service.generate("m", "?"), service.list_models())]
        assert await until(server, lambda: len(server.asked) == 2)
        await service.close()
        found = await asyncio.gather(*calls, return_exceptions=True)

    assert [type(one) for one in found] == [OllamaServiceError] * 2
    assert len(server.asked) == 2


async def test_two_generations_at_once_do_not_mix() -> None:
    with scripted(generate=[stream({"response": name}, {"response": name}, DONE) for name in ("a", "b")]) as server:
        async with OllamaService(server.url) as service:
            first = await service.generate("m", "?", stream=True)
            second = await service.generate("m", "?", stream=True)
            texts = [await anext(second), await anext(first), await anext(second), await anext(first)]
            rest = [text async for text in first] + [text async for text in second]

    assert texts == ["b", "a", "b", "a"]
    assert rest == []

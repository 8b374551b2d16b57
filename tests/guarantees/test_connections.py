"""Connections to nodes: cancelled at any moment, once or twice, none is lost and none is used for somebody else."""

from __future__ import annotations

import asyncio
import os
import random

from modelyard.providers.node_address import Address
from modelyard.providers.node_http import NodeConnections
from modelyard.providers.worker_http import BrokenConnection, NoConnection
from modelyard.testing import FakeOpenAI, Script
from tests.support.counts import count, tell

BODY = b'{"model": "m", "stream": true, "messages": []}'
AT_ONCE = 20


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def ask(connections: NodeConnections, body: bytes = BODY) -> bytes:
    answer = await connections.request("POST", "/v1/chat/completions", body, {}, connect_s=5)
    is_complete, read = False, b""
    try:
        while data := await answer.read():
            read += data
        is_complete = True
    finally:
        connections.done(answer, is_complete=is_complete)
    return read


async def test_cancels_at_random_moments_lose_no_connection_and_mix_no_answers() -> None:
    chance, total = random.Random(3), count(600, 10_000)
    async with FakeOpenAI(["m"]) as server:
        server.play(Script(tagged=True, tag_count=4, between_s=0.001))
        connections = NodeConnections(Address.parse(server.url))
        await ask(connections)
        before = descriptors()
        whole = 0
        for _ in range(total // AT_ONCE):
            tasks = [asyncio.create_task(ask(connections)) for _ in range(AT_ONCE)]
            for task in tasks:
                await asyncio.sleep(chance.choice((0, 0, 0.0005, 0.002)))
                if chance.random() < 0.7:
                    task.cancel()
                    if chance.random() < 0.3:
                        task.cancel()
            for answer in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(answer, bytes):
                    whole += 1
                    tags = {token for token in answer.split(b'"') if token[:1].isdigit() and b"." in token}
                    assert len({tag.partition(b".")[0] for tag in tags}) == 1
                    assert answer.endswith(b"data: [DONE]\n\n")
                else:
                    assert isinstance(answer, asyncio.CancelledError), answer
        last = await asyncio.wait_for(ask(connections), 5)
        used = server.connection_count
        connections.close()
        async with asyncio.timeout(10):
            while descriptors() > before:  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(0.01)

    tell(f"{total} requests, {whole} whole, {used} connections")
    assert last.endswith(b"data: [DONE]\n\n")
    assert whole > total // 10
    assert used < total  # those that were read to their end were used again


async def test_a_connection_is_used_again_only_after_an_answer_read_to_its_end() -> None:
    async with FakeOpenAI(["m"]) as server:
        connections = NodeConnections(Address.parse(server.url))
        for _ in range(5):
            await ask(connections)
        kept = server.connection_count
        answer = await connections.request("POST", "/v1/chat/completions", BODY, {}, connect_s=5)
        connections.done(answer, is_complete=False)
        await ask(connections)

        assert kept == 1
        assert server.connection_count == 2
        connections.close()


async def test_a_node_that_closed_an_idle_connection_is_asked_on_a_new_one() -> None:
    async with FakeOpenAI(["m"]) as server:
        connections = NodeConnections(Address.parse(server.url))
        await ask(connections)
        await server.stop()
        await server.start()

        assert (await ask(connections)).endswith(b"data: [DONE]\n\n")
        connections.close()


async def test_what_cannot_be_connected_to_says_why_and_nothing_secret() -> None:
    listener = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    told = {}
    for url in (f"http://127.0.0.1:{port}", "http://no-such-host.invalid", "https://127.0.0.1:1"):
        try:
            await NodeConnections(Address.parse(url)).request(
                "GET", "/", b"", {"Authorization": "Bearer sesame"}, connect_s=2
            )
        except NoConnection as error:
            told[url] = str(error)

    assert len(told) == 3
    assert "sesame" not in str(told)


async def test_a_header_cannot_carry_another() -> None:
    async with FakeOpenAI(["m"]) as server:
        connections = NodeConnections(Address.parse(server.url))
        for value in ("x\r\nHost: evil", "x\ny", "\0"):
            try:
                await connections.request("GET", "/v1/models", b"", {"X-Request-Id": value}, connect_s=2)
            except BrokenConnection:
                continue
            raise AssertionError("it was sent")

        assert server.requests == []
        connections.close()

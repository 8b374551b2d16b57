"""The test kit does what its page says: fakes that behave, and that fail on command."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import aiohttp
import pytest

from modelyard.testing import FAULTS, FakeModel, FakeOllama, FakeOpenAI, FaultProxy, Script
from modelyard.testing.fault_proxy import Network
from modelyard.testing.server import FakeServer
from tests.support.pages import blocks, read

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
OUTPUTS = ["All is well\nHello\n from\nOllamaError\nHow are you? 2\n", "True\n"]


@pytest.mark.parametrize("at", range(len(OUTPUTS)))
def test_the_examples_of_the_page_print_what_it_says(at: int) -> None:
    programs = [block.text for block in blocks(read("docs/testing.md")) if block.text.startswith("import asyncio")]
    done = subprocess.run([sys.executable, "-c", programs[at]], capture_output=True, text=True, timeout=60, check=False)

    assert len(programs) == len(OUTPUTS)
    assert (done.stdout, done.returncode) == (OUTPUTS[at], 0), done.stderr


def test_every_fault_is_on_the_page() -> None:
    page = read("docs/testing.md")

    assert [name for name in FAULTS if f"`{name}`" not in page] == []


async def raw(server: FakeServer, path: str, body: dict[str, Any]) -> bytes:
    async with aiohttp.ClientSession() as session, session.post(server.url + path, json=body) as answer:
        return await answer.read()


@pytest.mark.parametrize("offset", [0, 1, 17, 150])
async def test_an_answer_can_be_cut_at_any_byte(offset: int) -> None:
    async with FakeOpenAI(["m"]) as server:
        whole = await raw(server, "/v1/chat/completions", CHAT)
        server.play(Script(cut_at=offset, cut="end"))
        cut = await raw(server, "/v1/chat/completions", CHAT)
        server.play(Script(cut_at=offset, cut="reset"))
        with pytest.raises(aiohttp.ClientError):
            await raw(server, "/v1/chat/completions", CHAT)

    assert len(cut) == offset
    assert len(whole) > 150


async def test_a_client_that_wants_the_connection_closed_sees_its_end() -> None:
    async with FakeOpenAI(["m"]) as server, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: Close\r\n\r\n")
        answer = await reader.read()
        writer.close()

    assert b'"id": "m"' in answer


async def test_a_script_may_be_for_some_answers_or_for_one_model() -> None:
    async with FakeOllama(["m", "n"]) as server:
        server.play(FAULTS["500"], times=1)
        server.play(Script(tokens=("for n",)), model="n")
        first = await raw(server, "/api/chat", CHAT)
        second = await raw(server, "/api/chat", CHAT)
        other = await raw(server, "/api/chat", {**CHAT, "model": "n"})

    assert b"something is wrong" in first
    assert json.loads(second.splitlines()[-1])["done"]
    assert b"for n" in other


async def test_tagged_tokens_tell_whose_they_are() -> None:
    async with FakeOllama(["m"]) as server:
        server.play(Script(tagged=True, tag_count=3))
        texts = await asyncio.gather(*(raw(server, "/api/chat", CHAT) for _ in range(3)))

    tokens = [[json.loads(line)["message"]["content"] for line in text.splitlines()][:-1] for text in texts]
    assert sorted(tokens) == [[f"{number}.{at} " for at in range(3)] for number in (1, 2, 3)]


async def test_a_client_that_leaves_is_noticed() -> None:
    async with FakeOpenAI(["m"]) as server:
        server.play(FAULTS["stall"])
        asking = asyncio.create_task(raw(server, "/v1/chat/completions", CHAT))
        async with asyncio.timeout(10):
            while not server.questions or server.questions[0].tokens_sent < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            asking.cancel()
            await server.questions[0].left.wait()

    assert not server.questions[0].is_whole


async def test_memory_is_kept_as_ollama_keeps_it() -> None:
    async with FakeOllama([FakeModel("m"), FakeModel("e", capabilities=("embedding",))]) as server:
        await raw(server, "/api/chat", CHAT)
        there = dict(server.residents)
        await raw(server, "/api/generate", {"model": "m", "keep_alive": 0})
        gone = dict(server.residents)
        async with aiohttp.ClientSession() as session, session.get(f"{server.url}/api/ps") as answer:
            listed = (await answer.json())["models"]
        refused = await raw(server, "/api/chat", {**CHAT, "model": "e"})

    assert 290 < there["m:latest"] <= 300
    assert gone == {}
    assert listed == []
    assert b"does not support chat" in refused


async def test_the_proxy_slices_delays_and_swallows() -> None:
    async with FakeOpenAI(["m"]) as server, FaultProxy(server.url) as proxy:
        proxy.network = Network(slice_bytes=3)
        server_url, server_body = server.url, await raw(server, "/v1/chat/completions", CHAT)
        async with aiohttp.ClientSession() as session:
            async with session.post(proxy.url + "/v1/chat/completions", json=CHAT) as answer:
                sliced = await answer.read()
            proxy.network = Network(cut_after_bytes=200)
            with pytest.raises(aiohttp.ClientError):
                async with session.post(proxy.url + "/v1/chat/completions", json=CHAT) as answer:
                    await answer.read()
            proxy.network = Network(is_black_hole=True)
            with pytest.raises(asyncio.TimeoutError):
                await session.get(proxy.url + "/v1/models", timeout=aiohttp.ClientTimeout(total=0.3))

    assert proxy.url != server_url
    assert len(sliced) == len(server_body)
    assert proxy.connection_count >= 2


async def test_what_the_proxy_does_changes_while_a_connection_runs() -> None:
    slow = Script(tokens=("tick ",) * 400, between_s=0.01)
    async with FakeOpenAI(["m"]) as server, FaultProxy(server.url) as proxy, aiohttp.ClientSession() as session:
        server.play(slow)
        async with session.post(proxy.url + "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
            await answer.content.readline()
            proxy.network.is_black_hole = True
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(answer.content.read(), 0.5)
            proxy.network.is_black_hole = False
            after = await answer.content.readline()
            proxy.network.is_refusing = True
            with pytest.raises(aiohttp.ClientError):
                await answer.content.read()

    assert after


async def test_it_runs_for_other_languages() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "modelyard.testing", "ollama", "--model", "x", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        url = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
        async with aiohttp.ClientSession() as session, session.get(f"{url}/api/tags") as answer:
            listed = await answer.json()
    finally:
        process.terminate()
        await process.wait()

    assert [one["name"] for one in listed["models"]] == ["x:latest"]

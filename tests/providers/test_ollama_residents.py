"""An Ollama server's memory over real HTTP: what it holds, loads and lets go of, and what it may not do to us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from modelyard.clock import SystemClock
from modelyard.errors import (
    LoadFailed,
    OutOfMemory,
    UpstreamError,
    UpstreamInvalid,
    UpstreamTimeout,
    UpstreamUnreachable,
    YardError,
)
from modelyard.providers import ollama_residents
from modelyard.providers.ollama_residents import BODY_BYTES_MAX, OllamaResidents
from modelyard.units import GIB
from tests.residency.fakes import until
from tests.support.ollama_node import FakeOllama, Installed, keep_alive_s

CLOCK = SystemClock()
BIG, SPLIT, WORDS = "llama3.1:8b", "hf.co/Org/Qwen-GGUF:Q4_K_M", "all-minilm"
MODELS = {
    BIG: Installed(6 * GIB, 6 * GIB),
    SPLIT: Installed(9 * GIB, 5 * GIB),
    WORDS: Installed(GIB, GIB, is_embedding=True),
}


@asynccontextmanager
async def pair(
    devices: tuple[str, ...] = ("gpu0",), unload_s: float = 5.0
) -> AsyncIterator[tuple[FakeOllama, OllamaResidents]]:
    async with (
        FakeOllama(MODELS).serving() as server,
        OllamaResidents("studio", server.url, devices, CLOCK, unload_s=unload_s) as node,
    ):
        yield server, node


async def test_what_it_holds_is_told_per_device_and_with_its_expiry() -> None:
    async with pair() as (server, node):
        assert await node.residents() == ()
        await server.load(BIG, "10m")
        await server.load(SPLIT, -1)

        big, split = await node.residents()

    assert (big.name, big.bytes) == (BIG, {"gpu0": 6 * GIB})
    assert big.expires_in_s == pytest.approx(600, abs=5)
    assert (split.name, split.bytes) == (SPLIT, {"gpu0": 5 * GIB, "ram": 4 * GIB})
    assert split.expires_in_s is not None
    assert split.expires_in_s > 100 * 365 * 86400


@pytest.mark.parametrize(
    ("devices", "bytes_"),
    [
        (("ram",), {"ram": 9 * GIB}),
        (("gpu0", "gpu1"), {"gpu0": 5 * GIB // 2, "gpu1": 5 * GIB // 2, "ram": 4 * GIB}),
    ],
)
async def test_the_devices_it_shares_say_where_its_bytes_are(devices: tuple[str, ...], bytes_: dict[str, int]) -> None:
    async with pair(devices) as (server, node):
        await server.load(SPLIT)

        (found,) = await node.residents()

    assert found.bytes == bytes_


@pytest.mark.parametrize("name", [BIG, WORDS])
async def test_a_load_is_kept_for_us_and_an_unload_is_seen(name: str) -> None:
    async with pair() as (server, node):
        server.faults.unload_s = 0.3

        there = await node.load(name)
        kept_s = there.expires_in_s
        await node.unload(name)

        assert await node.residents() == ()
    assert server.names() == []
    assert kept_s == pytest.approx(keep_alive_s("24h"), abs=5)


async def test_loading_what_is_loaded_changes_nothing_else() -> None:
    async with pair() as (server, node):
        await server.load(BIG, "5m")

        await node.load(BIG)
        (there,) = await node.residents()

    assert there.name == BIG
    assert "options" not in server.asked[-2][2], "other options would make it load again"


async def test_a_load_that_fails_says_why() -> None:
    async with pair() as (server, node):
        with pytest.raises(LoadFailed, match="not found, try pulling it first"):
            await node.load("nobody:1b")
        server.faults.load_error = "model requires more system memory (9 GiB) than is available"
        with pytest.raises(OutOfMemory, match="more system memory"):
            await node.load(BIG)


async def test_whoever_leaves_a_load_ends_it() -> None:
    async with pair() as (server, node):
        server.faults.load_s = 3600.0
        loading = asyncio.create_task(node.load(BIG))
        await until(lambda: any(path == "/api/generate" for _m, path, _b in server.asked))

        loading.cancel()
        await asyncio.wait([loading])
        server.faults.load_s = 0.0

        assert (await node.load(SPLIT)).name == SPLIT, "it loads one at a time, and is free again"
    assert server.names() == [SPLIT]


async def test_unloading_waits_for_an_answer_under_way() -> None:
    async with pair() as (server, node):
        async with server.answering(BIG):
            leaving = asyncio.create_task(node.unload(BIG))
            await until(lambda: bool(server.unloads()))
            assert server.names() == [BIG]

        await leaving
    assert server.names() == []


async def test_a_model_that_stays_is_an_error() -> None:
    async with pair(unload_s=0.3) as (server, node):
        await server.load(BIG)
        server.faults.keeps.add(BIG)

        with pytest.raises(UpstreamError, match=r"studio still holds llama3.1:8b, 0\.\d s after"):
            await node.unload(BIG)


async def test_unloading_what_is_not_there_is_done_at_once() -> None:
    async with pair() as (_server, node):
        await node.unload(BIG)
        await node.unload("nobody:1b")


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[]",
        b'{"models": 3}',
        b'{"models": [{"name": "a", "size": "much"}]}',
        b'{"models": [{"name": "a", "size": -1}]}',
        b'{"models": [{"name": "a", "size": 99999999999999999999}]}',
        b'{"models": [{"name": "a", "size": 9999999999999999}]}',
        b'{"models": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b'{"models": [' + b",".join([b'{"name": "a"}'] * 300) + b"]}",
        b"\xff\xfe",
        b'"' + b"a" * BODY_BYTES_MAX + b'"',
    ],
    ids=lambda answer: answer[:40].decode("latin-1"),
)
async def test_nonsense_is_refused_whatever_it_is(answer: bytes) -> None:
    async with pair() as (server, node):
        server.faults.answers["/api/ps"] = answer

        with pytest.raises(UpstreamInvalid, match="studio"):
            await node.residents()


async def test_a_name_nobody_could_write_and_a_strange_expiry_are_passed_over() -> None:
    async with pair() as (server, node):
        server.faults.answers["/api/ps"] = (
            b'{"models": [{"name": "../../etc/passwd", "size": 5}, {"name": "a\\nb", "size": 5},'
            b' {"name": "ok:1b", "size": 7, "size_vram": 9, "expires_at": "soon", "new": {}}]}'
        )

        found = await node.residents()

    assert [(one.name, one.bytes, one.expires_in_s) for one in found] == [("ok:1b", {"gpu0": 9}, None)]


async def test_a_server_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_residents, "ASK_S", 0.2)
    async with pair() as (server, node):
        server.faults.hangs.add("/api/ps")

        with pytest.raises(UpstreamTimeout, match="studio did not answer"):
            await node.residents()


async def test_a_server_that_is_not_there_is_named_and_its_address_is_not() -> None:
    async with pair() as (server, node):
        await server.hang_up()

        with pytest.raises(UpstreamUnreachable) as caught:
            await node.residents()
        with pytest.raises(YardError):
            await node.unload(BIG)

    assert "studio" in str(caught.value)
    assert str(server.port) not in str(caught.value)

"""Nothing that anybody sends or asks for holds up the server's loop: whoever else is there is served meanwhile.

What is asserted is a generous bound on blocks of our own making; `-s` prints the figures.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.counts import count
from tests.support.gguf_files import write_tiny_llama
from tests.support.node import (
    Answer,
    Server,
    ask,
    client,
    echo,
    fetch,
    free_port,
    ready,
    short_folder,
    start_server,
    stopped,
    until,
)

BLOCK_S_MAX = 0.25
MODELS = count(suite=500, prove=2000)
STREAMS = 200
ROUNDS = count(suite=2, prove=10)
MIB = 1024**2
BODY_BYTES = 10 * MIB - 1000
PROGRAM = str(Path(__file__).with_name("beating_server.py"))


class Beats:
    """What the heartbeat in the server's loop and a prober outside have seen."""

    def __init__(self, file: Path, server: Server) -> None:
        self._file = file
        self._server = server
        self._probes_s: list[float] = []

    @asynccontextmanager
    async def during(self, what: str) -> AsyncIterator[None]:
        """Nothing in this block may hold up the loop."""
        began = time.time()
        is_over = threading.Event()
        prober = asyncio.create_task(asyncio.to_thread(self._probe, is_over))
        try:
            yield
        finally:
            is_over.set()
            await prober
        end = time.time()
        await until(lambda: self._last()[0] > end, "the heart beats on")
        beats = [beat for beat in self._read() if beat[0] > began]
        late, ours, used = ([beat[n] for beat in beats] for n in (1, 2, 3))
        print(  # noqa: T201
            f"{what}: {len(beats)} beats, late p99.9 {part(late, 0.999)} max {part(late, 1)} ms, "
            f"ours p99.9 {part(ours, 0.999)} max {part(ours, 1)} ms, used max {part(used, 1)} ms; "
            f"{len(self._probes_s)} probes, p99 {part(self._probes_s, 0.99)} max {part(self._probes_s, 1)} ms"
        )
        self._probes_s.clear()
        assert max(used) < BLOCK_S_MAX, f"{what}: the loop was blocked"

    def _probe(self, is_over: threading.Event) -> None:
        line = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
        while not is_over.wait(0.02):
            began = time.perf_counter()
            line.request("GET", "/livez")
            assert line.getresponse().read() == b"ok\n"
            self._probes_s.append(time.perf_counter() - began)
        line.close()

    def _read(self) -> list[list[float]]:
        """Time, lateness, our part of it, processor time; the last line may be half a line."""
        return [[float(number) for number in line.split()] for line in self._file.read_text().splitlines()[:-1]]

    def _last(self) -> list[float]:
        return next(reversed(self._read()), [0.0])


def part(values: list[float], share: float) -> float:
    """A percentile, in milliseconds."""
    if not values:
        return 0.0
    return round(sorted(values)[min(int(len(values) * share), len(values) - 1)] * 1000, 1)


def many_models(folder: Path) -> Path:
    """Very many names of one small file."""
    models = folder / "models"
    models.mkdir()
    first = write_tiny_llama(models / "model-0.gguf")
    for number in range(1, MODELS):
        os.link(first, models / f"model-{number}.gguf")
    return models


def bodies() -> dict[str, tuple[bytes, set[int]]]:
    """Ten megabytes each, and what may be answered."""
    head = b'{"model":"a","max_tokens":1,"messages":[{"role":"user","content":"'
    tail = b'"}]}'
    schema = b'{"model":"a","max_tokens":1,"messages":[],"response_format":{"type":"json_schema","json_schema":'
    turn = b'{"role":"user","content":"hello"},'
    turns = b'{"model":"a","max_tokens":1,"messages":[' + turn * 24_000
    half = BODY_BYTES // 2
    return {
        "one long message": (head + b"x" * (BODY_BYTES - 100) + tail, {200, 400}),
        "all escapes": (head + b"\\u4f60" * ((BODY_BYTES - 100) // 6) + tail, {413}),
        "many escapes": (head + b"\\u4f60" * 490_000 + tail, {200, 400}),
        "many messages": (turns + b'{"role":"user","content":"bye"}]}', {200, 400}),
        "nested lists": (schema + b"[" * half + b"]" * half, {400, 413}),
        "empty lists": (schema + b"[" + b"[]," * (BODY_BYTES // 3 - 100) + b"[]]}}", {400, 413}),
        "just below the limits": (schema + b"[" + b"[]," * 90_000 + b"[]]}}", {400, 413}),
        "numbers": (schema + b"[" + b"1," * (half - 200) + b"1]}}", {400, 413}),
        "members": (b"{" + b'"a":1,' * 400_000 + b'"model":"a","messages":[]}', {400}),
        "not JSON": (b"\xff" * BODY_BYTES, {400}),
    }


@asynccontextmanager
async def beating(folder: Path, config: dict[str, Any], **options: Any) -> AsyncIterator[Server]:
    server = start_server(folder, config, program=(PROGRAM, str(folder / "beats")), **options)
    try:
        yield await ready(server)
    finally:
        await stopped(server)


async def test_large_bodies_lists_scrapes_and_rescans_hold_up_nobody() -> None:
    with short_folder() as folder:
        config = echo(a={"context_length": 4_000_000, "slots": 4})
        config["models"]["folders"] = [str(many_models(folder))]
        async with beating(folder, config) as server, client() as session:
            beats = Beats(folder / "beats", server)
            assert (await ask(session, server, "a", max_tokens=1)).status == 200

            for what, (body, expected) in bodies().items():
                async with beats.during(what):
                    for _round in range(ROUNDS):
                        answer = await post(session, server, body)
                        assert answer.status in expected, answer.body[:300]
            for path in ("/v1/models", "/health/detailed", "/metrics", "/admin/status", "/health/memory"):
                async with beats.during(path):
                    for _round in range(ROUNDS):
                        async with session.get(f"{server.url}{path}") as response:
                            assert response.status == 200
                            await response.read()
            async with beats.during("rescan"):
                found = await fetch(session, server, "/admin/models/rescan", "POST", json={})
                assert len(found.get("models", ())) == MODELS + 1, found


def prompts(model: str) -> dict[str, tuple[bytes, int]]:
    """A megabyte each, and how it is answered."""

    def body(content: str) -> bytes:
        messages = [{"role": "user", "content": content}]
        return json.dumps({"model": model, "max_tokens": 1, "messages": messages}, ensure_ascii=False).encode()

    turns = [{"role": role, "content": "hello again, my old friend " * 18} for role in ("user", "assistant")] * 1000
    return {
        "a megabyte to count": (body("the quick brown fox jumps " * 40_000), 400),
        "a megabyte of Chinese to count": (body("你好，世界。" * 58_000), 400),
        "a megabyte of turns to leave out": (
            json.dumps({"model": model, "max_tokens": 1, "messages": [*turns, turns[0]]}).encode(),
            200,
        ),
    }


async def test_counting_and_trimming_prompts_holds_up_nobody() -> None:
    small = {"context_length": 512, "slots": 1, "prompt_cache_bytes": 0}
    config = {
        "memory": {"gpus": False},
        "prompts": {"max_input_tokens": 256},
        "models": {"launch": small, "options": {"yardling": {"trim": True}}},
    }
    with short_folder() as folder:
        async with beating(folder, config) as server, client() as session:
            beats = Beats(folder / "beats", server)
            assert (await ask(session, server, "yardling", max_tokens=1)).status == 200

            for what, (body, expected) in prompts("yardling").items():
                async with beats.during(what):
                    for _round in range(ROUNDS):
                        answer = await post(session, server, body)
                        assert answer.status == expected, answer.body[:300]


async def post(session: aiohttp.ClientSession, server: Server, body: bytes) -> Answer:
    headers = {"content-type": "application/json"}
    try:
        async with session.post(
            f"{server.url}/v1/chat/completions", data=io.BytesIO(body), headers=headers
        ) as response:
            return Answer(response.status, response.headers, body=await response.read())
    except aiohttp.ClientError:  # refused before all of it was sent
        return Answer(413)


async def test_two_hundred_streams_hold_up_nobody() -> None:
    with short_folder() as folder:
        async with beating(folder, echo(a={"slots": STREAMS, "tokens_per_s": 10})) as server, client() as session:
            beats = Beats(folder / "beats", server)
            await ask(session, server, "a", max_tokens=1)

            async with beats.during(f"{STREAMS} streams"):
                answers = await asyncio.gather(
                    *(ask(session, server, "a", stream=True, max_tokens=20) for _ in range(STREAMS))
                )

            assert all(answer.done for answer in answers)


async def test_a_log_that_nobody_reads_holds_up_nobody() -> None:
    reading, writing = os.pipe()
    port = free_port()
    with short_folder() as folder:
        server = start_server(
            folder, echo(a={}), port=port, says_to=writing, program=(PROGRAM, str(folder / "beats"))
        )  # fmt: skip
        os.close(writing)
        try:
            async with client() as session:
                beats = Beats(folder / "beats", server)
                await until(lambda: is_up(session, server), "it is up")
                async with beats.during("a log that nobody reads"):
                    # More than the pipe takes, and nobody has read a byte.
                    for _hundred in range(5):
                        answers = [ask(session, server, "a", max_tokens=1) for _ in range(100)]
                        assert {answer.status for answer in await asyncio.gather(*answers)} == {200}

            assert await stopped(server) == 143
            assert server.workers() == []
        finally:
            os.close(reading)
            await stopped(server)


async def is_up(session: aiohttp.ClientSession, server: Server) -> bool:
    try:
        async with session.get(f"{server.url}/readyz") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False

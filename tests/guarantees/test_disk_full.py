"""A disk without room: known before anything is fetched; in the middle, the server goes on and the pull does later."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from modelyard import demo
from modelyard.errors import DiskFull
from tests.support import fakes_thread
from tests.support.fake_hub import FakeHub
from tests.support.faulty_disk import FaultyDisk
from tests.support.in_memory import in_memory
from tests.support.node import Server, ask, client, running, until
from tests.support.pulling import CHUNK_BYTES, NAME, REFERENCE, pulled, pulling, there

MIB = 1024**2
FILE = "tiny.gguf"
DATA = random.Random(2).randbytes(4 * CHUNK_BYTES + 99)
MODEL = demo.gguf_path().read_bytes()


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of its own, so small."""
    if os.getuid() != 0:
        pytest.skip("only root mounts a small file system")
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


async def pull(session: aiohttp.ClientSession, server: Server) -> tuple[int, list[dict[str, Any]]]:
    async with session.post(f"{server.url}/api/pull", json={"model": "hf:org/Tiny-GGUF"}) as response:
        lines = [line async for line in response.content]
    return response.status, [dict(json.loads(line)) for line in lines]


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with FakeHub({FILE: DATA}) as started:
        yield started


async def test_what_cannot_fit_is_refused_before_a_byte_is_fetched(tmp_path: Path) -> None:
    hub = FakeHub({"Tiny-Q4_K_M.gguf": MODEL})
    # Room for the file, and not for the twentieth on top.
    with small_disk(tmp_path / "disk", len(MODEL) + len(MODEL) // 40) as folder, fakes_thread.running(hub):
        config = {"memory": {"gpus": False}, "pull": {"store": str(folder / "store")}}
        async with running(config, environment={"HF_ENDPOINT": hub.url}) as server, client() as session:
            _status, told = await pull(session, server)

    assert told[-1]["code"] == "disk_full"
    assert "are free in" in told[-1]["error"]
    assert not [one for one in hub.requests if "/resolve/" in one.path]


async def test_a_disk_that_fills_up_stops_the_pull_alone_and_it_goes_on_when_there_is_room(tmp_path: Path) -> None:
    hub = FakeHub({"Tiny-Q4_K_M.gguf": MODEL})
    hub.pace_s = 0.003
    with small_disk(tmp_path / "disk", len(MODEL) * 5 // 4) as folder, fakes_thread.running(hub):
        config = {"memory": {"gpus": False}, "pull": {"store": str(folder / "store")}}
        async with running(config, environment={"HF_ENDPOINT": hub.url}) as server, client() as session:
            (folder / "store").mkdir(exist_ok=True)
            others = folder / "others"

            async def fill() -> None:
                await until(lambda: hub.sent_bytes > len(MODEL) // 3, "it is on its way")
                others.write_bytes(b"x" * (len(MODEL) * 5 // 4 - hub.sent_bytes - 2 * MIB))

            (_status, told), _filled = await asyncio.gather(pull(session, server), fill())
            answer = await ask(session, server, "yardling", max_tokens=4)
            kept = max(path.stat().st_size for path in (folder / "store" / "partials").glob("*.part"))
            others.unlink()
            _status, again = await pull(session, server)
            served = await ask(session, server, "org/tiny", max_tokens=4)

    assert told[-1]["code"] == "disk_full"
    assert answer.status == 200
    assert again[-1]["status"] == "success"
    assert served.status == 200
    assert int(hub.requests[-1].headers["range"][6:-1]) >= kept - 8 * MIB
    assert hub.requests[-1].headers["range"] != "bytes=0-"


async def test_no_room_at_any_step_loses_no_more_than_a_chunk(hub: FakeHub) -> None:
    fail_at, refused = 1, 0
    while True:
        with in_memory() as folder:
            (folder / "attic").mkdir()
            disk = FaultyDisk(folder / "attic", "short", fail_at, errno.ENOSPC)
            steps: list[Any] = []
            async with pulling(folder / "store", hub, disk=disk) as pulls:
                try:
                    async for step in pulls.pull(REFERENCE):
                        steps.append(step)
                except DiskFull:
                    refused += 1
            disk.close()
            had = max([0, *(int(step.get("completed", 0)) for step in steps)])
            hub.requests.clear()
            async with pulling(folder / "store", hub) as pulls:
                await pulled(pulls)
            starts = [int(one.headers.get("range", "bytes=0-")[6:-1]) for one in hub.requests]

            assert there(folder / "store") == {NAME: {FILE: DATA}}, f"step {fail_at}"
            assert not starts or starts[0] >= had - CHUNK_BYTES, f"step {fail_at}: {had} were here"
        if not disk.has_failed:
            break
        fail_at += 1

    assert fail_at > 20
    assert refused > 20

"""Pulls that are broken off again and again: by the network, by whoever waited, by kill -9, by a lost power."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from modelyard import demo
from modelyard.errors import YardError
from modelyard.models.partial import Partial, Wanted
from modelyard.models.partials import forget, partial_files
from modelyard.models.store import Store
from tests.support import fakes_thread
from tests.support.counts import count, tell
from tests.support.fake_hub import FakeHub, FileFault
from tests.support.faulty_disk import FaultyDisk
from tests.support.in_memory import in_memory
from tests.support.node import clean_environment, until
from tests.support.pulling import NAME, Planned, pulled, pulling, there

FILE, CHUNK_BYTES = "tiny.gguf", 2048
DATA = random.Random(11).randbytes(3 * 1024**2 + 17)
REFETCHED_RATIO_MAX = 0.05
LOST_BYTES_MAX = 3 * 1024**2  # by a kill: what was not written yet, and what was on its way


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with FakeHub({FILE: DATA}) as running:
        yield running


@pytest.fixture
def place() -> Iterator[Path]:
    with in_memory() as folder:
        yield folder


async def test_no_number_of_interruptions_costs_more_than_a_twentieth(hub: FakeHub, place: Path) -> None:
    draw, root, attic = random.Random(5), place / "store", place / "attic"
    attic.mkdir()
    interruptions = count(40, 200)
    at = refetched = boots = 0
    for number in range(interruptions):
        step = len(DATA) // (interruptions + 1)
        disk = FaultyDisk(attic, "power" if number % 2 else "power zeros", boot=f"{boots:04}")
        kind = draw.choice(("cut", "leave", "power"))
        hub.requests.clear()
        spot = draw.randint(step // 2, step)
        hub.fail(FILE, FileFault(cut_at=spot) if kind == "cut" else FileFault(stall_at=spot))
        async with pulling(root, hub, disk=disk, attempts_max=1, chunk_bytes=CHUNK_BYTES) as pulls:
            hub.stalled.clear()
            waiting = asyncio.create_task(pulled(pulls))
            if kind == "cut":
                with suppress(YardError):
                    await waiting
            else:
                await hub.stalled.wait()
                waiting.cancel()
                with suppress(asyncio.CancelledError):
                    await waiting
        began = int(hub.requests[0].headers.get("range", "bytes=0-")[6:-1])
        refetched += max(0, at - began)
        at = max(at, *(one.completed_bytes for one in partial_files(root / "partials")))
        if kind == "power":
            disk.lose_power()
            boots += 1
        disk.close()
    hub.requests.clear()
    async with pulling(root, hub, chunk_bytes=CHUNK_BYTES) as pulls:
        await pulled(pulls)
    refetched += max(0, at - int(hub.requests[0].headers["range"][6:-1]))
    tell(f"{interruptions} interruptions: {refetched / len(DATA):.2%} fetched again")

    assert there(root) == {NAME: {FILE: DATA}}
    assert len(hub.requests) == 1, "and nothing of what was kept was wrong"
    assert refetched <= len(DATA) * REFETCHED_RATIO_MAX


def pull_process(folder: Path, hub: FakeHub) -> subprocess.Popen[bytes]:
    environment = clean_environment(folder, {"HF_ENDPOINT": hub.url, "MODELYARD_PULL__STORE": str(folder / "store")})
    return subprocess.Popen(
        [sys.executable, "-m", "modelyard.cli", "pull", "hf:org/Tiny-GGUF"], env=environment, cwd=folder,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


async def test_killed_without_a_word_the_next_command_goes_on_at_once(tmp_path: Path) -> None:
    """No server runs, so the command works by itself; what its predecessor had locked is free again."""
    data = demo.gguf_path().read_bytes()
    hub = FakeHub({"Tiny-Q4_K_M.gguf": data})
    hub.pace_s = 0.005
    with fakes_thread.running(hub):
        for kill in range(1, count(2, 20) + 1):
            process = pull_process(tmp_path, hub)
            await until(lambda: hub.sent_bytes > len(data) * kill // (count(2, 20) + 2), "it is on its way")  # noqa: B023
            process.send_signal(signal.SIGKILL)
            process.communicate()
        hub.pace_s = 0.0
        last = pull_process(tmp_path, hub)
        said, beside = await asyncio.to_thread(last.communicate)

    assert (last.returncode, said) == (0, b"org/tiny:q4_k_m\n"), beside
    assert there(tmp_path / "store") == {"org/tiny:q4_k_m": {"Tiny-Q4_K_M.gguf": data}}
    assert hub.sent_bytes < len(data) + count(2, 20) * LOST_BYTES_MAX


async def test_two_commands_at_once_fetch_a_file_once(tmp_path: Path) -> None:
    data = demo.gguf_path().read_bytes()
    hub = FakeHub({"Tiny-Q4_K_M.gguf": data})
    hub.pace_s = 0.002
    with fakes_thread.running(hub):
        both = [pull_process(tmp_path, hub) for _one in range(2)]
        ends = [await asyncio.to_thread(process.communicate) for process in both]

    assert [one.returncode for one in both] == [0, 0], ends
    assert hub.sent_bytes == len(data)
    assert set(there(tmp_path / "store")) == {"org/tiny:q4_k_m"}


async def test_ctrl_c_keeps_what_came(tmp_path: Path) -> None:
    data = demo.gguf_path().read_bytes()
    hub = FakeHub({"Tiny-Q4_K_M.gguf": data})
    hub.pace_s = 0.005
    with fakes_thread.running(hub):
        process = pull_process(tmp_path, hub)
        await until(lambda: hub.sent_bytes > len(data) // 2, "it is on its way")
        process.send_signal(signal.SIGINT)
        _said, beside = process.communicate()

    (partial,) = partial_files(tmp_path / "store" / "partials")
    assert process.returncode == 130, beside
    assert b"Traceback" not in beside
    assert partial.completed_bytes > len(data) // 3
    assert not partial.is_active


def test_what_is_partly_here_is_listed_and_removed_but_not_under_who_fetches_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    wanted = [Wanted(100, f"{number:064x}", label=f"file {number}") for number in (1, 2)]
    first, second = (Partial(store.partials, store.disk, one) for one in wanted)
    for each in (first, second):
        each.open()
        each.append(b"x" * 40)
    second.close()

    listed = {one.label: (one.completed_bytes, one.size_bytes, one.is_active) for one in partial_files(store.partials)}
    gone = {one.key: forget(store.partials, store.disk, one.key) for one in partial_files(store.partials)}

    assert listed == {"file 1": (40, 100, True), "file 2": (40, 100, False)}
    assert gone == {wanted[0].key: False, wanted[1].key: True}
    assert [one.label for one in partial_files(store.partials)] == ["file 1"]
    assert not forget(store.partials, store.disk, "../../etc/passwd")
    first.close()


async def test_what_somebody_changed_in_a_partial_is_noticed_when_it_goes_on(hub: FakeHub, place: Path) -> None:
    root = place / "store"
    hub.fail(FILE, FileFault(cut_at=2_000_000))
    async with pulling(root, hub, attempts_max=1, chunk_bytes=CHUNK_BYTES) as pulls:
        with pytest.raises(YardError):
            await pulled(pulls)
    (path,) = (root / "partials").glob("*.part")
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, b"changed", 1_000_000)
    os.close(descriptor)

    hub.requests.clear()
    async with pulling(root, hub, chunk_bytes=CHUNK_BYTES) as pulls:
        await pulled(pulls)

    assert there(root) == {NAME: {FILE: DATA}}
    assert hub.requests[0].headers["range"] == f"bytes={1_000_000 // CHUNK_BYTES * CHUNK_BYTES}-"


async def test_ten_pulls_are_one_and_ask_the_hub_once(hub: FakeHub, tmp_path: Path) -> None:
    planner = Planned(hub)
    async with pulling(tmp_path / "store", hub, planner=planner) as pulls:
        told = await asyncio.gather(*(pulled(pulls) for _one in range(10)))

    assert planner.asked == 1
    assert len(hub.requests) == 1
    assert all(steps[-1]["status"] == "success" for steps in told)

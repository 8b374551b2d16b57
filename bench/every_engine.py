"""Figures of every engine: tokens a second beside the bare engine, load times, and memory predicted and measured.

`make bench-engines`. An engine joins with a model to load in `LOADED`, and a figure of its own if it has one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from tools.gguf_files import text_of_tokens, write_half_billion
from tools.hf_folders import write_half_billion_folder

from modelyard.demo import gguf_path, hf_folder

from .client import Answer, ask, chat
from .embedding import link_minilm
from .engines import SLOTS, Speed, configuration, speed, speed_row, tokens_per_s
from .machine import Row, free_port, python, reachable
from .node import Server, running, short_folder

STREAM_COUNTS = (1, 4, 8, 16)
PROMPT_TOKENS, ANSWER_TOKENS = 300, 8
LONG_ANSWER_TOKENS = 32  # at least: of shorter ones, reading the prompts is most of the time
PREDICTED_RATIO_MAX = 1.25  # predicted and measured may differ by so much, in both directions
MIB = 1024**2
STOCK_NEEDS = ("accelerate", "fastapi", "openai")
WITHOUT_STOCK = "transformers, beside its manager without HTTP (`pip install accelerate openai` for its own server)"


def _copy(source: Path) -> Callable[[Path], object]:
    return partial(shutil.copytree if source.is_dir() else shutil.copy, source)


# What is loaded, once each: a label, the file's or folder's name, and what writes it.
LOADED: tuple[tuple[str, str, Callable[[Path], object]], ...] = (
    ("llamacpp, yardling", "yardling-gguf.gguf", _copy(gguf_path())),
    ("llamacpp, a 0.5B shape", "half.gguf", write_half_billion),
    ("transformers, yardling", "yardling-hf", _copy(hf_folder())),
    ("transformers, a 0.5B shape", "half-hf", write_half_billion_folder),
    ("embeddings, MiniLM", "minilm", link_minilm),
)

llamacpp = partial(speed, STREAM_COUNTS)


async def transformers() -> list[Row]:
    """Tokens a second through us, beside the library's own server; where it cannot start, beside its bare manager."""
    is_stock = all(find_spec(name) for name in STOCK_NEEDS)
    label, without_us = ("transformers, beside its own server", _stock) if is_stock else (WITHOUT_STOCK, _bare)
    with short_folder() as folder:
        await asyncio.to_thread(write_half_billion_folder, folder / "half")
        async with running(configuration(folder, slots=max(STREAM_COUNTS))) as server:
            await server.admin("POST", "/admin/models/half/load")
            async with without_us(server, folder / "half") as other:
                ours = partial(tokens_per_s, server.port)
                return [await speed_row(label, ours, other, streams, LONG_ANSWER_TOKENS) for streams in STREAM_COUNTS]


async def loads() -> list[Row]:
    """What a load takes, and how far its predicted memory is from what the worker holds."""
    return [await _load_row(*one) for one in LOADED]


async def _load_row(label: str, name: str, write: Callable[[Path], object]) -> Row:
    with short_folder() as folder:
        (folder / "models").mkdir()
        await asyncio.to_thread(write, folder / "models" / name)
        async with running(configuration(folder / "models")) as server:
            model = name.removesuffix(".gguf")
            told = (await server.admin("GET", f"/v1/models/{model}"))["modelyard"]
            receipt = (await server.admin("POST", f"/admin/models/{model}/load"))["receipt"]
            # Memory is predicted for a worker with all its slots at work. What it holds is told as it leaves.
            if "chat" in told["capabilities"]:
                body = chat(model, text_of_tokens(PROMPT_TOKENS), ANSWER_TOKENS)
                await asyncio.gather(*(ask(server.port, body, Answer()) for _n in range(SLOTS)))
            left = (await server.admin("POST", f"/admin/models/{model}/unload"))["receipt"]["worker"]
    footprint = told["footprint"]
    predicted = sum(footprint["bytes"].values()) - footprint["parts"].get("prompt_cache", 0)  # kept for later prompts
    held, mapped = left["anonymous_bytes"], left["file_bytes"]
    # Weights that stay mapped files are in a prediction too: the nearer of the two is what it speaks of.
    measured = min((held, held + mapped), key=lambda count: abs(count - predicted))
    ratio = max(predicted / measured, measured / predicted)
    return Row(
        f"load of {label}",
        f"{receipt['took_s']:.2f} s",
        "",
        f"{predicted / MIB:.0f} MiB predicted ({footprint['source']}), {measured / MIB:.0f} MiB measured",
        f"within {PREDICTED_RATIO_MAX} of each other",
        ratio <= PREDICTED_RATIO_MAX,
    )


@asynccontextmanager
async def _stock(server: Server, folder: Path) -> AsyncIterator[Speed]:
    """`transformers serve --continuous-batching`, with the pool, the batch and the threads our worker has."""
    threads, _slots, blocks, batch = await _sizes(server)
    port = free_port()
    command = python(
        "-m", "transformers.cli.transformers", "serve", str(folder), "--continuous-batching", "--device", "cpu",
        "--dtype", "float32", "--attn-implementation", "sdpa", "--cb-num-blocks", str(blocks),
        "--cb-max-batch-tokens", str(batch), "--cb-max-memory-percent", "1.0",
        "--host", "127.0.0.1", "--port", str(port),
    )  # fmt: skip
    log = folder.parent / "stock.log"
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: ASYNC220
            command, env=_environment(threads), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )

    async def stock(streams: int, tokens: int) -> float:
        body = chat(str(folder), text_of_tokens(16), tokens)
        began = time.monotonic()
        answers = await asyncio.gather(*(_whole(port, body) for _n in range(streams)))
        took_s = time.monotonic() - began
        if not all(b'"completion_tokens":%d,' % tokens in answer for answer in answers):  # it ends without [DONE]
            raise RuntimeError("an answer of the library's server is not complete")
        return streams * tokens / took_s

    try:
        await reachable(process, port, "/health", log=log)
        yield stock
    finally:
        process.kill()
        process.wait()


async def _whole(port: int, body: bytes) -> bytes:
    """All that a server says to one chat."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        return await reader.read()
    finally:
        writer.close()


async def _sizes(server: Server) -> tuple[int, int, int, int]:
    """Threads, slots, blocks of the pool and tokens of a batch, as our worker has them."""
    launch = (await server.admin("GET", "/v1/models/half"))["modelyard"]["launch"]
    values, slots = launch["values"], launch["slots"]
    return values["threads"], slots, slots * (launch["context_length"] // 256 + 1), max(values["n_batch"], slots)


def _environment(threads: int) -> dict[str, str]:
    """As our worker has it: the variable changes how threads wait for one another."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads)}


@asynccontextmanager
async def _bare(server: Server, folder: Path) -> AsyncIterator[Speed]:
    """The library in a process of its own, with the pool, the batch and the threads our worker has."""
    numbers = await _sizes(server)
    command = python("-m", "bench.bare_manager", str(folder), *(str(number) for number in numbers))
    process = subprocess.Popen(  # noqa: ASYNC220
        command, env=_environment(numbers[0]), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, start_new_session=True,  # as our workers: Linux shares by session
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def asked(line: str) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        if line:
            process.stdin.write(line)
            process.stdin.flush()
        return process.stdout.readline()

    async def bare(streams: int, tokens: int) -> float:
        took_s = float(await asyncio.to_thread(asked, f"{streams} {tokens}\n"))
        return streams * tokens / took_s

    try:
        if (await asyncio.to_thread(asked, "")).strip() != "ready":
            raise RuntimeError(f"the bare library ended with {process.wait()}")
        yield bare
    finally:
        process.kill()
        process.wait()

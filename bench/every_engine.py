"""Figures of every engine: tokens a second beside the bare engine, load times, and memory predicted and measured.

`make bench-engines`. An engine joins with a model to load in `LOADED`, and a figure of its own if it has one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from tools.gguf_files import text_of_tokens, write_half_billion
from tools.hf_folders import write_half_billion_folder

from modelyard.demo import gguf_path, hf_folder

from .client import Answer, ask, chat
from .embedding import link_minilm
from .engines import Speed, configuration, speed, speed_row, tokens_per_s
from .machine import Row, python
from .node import Server, running, short_folder

STREAM_COUNTS = (1, 4, 8, 16)
PROMPT_TOKENS, ANSWER_TOKENS = 300, 8
PREDICTED_RATIO_MAX = 1.25  # predicted and measured may differ by so much, in both directions
MIB = 1024**2


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
    """Tokens a second through us, beside the library's own manager without HTTP."""
    with short_folder() as folder:
        await asyncio.to_thread(write_half_billion_folder, folder / "half")
        async with running(configuration(folder, slots=max(STREAM_COUNTS))) as server:
            await server.admin("POST", "/admin/models/half/load")
            async with _bare(server, folder / "half") as bare:
                ours = partial(tokens_per_s, server.port)
                return [await speed_row("transformers", ours, bare, streams) for streams in STREAM_COUNTS]


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
            # Engines take what a batch needs with the first one. What it holds is told as it leaves.
            if "chat" in told["capabilities"]:
                await ask(server.port, chat(model, text_of_tokens(PROMPT_TOKENS), ANSWER_TOKENS), Answer())
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
async def _bare(server: Server, folder: Path) -> AsyncIterator[Speed]:
    """The library in a process of its own, with the pool, the batch and the threads our worker has."""
    launch = (await server.admin("GET", "/v1/models/half"))["modelyard"]["launch"]
    values, slots = launch["values"], launch["slots"]
    blocks = slots * (launch["context_length"] // 256 + 1)
    numbers = (values["threads"], slots, blocks, max(values["n_batch"], slots))
    command = python("-m", "bench.bare_manager", str(folder), *(str(number) for number in numbers))
    environment = {**os.environ, "OMP_NUM_THREADS": str(values["threads"])}  # as our worker has it: it changes how
    process = subprocess.Popen(  # noqa: ASYNC220  # threads wait for one another
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
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

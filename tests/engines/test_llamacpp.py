"""The llama.cpp recipe against the real thing, with a tiny model of random weights."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import psutil
import pytest
from tools.gguf_files import write_tiny_llama

from modelyard.diagnosis import CAUSES, SURE
from modelyard.engines import llamacpp
from modelyard.engines.base import LaunchOptions, WorkerCommand
from modelyard.engines.hardware import Hardware
from modelyard.engines.llamacpp import LlamaCpp, LlamaOverrides
from modelyard.errors import LoadFailed, OutOfMemory
from modelyard.models.describe import describe
from modelyard.types.memory import RAM, ProcessMemory
from modelyard.types.model import Capability, Model
from modelyard.workers.run_folder import RunFolder
from modelyard.workers.start import Starter

ONE_THREAD = LlamaOverrides(threads=1, context_length=256, slots=2)


@pytest.fixture
def run(folder: Path) -> Iterator[RunFolder]:
    with RunFolder(folder / "runs") as run:
        yield run


@pytest.fixture
def tiny(folder: Path) -> Model:
    path = folder / "tiny.gguf"
    write_tiny_llama(path)
    return describe("tiny", [path])


def memory(pid: int) -> ProcessMemory:
    return ProcessMemory(anonymous_bytes=psutil.Process(pid).memory_info().rss)


def tell_nobody(_phase: str, _ratio: float) -> None:
    pass


def engine(**overrides: object) -> LlamaCpp:
    return LlamaCpp(Hardware(2), {"PATH": os.defpath}, overrides=replace(ONE_THREAD, **overrides))  # type: ignore[arg-type]


async def test_a_worker_loads_answers_and_ends(run: RunFolder, tiny: Model) -> None:
    starter = Starter([engine()], run, memory)

    worker = await starter.start(tiny, 1, tell_nobody)

    assert (worker.slots, worker.context_length) == (2, 256)
    assert isinstance(worker.socket, Path)
    assert stat.S_IMODE(worker.socket.stat().st_mode) == 0o600
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "stream": True}
    connector = aiohttp.UnixConnector(str(worker.socket))
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session,
        session.post("http://worker/v1/chat/completions", json=body) as answer,
    ):
        text = await answer.text()
    assert text.endswith("data: [DONE]\n\n")
    assert str(tiny.files[0]) not in text
    await worker.stop()
    assert not psutil.pid_exists(worker.pid)


async def test_the_footprint_is_the_oracles_and_counts_the_prompt_cache(tiny: Model) -> None:
    small, large = engine(prompt_cache_bytes=0), engine(prompt_cache_bytes=64 * 1024**2)

    less, more = [await one.footprint(tiny, one.options(tiny)) for one in (small, large)]

    assert less.source == more.source == "oracle"
    assert more.bytes[RAM] - less.bytes[RAM] == 64 * 1024**2


async def test_however_many_footprints_are_wanted_few_oracles_run(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[int] = []

    async def slow(*_question: object, **_more: object) -> None:
        running.append((running[-1] if running else 0) + 1)
        await asyncio.sleep(0)
        running.append(running[-1] - 1)

    monkeypatch.setattr(llamacpp, "ask", slow)
    recipe = engine()
    await asyncio.gather(*(recipe.footprint(tiny, recipe.options(tiny)) for _ in range(20)))

    assert len(running) == 40
    assert max(running) == llamacpp.ORACLES_MAX


async def test_without_an_oracle_the_formula_answers(tiny: Model) -> None:
    one = LlamaCpp(Hardware(2), overrides=ONE_THREAD, has_oracle=False)

    assert (await one.footprint(tiny, one.options(tiny))).source == "formula"


async def test_a_cut_file_fails_with_its_cause(run: RunFolder, tiny: Model) -> None:
    starter = Starter([engine()], run, memory)
    await starter.plan(tiny)  # known before the file was cut
    os.truncate(tiny.files[0], tiny.size_bytes // 2)

    with pytest.raises(LoadFailed) as caught:
        await starter.start(tiny, 1, tell_nobody)

    assert CAUSES["damaged_file"] in str(caught.value)
    assert str(tiny.files[0]) not in str(caught.value)


class Confined(LlamaCpp):
    """Its workers may have 300 MiB of data each."""

    def command(self, model: Model, options: LaunchOptions, socket: Path) -> WorkerCommand:
        command = super().command(model, options, socket)
        confine = ("/bin/sh", "-c", 'ulimit -d 307200; exec "$@"', "sh")
        return replace(command, argv=(*confine, *command.argv))


async def test_running_out_of_memory_is_told_from_a_damaged_file(run: RunFolder, tiny: Model) -> None:
    wide = LlamaOverrides(threads=1, slots=1, context_length=8_000_000)
    confined = Confined(Hardware(1), {"PATH": os.defpath}, overrides=wide, has_oracle=False)

    with pytest.raises(OutOfMemory) as caught:
        await Starter([confined], run, memory).start(replace(tiny, context_length=8_000_000), 1, tell_nobody)

    verdict = caught.value.fields["verdict"]
    assert isinstance(verdict, dict)
    assert (verdict["code"], verdict["confidence"]) == ("out_of_memory", SURE)
    assert not any(str(tiny.files[0]) in hint for hint in caught.value.suggestions)


def test_values_come_from_settings_or_hardware_and_say_so(tiny: Model) -> None:
    options = LlamaCpp(Hardware(4), overrides=LlamaOverrides(slots=7)).options(tiny)

    assert (options.slots, options.reasons["slots"]) == (7, "set in the configuration")
    assert (options.values["threads"], options.reasons["threads"]) == (4, "4 physical cores")


def test_a_models_own_settings_replace_the_general_ones(tiny: Model) -> None:
    recipe = LlamaCpp(Hardware(), overrides=LlamaOverrides(slots=7), per_model={"Tiny": LlamaOverrides(slots=3)})

    assert recipe.options(tiny).slots == 3


def test_the_context_of_all_slots_is_asked_for(tiny: Model, folder: Path) -> None:
    recipe = engine(slots=4)

    command = recipe.command(tiny, recipe.options(tiny), folder / "s.sock")

    params = json.loads(command.argv[-1])
    assert (params["n_ctx"], params["n_parallel"]) == (4 * 256, 4)
    assert "-P" in command.argv


def test_embedding_models_get_one_slot_and_whole_inputs_in_one_step(tiny: Model, folder: Path) -> None:
    recipe = LlamaCpp(Hardware(2))
    embedder = replace(tiny, capabilities=frozenset((Capability.EMBED,)))

    options = recipe.options(embedder)
    params = json.loads(recipe.command(embedder, options, folder / "s.sock").argv[-1])

    assert options.slots == 1
    assert params["n_batch"] == params["n_ctx"]
    assert "pooling" in params

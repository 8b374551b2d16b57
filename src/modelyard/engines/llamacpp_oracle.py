"""Asks llama.cpp itself what a load would take: a helper process prints a table and is killed before it loads.

Costs 0.1 to 2 s and some 60 MiB, whatever the model's size; callers keep the answer. `None` means no answer (an unknown
architecture, no xllamacpp, a table that looks different): use the formula. Knows nothing about models but their path.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from modelyard.engines.environment import DEVICE_ORDER
from modelyard.memory.footprint import LoadShape, context_of, from_oracle
from modelyard.types.facts import ModelFacts
from modelyard.types.memory import RAM, Footprint
from modelyard.units import MIB

ASK_MAX_S = 20.0
LINES_MAX = 2000  # the table is among the first thirty
LINE_MAX_BYTES = 64 * 1024
PARTS = ("weights", "kv", "compute")

_ROW = re.compile(r"memory_breakdown_print: \|\s+- (?P<buffer>[^|]+?)\s*\|(?P<numbers>[^|]*)\|")
_SELF = re.compile(r"(\d+)\s*=\s*(\d+)\s*\+\s*(\d+)\s*\+\s*(\d+)")
_GPU = re.compile(r"(?:CUDA|ROCm|Vulkan|SYCL|MTL|Metal|HIP)(\d+)\b")

Table = dict[str, dict[str, int]]


async def ask(
    path: Path,
    shape: LoadShape,
    facts: ModelFacts | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = ASK_MAX_S,
) -> Footprint | None:
    """What this load would take, or `None` if the engine gives no answer in time."""
    options = helper_options(shape, facts)
    module = "modelyard.engines.llamacpp_oracle_launcher"
    argv = [sys.executable, "-P", "-m", module, "--parent", str(os.getpid()), "--model", str(path)]
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, "--options", json.dumps(options),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={"GGML_NO_BACKTRACE": "1", **DEVICE_ORDER, **(environment or {})},
            limit=LINE_MAX_BYTES, start_new_session=True,
        )  # fmt: skip
    except OSError:  # no process or descriptor left
        return None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout_s):
            lines = await _until_table(process.stdout)
    except (TimeoutError, ValueError):  # ValueError: an endless line
        lines = []
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.shield(process.wait())
    table = parse(lines, shape.gpus)
    return from_oracle(table, facts, shape) if table else None


def helper_options(shape: LoadShape, facts: ModelFacts | None = None) -> dict[str, object]:
    """The helper's options for a load: llama.cpp divides its context among slots, so we multiply."""
    context = context_of(facts or ModelFacts(), shape)
    return {
        "n_ctx": context * shape.slots,
        "n_parallel": shape.slots,
        "n_batch": max(shape.batch_tokens, 32),
        "n_ubatch": shape.batch_tokens,
        "cache_type_k": shape.key_type.upper(),
        "cache_type_v": shape.value_type.upper(),
        "flash_attn": shape.has_flash_attention,
        "no_extra_bufts": not shape.is_repacked,
        "n_gpu_layers": shape.gpu_layers if shape.gpus else 0,
    }


def parse(lines: Iterable[str], gpus: tuple[str, ...] = ()) -> Table:
    """Sum every row of the first table, per part and device. Empty if there is none.

    All rows: the engine's own summary leaves out weights rewritten for the processor.
    """
    table: Table = {}
    for line in lines:
        row = _ROW.search(line)
        if row is None:
            if table:
                break
            continue
        numbers = _SELF.search(row["numbers"])
        if numbers is None:
            continue
        device = _device(row["buffer"], gpus)
        for part, mebibytes in zip(PARTS, numbers.groups()[1:], strict=True):
            devices = table.setdefault(part, {})
            devices[device] = devices.get(device, 0) + int(mebibytes) * MIB
    return table


def _device(buffer: str, gpus: tuple[str, ...]) -> str:
    match = _GPU.match(buffer)
    if match is None:
        return RAM
    number = int(match[1])
    return gpus[number] if number < len(gpus) else f"gpu{number}"


async def _until_table(stream: asyncio.StreamReader) -> list[str]:
    """Read up to the first line after the table."""
    lines: list[str] = []
    has_row = False
    while len(lines) < LINES_MAX and (raw := await stream.readline()):
        line = raw.decode(errors="replace")
        lines.append(line)
        is_row = _ROW.search(line) is not None
        if has_row and not is_row:
            break
        has_row = has_row or is_row
    return lines

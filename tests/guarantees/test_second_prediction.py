"""What a load took once, the next one of the same model will take: real workers, and a restart in between.

Anonymous memory and mapped files are looked at apart: the second can be dropped at any time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.counts import tell
from tests.support.gguf_files import write_half_billion
from tests.support.node import Server, ask, client, fetch, ready, short_folder, start_server, stopped

MIB = 1024**2
ERROR_RATIO_MAX = 0.01
ERROR_BYTES_MIN = MIB // 2  # of a small worker one per cent is less than what a heap is off from run to run
CONFIG: dict[str, Any] = {
    "memory": {"gpus": False},
    "models": {"launch": {"context_length": 512, "slots": 1, "n_batch": 128}},
}
PROMPT = "the quick brown fox jumps over the lazy dog and runs into the wood " * 8  # longer than one step


async def held(session: aiohttp.ClientSession, server: Server, model: str) -> tuple[int, int]:
    """Anonymous and mapped bytes of its worker after two full steps of reading prompts, just before it ends."""
    for _ in range(2):
        answer = await ask(session, server, model, content=PROMPT, max_tokens=4)
        assert answer.status == 200, answer.body
    receipt = (await fetch(session, server, f"/admin/models/{model}/unload", "POST", json={}))["receipt"]
    return receipt["worker"]["anonymous_bytes"], receipt["worker"]["file_bytes"]


@pytest.mark.parametrize("name", ["yardling", "half"])
async def test_the_second_prediction_is_what_the_second_load_takes(name: str, tmp_path: Path) -> None:
    config = {**CONFIG, "models": {**CONFIG["models"], "folders": [str(tmp_path)]}}
    if name == "half":
        write_half_billion(tmp_path / "half.gguf")
    with short_folder() as folder:
        first = await ready(start_server(folder, config))
        async with client() as session:
            before = (await fetch(session, first, f"/v1/models/{name}"))["modelyard"]["footprint"]
            await held(session, first, name)
        await stopped(first)
        second = await ready(start_server(folder, config))
        async with client() as session:
            predicted = (await fetch(session, second, f"/v1/models/{name}"))["modelyard"]["footprint"]
            again = await held(session, second, name)
        await stopped(second)

    pairs = {
        "anonymous": (predicted["measured_anonymous"], again[0]),
        "mapped": (predicted["measured_mapped"], again[1]),
    }
    shown = ", ".join(
        f"{part} {expected / MIB:.1f} predicted, {count / MIB:.1f} held ({expected / count - 1:+.2%})"
        for part, (expected, count) in pairs.items()
    )
    tell(f"{name}: first {before['bytes']['ram'] / MIB:.1f} MiB by {before['source']}; then {shown}")
    assert (before["source"], predicted["source"]) == ("oracle", "measured")
    for expected, count in pairs.values():
        assert abs(expected - count) <= max(ERROR_RATIO_MAX * count, ERROR_BYTES_MIN)

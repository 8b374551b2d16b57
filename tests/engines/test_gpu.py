"""The transformers engine on a GPU: one model makes way for another, and the ledger says what the device says."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.hf_folders import write_half_billion_folder

from modelyard.engines.installed import torch_uses_gpus
from modelyard.memory.devices import SystemDevices
from tests.support.node import Server, ask, client, fetch, resident, serving, until

NAMES = ("first", "second")
DIFFERENCE_RATIO = 0.05
MIB = 1024**2


def used_bytes() -> dict[str, int]:
    """What the driver says of each GPU."""
    return {one.device: one.used_bytes for one in SystemDevices().read() if one.kind == "gpu"}


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not used_bytes(), reason="there is no GPU here"),
    pytest.mark.skipif(not torch_uses_gpus(), reason="this PyTorch is a build for processors only"),
]


@pytest.fixture(scope="module")
def yard() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="my") as folder:
        for seed, name in enumerate(NAMES):
            write_half_billion_folder(Path(folder) / name, seed=seed)
        options = {name: {"group": "one", "slots": 4, "context_length": 2048} for name in NAMES}
        models: dict[str, Any] = {"builtin": False, "folders": [folder], "options": options, "groups": {"one": {}}}
        with serving({"models": models}) as server:
            yield server


async def test_two_models_take_turns_and_give_back_what_they_took(yard: Server) -> None:
    before = used_bytes()
    held: list[int] = []
    async with client() as session:
        for name in (*NAMES, *NAMES):
            answer = await ask(session, yard, name, stream=True, max_tokens=16)
            assert answer.done, answer.error
            seen = await resident(session, yard, name)
            assert seen is not None
            device = next(each for each in seen["measured_bytes"] if each != "ram")
            held.append(seen["measured_bytes"][device])
            taken = used_bytes()[device] - before[device]
            assert abs(taken - held[-1]) <= DIFFERENCE_RATIO * taken, (name, taken, held[-1])
        status = await fetch(session, yard, "/admin/status")
        assert [one["model"] for one in status["residents"]] == [NAMES[-1]]

        await fetch(session, yard, f"/admin/models/{NAMES[-1]}/unload", "POST", json={})

        def is_back() -> bool:
            return abs(used_bytes()[device] - before[device]) <= DIFFERENCE_RATIO * max(held)

        await until(is_back, "its memory back")


async def test_a_prediction_holds_on_a_gpu(yard: Server) -> None:
    async with client() as session:
        told = (await fetch(session, yard, f"/v1/models/{NAMES[0]}"))["modelyard"]["estimates"][0]
        await ask(session, yard, NAMES[0], max_tokens=2)
        seen = await resident(session, yard, NAMES[0])

    assert seen is not None
    for device, count in seen["measured_bytes"].items():
        assert count <= told["bytes"][device] * (1 + told["band_ratio"]) + 64 * MIB
    await asyncio.sleep(0)

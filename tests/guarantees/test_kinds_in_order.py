"""A name several kinds have: the copy in memory, else this machine, else Ollama, else a cloud; or as configured."""

from __future__ import annotations

import pytest

from modelyard.testing import FakeOllama, FakeOpenAI
from tests.support.fleet import fleet

HERE = {"models": {"builtin": False, "echo": {"m": {"tokens_per_s": 1000}}}}


@pytest.mark.parametrize(
    ("order", "cold"),
    [(["local", "ollama", "openai"], "local"), (["openai", "ollama", "local"], "cloud")],
)
async def test_who_answers_follows_the_order_until_somebody_has_it_in_memory(order: list[str], cold: str) -> None:
    nodes = {"studio": FakeOllama(["m"]), "cloud": FakeOpenAI(["m"])}
    async with fleet(nodes, {**HERE, "routing": {"order": order}}) as yard:
        first = await yard.ask()
        if cold == "local":
            async with yard.http.post(f"{yard.server.url}/admin/models/m/unload", json={}) as answer:
                assert answer.status == 200, await answer.text()
        await yard.ask("m@studio")
        await yard.until("studio", health="healthy")
        resident = [(await yard.ask()).node for _ in range(3)]

    assert (first.node, first.is_whole) == (cold, True)
    assert set(resident) == {"studio"}


async def test_a_cold_local_model_never_sends_prompts_to_a_cloud() -> None:
    cloud = FakeOpenAI(["m"])
    async with fleet({"cloud": cloud}, HERE) as yard:
        for _ in range(3):
            assert (await yard.ask()).node == "local"
            async with yard.http.post(f"{yard.server.url}/admin/models/m/unload", json={}) as answer:
                assert answer.status == 200

    assert not cloud.questions

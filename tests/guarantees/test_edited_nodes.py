"""Nodes that are edited in the configuration while they answer: what is known of them stays, and nobody notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from modelyard.testing import FAULTS, FakeOllama, FakeOpenAI, FaultProxy, Script
from tests.support.fleet import Answer, Fleet, fleet

Edit = Callable[[list[dict[str, Any]]], object]


def rewrite(yard: Fleet, edit: Edit) -> None:
    """Change the nodes in the file, as careful editors do: whole, or not at all."""
    path = next(yard.server.folder.glob("modelyard.json"))
    config = json.loads(path.read_text())
    edit(config["nodes"])
    new = path.with_suffix(".new")
    new.write_text(json.dumps(config))
    new.replace(path)


async def told(yard: Fleet, event: str, times: int = 1) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while len(found := [one for one in yard.server.log_events() if one.get("event") == event]) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found[-1]


@asynccontextmanager
async def asked_meanwhile(yard: Fleet, model: str = "m") -> AsyncIterator[list[Answer]]:
    """One request after the other for as long as the block lasts."""
    answers: list[Answer] = []
    is_over = asyncio.Event()

    async def ask() -> None:
        while not is_over.is_set():
            answers.append(await yard.ask(model))

    asking = asyncio.create_task(ask())
    yield answers
    is_over.set()
    await asking


async def test_other_timeouts_of_the_only_node_fail_no_request_and_cut_no_stream() -> None:
    node = FakeOllama(["m"])
    await node.start()
    async with FaultProxy(node.url) as way, fleet({"a": node}, urls={"a": way.url}) as yard:
        node.play(Script(tokens=("tick ",) * 150, between_s=0.01), times=1)
        running = asyncio.create_task(yard.ask())
        await yard.until("a", in_flight=1)
        before = await yard.node("a")
        way.network.latency_s = 0.3  # so that looks take their time
        async with asked_meanwhile(yard) as answers:
            rewrite(yard, lambda nodes: nodes[0].update(between_tokens_s=77))
            await told(yard, "config.reloaded")
            after = await yard.node("a")
            way.network.latency_s = 0.0
        long = await running

    assert answers
    assert all(one.is_whole for one in answers)
    assert long.is_whole
    assert long.text.count("tick") == 150
    assert (after["health"], after["models_count"]) == ("healthy", 1)
    assert abs(after["since"] - before["since"]) < 0.1  # told by a clock that is read twice


async def test_a_node_at_another_address_answers_from_its_first_look_on_and_the_old_one_until_then() -> None:
    old, new = FakeOllama(["m"]), FakeOllama(["m"])
    await new.start()
    async with FaultProxy(new.url) as way, fleet({"a": old}) as yard:
        way.network.latency_s = 0.2
        async with asked_meanwhile(yard) as answers:
            rewrite(yard, lambda nodes: nodes[0].update(url=way.url))
            await told(yard, "config.reloaded")
            way.network.latency_s = 0.0
            count = len(new.questions)
            async with asyncio.timeout(20):
                while len(new.questions) <= count:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        since = len(old.questions)
        last = await yard.ask()
        await new.stop()

    assert all(one.is_whole for one in [*answers, last])
    assert len(old.questions) == since


async def test_a_failure_of_the_old_address_says_nothing_of_the_new_one() -> None:
    old, new = FakeOpenAI(["m"]), FakeOpenAI(["m"])
    await new.start()
    async with fleet({"a": old}) as yard:
        old.play(Script(tokens=("tick ",) * 60, between_s=0.05, cut_after=50))
        running = [asyncio.create_task(yard.ask()) for _ in range(6)]
        await yard.until("a", in_flight=6)
        rewrite(yard, lambda nodes: nodes[0].update(url=new.url))
        await told(yard, "config.reloaded")
        late = await asyncio.gather(*running)
        status = await yard.node("a")
        await new.stop()

    assert {one.code for one in late} == {"upstream_invalid_response"}
    assert (status["health"], status["cooling"]) == ("healthy", {})


async def test_a_key_that_changes_in_its_file_is_in_force_by_itself(tmp_path: Path) -> None:
    node, key = FakeOpenAI(["m"], key="second"), tmp_path / "key"
    key.write_text("first")
    key.chmod(0o600)
    async with fleet({"a": node}, key=f"file:{key}") as yard:
        await yard.until("a", health="misconfigured")
        key.write_text("second")
        await told(yard, "config.reloaded")
        await yard.until("a", health="healthy")
        answer = await yard.ask()

        key.write_text("sec\nret")
        refused = await told(yard, "config.reload_refused")
        still = await yard.ask()

    assert answer.is_whole
    assert still.is_whole
    assert "nodes[0].key" in refused["problem"]
    assert "ret" not in refused["problem"].replace("refused", "")


async def test_an_operators_drain_ends_with_an_edit_of_that_field_and_with_no_other() -> None:
    async with fleet({"a": FakeOllama(["m"]), "b": FakeOllama(["m"])}) as yard:
        await yard.edit("a", draining=True, weight=0.5)
        rewrite(yard, lambda nodes: nodes[0].update(slots=4, connect_s=3))
        drained = await yard.until("a", slots=4)
        rewrite(yard, lambda nodes: nodes[0].update(weight=3))
        weighed = await yard.until("a", weight=3)
        rewrite(yard, lambda nodes: nodes[0].update(url=yard.nodes["b"].url))
        moved = await yard.until("a", url=yard.nodes["b"].url)
        rewrite(yard, lambda nodes: nodes[0].update(draining=True))
        await told(yard, "config.reloaded", 4)
        rewrite(yard, lambda nodes: nodes[0].update(draining=False))
        back = await yard.until("a", draining=False)

    assert (drained["draining"], drained["weight"]) == (True, 0.5)
    assert (weighed["draining"], moved["draining"], back["weight"]) == (True, True, 3)


async def test_a_node_that_fails_keeps_its_rest_when_its_timeouts_change() -> None:
    async with fleet({"a": FakeOpenAI(["m"])}) as yard:
        yard.nodes["a"].play(FAULTS["429"])
        await yard.ask()
        before = await yard.node("a")
        rewrite(yard, lambda nodes: nodes[0].update(connect_s=3))
        await told(yard, "config.reloaded")
        after = await yard.node("a")
        answer = await yard.ask()

    assert before["cooling"]
    assert after["cooling"].keys() == before["cooling"].keys()
    assert answer.code == "no_node_available"

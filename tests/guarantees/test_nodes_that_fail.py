"""Nodes that fail, hang, lie or come back: who is asked, how often, and what callers see."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from modelyard.testing import FAULTS, FakeOllama, FakeOpenAI, FaultProxy, Script
from modelyard.testing.fault_proxy import Network
from modelyard.testing.server import FakeServer
from tests.support.counts import PROVE
from tests.support.fleet import Answer, fleet, until

QUICK: dict[str, Any] = {"connect_s": 0.5, "first_token_s": 0.6, "between_tokens_s": 0.6}
NO_LOAD = {"deadlines": {"load_s": 0.1, "load_per_gib_s": 0}}


def ollamas(*names: str) -> dict[str, FakeServer]:
    return {name: FakeOllama(["m"]) for name in names}


async def test_a_node_that_lists_everything_and_makes_no_tokens_goes_out_of_rotation() -> None:
    async with fleet(ollamas("good", "wedged"), NO_LOAD, health_timeout_s=0.5, **QUICK) as yard:
        yard.nodes["wedged"].play(FAULTS["slow-first-token"])
        await yard.edit("good", weight=0.01)
        answers = [await yard.ask() for _ in range(12)]
        status = await yard.node("wedged")
        later = [await yard.ask() for _ in range(6)]

    failed = [one for one in answers if not one.is_whole]
    assert {one.code for one in failed} <= {"upstream_timeout"}
    assert len(failed) <= 6
    assert status["health"] in ("doubtful", "out") or status["cooling"]
    assert status["reason"] or status["cooling"]
    assert all(one.is_whole and one.node == "good" for one in later)


async def test_a_node_that_comes_back_gets_work_again() -> None:
    nodes = ollamas("one", "two")
    for node in nodes.values():
        await node.start()
    by_turns = {**NO_LOAD, "routing": {"strategy": "weighted"}}  # by default the one that has it in memory would do
    async with FaultProxy(nodes["two"].url) as way, fleet(nodes, by_turns, urls={"two": way.url}, **QUICK) as yard:
        way.network = Network(is_refusing=True)
        way.cut_all()
        await yard.until("two", health="out")
        down = [await yard.ask() for _ in range(8)]
        way.network = Network()
        await yard.until("two", health="recovering")
        seen: Counter[str] = Counter()
        async with asyncio.timeout(30):
            while not seen["two"]:
                seen[(await yard.ask()).node] += 1
                await asyncio.sleep(0.01)

    assert all(one.is_whole and one.node == "one" for one in down)
    assert seen["two"]


async def test_all_nodes_failing_are_not_asked_much_more_often_than_we_are() -> None:
    count = 2000 if PROVE else 300
    async with fleet(ollamas("one", "two", "three")) as yard:
        for node in yard.nodes.values():
            node.play(FAULTS["500"])
        answers: list[Answer] = []
        for _ in range(count // 20):
            answers += await asyncio.gather(*(yard.ask() for _ in range(20)))
        attempts = sum(len(node.questions) for node in yard.nodes.values())
        refused = [one for one in answers if one.code == "no_node_available"]

    assert attempts <= 1.2 * count + 3 + 6  # the floor, and what a quiet budget regains meanwhile
    assert all(not one.is_whole for one in answers)
    assert refused
    assert all(int(one.headers["Retry-After"]) >= 1 for one in refused)


async def test_refusals_of_requests_never_count_against_a_node() -> None:
    async with fleet({"cloud": FakeOpenAI(["m"])}) as yard:
        yard.nodes["cloud"].play(Script(status=400, error="no such option"), times=20)
        refused = [await yard.ask() for _ in range(20)]
        status = await yard.node("cloud")
        answer = await yard.ask()

    assert {one.status for one in refused} == {400}
    assert (status["health"], status["cooling"]) == ("healthy", {})
    assert answer.is_whole


async def test_clients_that_leave_never_count_against_a_node() -> None:
    async with fleet({"cloud": FakeOpenAI(["m"])}) as yard:
        yard.nodes["cloud"].play(Script(between_s=0.05, tagged=True, tag_count=100))
        for _ in range(8):
            asking = asyncio.create_task(yard.ask())
            count = len(yard.nodes["cloud"].questions)
            await until(lambda: len(yard.nodes["cloud"].questions) > count, "it is asked")  # noqa: B023
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: all(one.left.is_set() for one in yard.nodes["cloud"].questions), "they were left")
        status = await yard.node("cloud")

    assert (status["health"], status["cooling"], status["in_flight"]) == ("healthy", {}, 0)


async def test_a_limit_is_kept_for_as_long_as_the_node_said_and_its_only_node_fails_fast() -> None:
    async with fleet({"cloud": FakeOpenAI(["m"])}) as yard:
        yard.nodes["cloud"].play(replace(FAULTS["429"], headers={"Retry-After": "40"}))
        first = await yard.ask()
        yard.nodes["cloud"].play(FAULTS["500"])
        others = [await yard.ask() for _ in range(20)]
        asked = len(yard.nodes["cloud"].questions)

    assert (first.status, first.code) == (429, "upstream_rate_limited")
    assert asked == 1
    assert {one.code for one in others} == {"no_node_available"}
    assert all(35 <= int(one.headers["Retry-After"]) <= 40 for one in others)


async def test_lists_and_status_answer_while_half_the_nodes_are_black_holes() -> None:
    nodes = ollamas("a", "b", "c", "d")
    for node in nodes.values():
        await node.start()
    async with FaultProxy(nodes["c"].url) as third, FaultProxy(nodes["d"].url) as fourth:
        urls = {"c": third.url, "d": fourth.url}
        async with fleet(nodes, NO_LOAD, urls=urls, connect_s=0.5, first_token_s=1, health_timeout_s=1) as yard:
            for proxy in (third, fourth):
                proxy.network = Network(is_black_hole=True)
                proxy.cut_all()
            await yard.until("c", health="out")
            await yard.until("d", health="out")
            async with asyncio.timeout(2):  # a look at a black hole takes longer than all of these together
                listed = await yard.get("/v1/models")
                status = await yard.get("/admin/status")
                told = await yard.get("/admin/nodes")
            answers = await asyncio.gather(*(yard.ask() for _ in range(20)))

    entry = next(one for one in listed["data"] if one["id"] == "m")
    assert {one["node"] for one in entry["modelyard"]["nodes"]} == {"a", "b", "c", "d"}
    assert status["ready"]
    assert {one["name"]: one["health"] for one in told["nodes"]}["c"] == "out"
    assert all(one.is_whole and one.node in ("a", "b") for one in answers)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_node_of_another_kind_answers_where_the_first_breaks_before_its_first_content(streamed: bool) -> None:
    nodes: dict[str, FakeServer] = {"studio": FakeOllama(["m"]), "cloud": FakeOpenAI(["m"])}
    async with fleet(nodes, {"routing": {"retry_floor": 50}}) as yard:
        for fault in ("reset", "500", "503", "error-first", "empty", "html", "oom", "404"):
            yard.nodes["studio"].play(FAULTS[fault], times=1)
            answer = await yard.ask(stream=streamed)

            assert answer.is_whole, fault
            assert answer.text == "Hello from a fake.", fault


@pytest.mark.parametrize("fault", ["cut", "stall", "truncated", "error-event"])
async def test_where_it_is_switched_on_another_node_goes_on_from_the_middle_and_the_reply_says_so(fault: str) -> None:
    nodes = ollamas("a", "b")
    async with fleet(nodes, {**NO_LOAD, "routing": {"continue_streams": True}}, **QUICK) as yard:
        await yard.edit("b", weight=0.001)
        broken = replace(FAULTS[fault], tokens=("one ", "two ", "three "), between_s=0.05)
        yard.nodes["a"].play(broken)
        yard.nodes["b"].play(Script(tokens=("and ", "the rest")))
        answer = await yard.ask()
        plain = await yard.ask(stream=False)
        sent = yard.nodes["b"].questions[0].body["messages"]

    begun = "one two three " if fault == "truncated" else "one two "
    assert answer.note == {"model": "m@b", "degraded": ["continued_on=b"]}
    assert (answer.text, answer.code, answer.has_end) == (f"{begun}and the rest", "", True)
    assert sent[-1] == {"role": "assistant", "content": begun}
    assert plain.is_whole


async def test_an_answer_with_tools_is_never_continued() -> None:
    nodes = ollamas("a", "b")
    async with fleet(nodes, {**NO_LOAD, "routing": {"continue_streams": True}}, **QUICK) as yard:
        await yard.edit("b", weight=0.001)
        yard.nodes["a"].play(replace(FAULTS["cut"], between_s=0.05))
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        answer = await yard.ask(tools=[tool])

    assert (answer.code, answer.has_end) == ("upstream_invalid_response", False)
    assert not yard.nodes["b"].questions

"""How the work is shared among nodes: by weight, by what operators say, and without cutting anybody."""

from __future__ import annotations

import asyncio
from collections import Counter

from modelyard.testing import FakeOllama, Script
from modelyard.testing.server import FakeServer
from tests.support.counts import PROVE
from tests.support.fleet import fleet, until

WEIGHTED = {"routing": {"strategy": "weighted"}}


def nodes(*names: str) -> dict[str, FakeServer]:
    return {name: FakeOllama(["m"]) for name in names}


async def test_shares_follow_the_weights_and_edits_count_at_once() -> None:
    count = 10_000 if PROVE else 1000
    async with fleet(nodes("five", "three", "two"), WEIGHTED) as yard:
        for name, weight in (("five", 5), ("three", 3), ("two", 2)):
            await yard.edit(name, weight=weight)
        seen: Counter[str] = Counter()
        for _ in range(count // 20):
            seen.update(one.node for one in await asyncio.gather(*(yard.ask(stream=False) for _ in range(20))))
        await yard.edit("five", weight=0)
        after = Counter([(await yard.ask(stream=False)).node for _ in range(50)])

    assert abs(seen["five"] / count - 0.5) <= 0.01
    assert abs(seen["three"] / count - 0.3) <= 0.01
    assert abs(seen["two"] / count - 0.2) <= 0.01
    assert after["five"] == 0
    assert after["three"] == 30


async def test_a_node_that_is_drained_finishes_what_it_has() -> None:
    async with fleet(nodes("a", "b")) as yard:
        slow = Script(between_s=0.05, tagged=True, tag_count=30)
        for node in yard.nodes.values():
            node.play(slow)
        running = [asyncio.create_task(yard.ask()) for _ in range(6)]
        await until(lambda: sum(len(node.questions) for node in yard.nodes.values()) == 6, "all are asked")
        await yard.edit("a", draining=True)
        later = await asyncio.gather(*(yard.ask() for _ in range(6)))
        before = await asyncio.gather(*running)
        await yard.edit("a", draining=False)
        again = await asyncio.gather(*(yard.ask() for _ in range(8)))

    assert all(one.is_whole for one in (*before, *later, *again))
    assert {one.node for one in before} == {"a", "b"}
    assert {one.node for one in later} == {"b"}
    assert {one.node for one in again} == {"a", "b"}


async def test_a_session_stays_with_its_node() -> None:
    async with fleet(nodes("a", "b", "c")) as yard:
        answers = {
            session: {(await yard.ask(headers={"X-Session-Id": session})).node for _ in range(6)}
            for session in ("s1", "s2", "s3", "s4")
        }

    assert all(len(seen) == 1 for seen in answers.values())

"""Real nodes that come and go, and one that comes back: callers hardly notice, and its work comes back by and by."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from modelyard.testing import FAULTS, FakeOllama, FaultProxy, Script
from modelyard.testing.fault_proxy import Network
from modelyard.testing.server import FakeServer
from tests.support.counts import count, tell
from tests.support.fleet import Answer, Fleet, fleet, until

HALF_PERIOD_S = 1.0  # up, and as long down
FLAPPING_S = count(9, 300)  # the guarantee is about 300 s; the beginning is the worst of it: nobody knows it yet
PER_S = 40
FAILED_MAX = 0.01
CHANGES_MAX = 12
BY_TURNS = {"routing": {"strategy": "weighted"}}
# The server with a short way back into full work. Nothing else differs.
RAMP_S = float(count(3, 20))
RAMPING = f"""
import functools, sys
from modelyard.routing import fleet
fleet.HealthRules = functools.partial(fleet.HealthRules, ramp_s={RAMP_S})
from modelyard.cli.main import main
sys.exit(main())
"""


@dataclass
class Stream:
    """Requests at a steady pace, each with the time at which it was sent."""

    yard: Fleet
    sent: list[tuple[float, Answer]] = field(default_factory=list)
    _asking: list[asyncio.Task[None]] = field(default_factory=list)

    async def run(self, seconds: float, models: tuple[str, ...] = ("m",)) -> None:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        for at in range(int(seconds * PER_S)):
            await asyncio.sleep(max(0.0, began_at + at / PER_S - loop.time()))
            self._asking.append(loop.create_task(self._ask(models[at % len(models)])))
        await asyncio.gather(*self._asking)

    async def _ask(self, model: str) -> None:
        sent_at = asyncio.get_running_loop().time()
        self.sent.append((sent_at, await self.yard.ask(model, max_tokens=8)))


SHORT = Script(tagged=True, tag_count=8, between_s=0.002)
LONG = Script(tagged=True, tag_count=100, between_s=0.04)


async def refuses(node: FakeServer) -> None:
    """It breaks off whatever it is asked anew, and goes on with what it has begun."""
    while True:
        node.play(FAULTS["reset"])
        await asyncio.sleep(HALF_PERIOD_S)
        node.play(SHORT)
        await asyncio.sleep(HALF_PERIOD_S)


async def goes_away(way: FaultProxy) -> None:
    """The way there is broken off, with all that comes over it."""
    while True:
        way.network = Network(is_refusing=True)
        way.cut_all()
        await asyncio.sleep(HALF_PERIOD_S)
        way.network = Network()
        await asyncio.sleep(HALF_PERIOD_S)


@asynccontextmanager
async def meanwhile(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def changes_of(yard: Fleet) -> list[dict[str, Any]]:
    """Changes of health, without that of the first look."""
    told = (one for one in yard.server.log_events() if one["event"] == "node.health")
    return [one for one in told if one["before"] != "unknown"]


async def test_a_node_that_comes_and_goes_costs_callers_next_to_nothing_and_cuts_no_stream() -> None:
    nodes: dict[str, FakeServer] = {name: FakeOllama(["m"]) for name in ("flaps", "b", "c")}
    for node in nodes.values():
        await node.start()
    way = FaultProxy(nodes["flaps"].url)
    async with way, fleet(nodes, BY_TURNS, urls={"flaps": way.url}, connect_s=0.5) as yard:
        for node in nodes.values():
            node.play(SHORT)
        stream = Stream(yard)
        nodes["flaps"].play(LONG)
        long = [asyncio.create_task(yard.ask("m@flaps")) for _ in range(5)]
        speaks = lambda: sum(one.tokens_sent > 0 for one in nodes["flaps"].questions) == len(long)  # noqa: E731
        await until(speaks, "all five run there")
        async with meanwhile(refuses(nodes["flaps"])):
            await stream.run(FLAPPING_S / 2)
            streams = await asyncio.gather(*long)
            was_out = any(one["health"] == "doubtful" for one in changes_of(yard))
        async with meanwhile(goes_away(way)):
            await stream.run(FLAPPING_S / 2)
        changes = changes_of(yard)

    failed = Counter(one.code for _at, one in stream.sent if not one.is_whole)
    states = [one["health"] for one in changes]
    tell(f"{len(stream.sent)} requests, failed: {dict(failed)}; {len(changes)} changes: {states}")
    assert was_out
    assert all(one.is_whole and len(one.text.split()) == LONG.tag_count for one in streams)
    assert failed.total() <= FAILED_MAX * len(stream.sent)
    assert len(changes) <= CHANGES_MAX
    assert {one["node"] for one in changes} == {"flaps"}


async def test_a_node_that_is_back_gets_its_share_little_by_little() -> None:
    nodes: dict[str, FakeServer] = {"back": FakeOllama(["m"]), "stays": FakeOllama(["m"])}
    async with fleet(nodes, BY_TURNS, program=("-c", RAMPING), connect_s=0.5) as yard:
        await nodes["back"].stop()
        await yard.until("back", health="out")
        await nodes["back"].start()
        await yard.until("back", health="recovering")
        stream = Stream(yard)
        await stream.run(1.5 * RAMP_S)

    sent = sorted(stream.sent, key=lambda one: one[0])
    began_at = next(at for at, one in sent if one.node == "back")
    quarters: dict[int, list[tuple[float, bool]]] = {}
    for at, one in sent:
        if 0 <= (passed := (at - began_at) / RAMP_S) < 1.25:
            share = min(1.0, max(0.1, passed))
            quarters.setdefault(int(passed * 4), []).append((share / (1 + share), one.node == "back"))
    shares = {
        quarter: (sum(due for due, _ in some) / len(some), sum(got for _, got in some) / len(some))
        for quarter, some in quarters.items()
    }
    tell("due and got: " + ", ".join(f"{due:.2f} {got:.2f}" for due, got in shares.values()))
    assert all(one.is_whole for _at, one in sent)
    assert len(shares) == 5
    assert all(abs(due - got) <= 0.1 for due, got in shares.values()), shares


async def test_a_node_that_is_back_is_not_made_to_load_all_it_has() -> None:
    models = ("m1", "m2", "m3", "m4")
    back, stays = FakeOllama(models), FakeOllama(models)
    # With slots for all, however slow this machine is: a queue there would be a good reason to load elsewhere.
    async with fleet({"back": back, "stays": stays}, program=("-c", RAMPING), connect_s=0.5, slots=256) as yard:
        for model in models:
            stays.bring_in(model)
        await back.stop()
        await yard.until("back", health="out")
        await back.start()
        await yard.until("back", health="recovering")
        for node in (back, stays):
            node.play(Script(tagged=True, tag_count=8, between_s=0.02))
        stream = Stream(yard)
        await stream.run(RAMP_S / 2, models)
        loaded = set(back.residents)

    tell(f"loaded by ramp traffic: {loaded}")
    assert all(one.is_whole for _at, one in stream.sent)
    assert len(loaded) <= 1

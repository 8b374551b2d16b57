"""Three nodes under load, killed, wedged, drained, and back again: answers are whole, or honest errors."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from modelyard.testing import FAULTS, FakeOllama, FakeOpenAI, FaultProxy, Script
from modelyard.testing.fault_proxy import Network
from modelyard.testing.server import FakeServer
from tests.support.counts import count, tell
from tests.support.fleet import Answer, Fleet, fleet

TOKENS = 8
WELL = Script(tagged=True, tag_count=TOKENS, between_s=0.005)
FIRST_TOKEN_S, LOAD_S = 0.8, 0.1
QUICK: dict[str, Any] = {
    "connect_s": 0.5,
    "first_token_s": FIRST_TOKEN_S,
    "between_tokens_s": 0.8,
    "health_timeout_s": 1,
}
CONFIG = {"deadlines": {"load_s": LOAD_S, "load_per_gib_s": 0}, "routing": {"strategy": "weighted"}}
# What may be seen of a node that goes away under a request that it had begun, or was asked in vain.
HONEST = {"upstream_invalid_response", "upstream_stalled", "upstream_timeout", "upstream_unreachable"}

# The guarantee says 200 a second. In the suite the fakes, our server and the client share two cores with other tests,
# and could not make so many answers: what came too late would be the machine's failures.
PER_S = float(count(50, 200))
NODES = 3
SILENCES = 2  # of a model in a row, at the latest: then its node is left alone
TRIALS = 5  # of a node, at most, in the time that a phase lasts


def failures_max(per_s: float) -> float:
    """What callers may see, from what is promised.

    (1) Killed: what runs there in that moment breaks off; an answer takes TOKENS pauses, on a busy machine ten times as
    long. Whoever asks it later gets another node. (2) Wedged: its part of the work waits in vain for a first token
    until silences are enough; who waited so long is not sent elsewhere, since the node may be at work. (3) Single
    requests find out whether a node is back.
    """
    running = per_s / NODES * TOKENS * WELL.between_s * 10
    waiting = per_s / NODES * (FIRST_TOKEN_S + LOAD_S) * SILENCES
    return running + waiting + NODES * TRIALS


@dataclass
class Load:
    """Requests at a steady rate."""

    yard: Fleet
    per_s: float
    answers: list[Answer] = field(default_factory=list)
    _asking: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        for at in range(int(seconds * self.per_s)):
            await asyncio.sleep(max(0.0, began_at + at / self.per_s - loop.time()))
            task = loop.create_task(self._ask())
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self) -> None:
        self.answers.append(await self.yard.ask())

    async def end(self) -> None:
        await asyncio.gather(*self._asking)


async def everybody(load: Load, names: set[str]) -> None:
    """Until all of them answer."""
    async with asyncio.timeout(90):
        while not names <= {one.node for one in load.answers[-60:]}:
            await load.run(0.5)
            await load.end()


def is_right(answer: Answer) -> bool:
    """All tokens of one request, in order, and nothing else; or the beginning of that, and an error."""
    pairs = [token.split(".") for token in answer.text.split()]
    is_own = len({who for who, _number in pairs}) <= 1
    is_gapless = [int(number) for _who, number in pairs] == [*range(len(pairs))]
    return is_own and is_gapless and (answer.code != "" or (answer.has_end and len(pairs) == TOKENS))


async def test_killed_wedged_and_drained_nodes_make_no_wrong_answers() -> None:
    nodes: dict[str, FakeServer] = {"kill": FakeOllama(["m"]), "wedge": FakeOpenAI(["m"]), "drain": FakeOllama(["m"])}
    for node in nodes.values():
        await node.start()
    async with FaultProxy(nodes["kill"].url) as way, fleet(nodes, CONFIG, urls={"kill": way.url}, **QUICK) as yard:
        for node in nodes.values():
            node.play(WELL)
        load, phase_s = Load(yard, PER_S), count(2, 20)
        await load.run(1)
        way.network = Network(is_refusing=True)  # killed: every connection breaks, and no new one is taken
        way.cut_all()
        await load.run(phase_s)
        nodes["wedge"].play(replace(WELL, first_after_s=3600))  # lists and answers looks, and makes no tokens
        await load.run(phase_s)
        nodes["wedge"].play(WELL)
        way.network = Network()
        await load.end()
        await everybody(load, set(nodes))
        await yard.edit("drain", draining=True)
        drained_at = len(load.answers)
        await load.run(1)
        await load.end()
        drained = load.answers[drained_at:]
        await yard.edit("drain", draining=False)
        await everybody(load, set(nodes))
        answers = load.answers

    failed = Counter(one.code for one in answers if one.code)
    tell(f"{len(answers)} requests, {failed.total()} failed: {dict(failed)}")
    assert all(one.is_whole and one.node != "drain" for one in drained)
    assert all(is_right(one) for one in answers)
    assert set(failed) <= HONEST
    assert failed.total() <= failures_max(load.per_s), dict(failed)


async def test_whatever_goes_wrong_a_caller_gets_one_attempts_tokens() -> None:
    chance = random.Random(5)
    faults = [
        name for name in FAULTS if name not in ("slow-header", "slow-first-token", "hung", "stall", "endless-line")
    ]
    async with fleet({"a": FakeOllama(["m"]), "b": FakeOpenAI(["m"]), "c": FakeOllama(["m"])},
                     {"routing": {"strategy": "round_robin", "retry_floor": 1000}}, **QUICK) as yard:  # fmt: skip
        for _ in range(count(25, 1500)):
            for node in yard.nodes.values():
                fault = FAULTS[chance.choice(faults)] if chance.random() < 0.5 else WELL
                node.play(replace(fault, tagged=True, tag_count=TOKENS, between_s=0.002))
            began = {name: len(node.questions) for name, node in yard.nodes.items()}
            answers = await asyncio.gather(*(yard.ask() for _ in range(4)))
            spoke = sum(
                one.tokens_sent > 0 for name, node in yard.nodes.items() for one in node.questions[began[name] :]
            )

            assert all(is_right(one) for one in answers)
            assert spoke >= sum(bool(one.text) for one in answers)

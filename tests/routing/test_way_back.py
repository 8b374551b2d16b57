"""Health and cooldown together, through the ranking: from every state of both a node that is well gets traffic.

Each of them has a way back of its own; together they could still wait for each other. So the real fleet, standings and
ranking are driven over states that random faults lead to, and from each the node is well from then on.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field

import pytest
import structlog

from modelyard.errors import (
    ClientClosed,
    OutOfMemory,
    UpstreamInvalid,
    UpstreamLimited,
    UpstreamModelMissing,
    UpstreamOverloaded,
    UpstreamRefusedKey,
    UpstreamStalled,
    UpstreamTimeout,
    UpstreamUnreachable,
    YardError,
)
from modelyard.events import EventBus
from modelyard.providers.ticket import Ticket
from modelyard.routing.attempt import Attempt
from modelyard.routing.cooldown import SAY_NOTHING_OF_THE_NODE, Cooldowns
from modelyard.routing.fleet import Fleet
from modelyard.routing.node import NodeParts, NodeRules
from modelyard.routing.ranking import Turns, rank
from modelyard.routing.standings import Standings
from modelyard.routing.wanted import Wanted
from modelyard.types.fleet import NodeLook, ResidentCopy
from modelyard.types.model import Model, model_at
from tests.gateway.manual_clock import ManualClock
from tests.support.counts import count, tell

WAY_BACK_S = 30.0
STEP_S = 0.5
WALKS = count(600, 40_000)
PAUSES_S = (0.0, 0.0, 0.2, 1.0, 3.0, 6.0, 25.0, 130.0, 400.0)
ERRORS: tuple[type[YardError], ...] = (
    UpstreamUnreachable, UpstreamTimeout, UpstreamStalled, UpstreamInvalid, UpstreamLimited, UpstreamOverloaded,
    OutOfMemory, UpstreamRefusedKey, UpstreamModelMissing, ClientClosed,
)  # fmt: skip
BAD_LOOKS = (UpstreamUnreachable, UpstreamTimeout, UpstreamInvalid, UpstreamRefusedKey, UpstreamLimited)
Open = tuple[AbstractContextManager[Attempt], Attempt]


class NoNames:
    def replace_node(self, _node: str, _models: tuple[Model, ...]) -> bool:
        return False


def parts() -> NodeParts:
    async def close() -> None:
        return

    return NodeParts(None, None, None, close)  # type: ignore[arg-type]  # nobody is asked for real


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of nodes tell of their health: nobody reads it."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.configure(**before)


@dataclass
class World:
    """Two nodes that have the same model: `b` is always well, and `a` is what this is about."""

    seed: int
    clock: ManualClock = field(default_factory=ManualClock)
    open: list[Open] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.cooldowns = Cooldowns()
        self.fleet = Fleet(self.clock, NoNames(), EventBus(), cooldowns=self.cooldowns)
        self.turns = Turns()
        self.models = [model_at(name, "openai", "m", size_bytes=1) for name in "ab"]
        for model in self.models:
            node = self.fleet.put(NodeRules(model.node, "openai", "http://x"), parts())
            self.fleet.saw(node, self.look_of(model))
        self.a = self.fleet.node("a")
        self.standings = Standings(self.fleet, lambda _model: None, self.clock)  # type: ignore[arg-type, return-value]

    @staticmethod
    def look_of(model: Model) -> NodeLook:
        return NodeLook(models=(model,), residents=(ResidentCopy("m", 1),))

    # ---- what is asked ----

    def chosen(self) -> str:
        """Who would be asked now, and is."""
        ranked = rank(self.standings.of(self.models, None), strategy="round_robin", group="m", turns=self.turns)
        return ranked[0].standing.node if ranked else ""

    def begin(self) -> None:
        ticket = Ticket("t", request_id="r", route="/", caller_id="me", started_at=self.clock.now)
        entered = self.fleet.attempt(self.models[0], Wanted(1, 1), ticket)
        self.open.append((entered, entered.__enter__()))

    def end(self, *, error: YardError | None, began: bool) -> None:
        entered, attempt = self.open.pop(0)
        if began:
            attempt.began(self.clock.now)
        with suppress(YardError):
            entered.__exit__(type(error) if error else None, error, None)

    # ---- what goes wrong ----

    def error(self, kinds: tuple[type[YardError], ...]) -> YardError:
        error = self.chance.choice(kinds)(provider="a", model="m", problem="x", budget_s=1)
        if isinstance(error, UpstreamLimited | UpstreamOverloaded) and self.chance.random() < 0.5:
            error.retry_after_s = self.chance.choice((1.0, 40.0, 900.0))
        return error

    def fault(self) -> None:
        """Something that happens to a node that need not be well."""
        act, node = self.chance.random(), self.a
        if act < 0.45:
            if self.chosen() == "a" or not self.open:
                self.begin()
            if self.open and self.chance.random() < 0.8:
                bad = self.chance.random() < 0.8
                self.end(error=self.error(ERRORS) if bad else None, began=not bad or self.chance.random() < 0.4)
        elif act < 0.6:
            self.fleet.saw(node, self.look_of(self.models[0]))
        elif act < 0.85:
            self.fleet.missed(node, self.error(BAD_LOOKS))
        else:
            self.fleet.probed(node, self.error(ERRORS[:4]) if self.chance.random() < 0.7 else None)

    # ---- the way back ----

    def named_until(self) -> float:
        """Until when it is left alone for a reason that it gave itself: a time it named, or what only time can tell."""
        times = [self.a.health._limited_until]
        for (node, _model), entry in self.cooldowns._entries.items():
            if node == "a" and not entry.is_closed:
                times.append(entry.said_until)
                if entry.reason in SAY_NOTHING_OF_THE_NODE:
                    times.append(entry.until)
        return max(times)

    def asked_after_s(self, *, can_probe: bool) -> float | None:
        """From now on it is well: how long until it gets a request."""
        while self.open:
            self.end(error=None, began=True)
        self.clock.now = began_at = max(self.clock.now, self.named_until())
        self.turns = Turns()
        while self.clock.now <= began_at + 2 * WAY_BACK_S:
            now, health = self.clock.now, self.a.health
            if now >= health.next_look_at(now):
                self.fleet.saw(self.a, self.look_of(self.models[0]))
            if health.probe_due(now, has_idle_resident=can_probe, shares_timer=False):
                self.fleet.probed(self.a, None)
            for _ in range(3):
                if self.chosen() == "a":
                    return now - began_at
            self.clock.now += STEP_S
        return None


def late(seeds: range) -> list[str]:
    """Every walk after which it takes too long."""
    found, states = [], Counter[str]()
    for seed in seeds:
        world = World(seed)
        for _ in range(world.chance.randrange(1, 40)):
            world.clock.now += world.chance.choice(PAUSES_S)
            world.fault()
        health = world.a.health
        cooling = world.cooldowns.snapshot(world.clock.now).keys()
        state = f"{health.state}{', cooling' * any(node == 'a' for node, _ in cooling)}"
        states[state] += 1
        why = f"{seed}: {state} ({health.reason}; {world.cooldowns.reason('a', world.models[0].name)})"
        after_s = world.asked_after_s(can_probe=seed % 2 == 0)
        if after_s is None or after_s > WAY_BACK_S:
            found.append(f"{why}: {after_s}")
    tell(f"{len(seeds)} walks, {len(found)} late; where they ended: {dict(states.most_common())}")
    return found


def test_from_every_state_of_both_a_node_that_is_well_gets_traffic_within_half_a_minute() -> None:
    assert late(range(WALKS)) == []


def test_the_check_finds_planted_bugs(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:  # health says that it is well again, and cooling down does not hear of it
        patched.setattr(Cooldowns, "recovered", lambda *_: None)
        patched.setattr(Cooldowns, "connected", lambda *_: None)
        assert late(range(WALKS // 4))
    with monkeypatch.context() as patched:  # a trial whose caller left is never given back
        patched.setattr(Cooldowns, "end_trial", lambda *_, **__: None)
        assert late(range(WALKS // 4))

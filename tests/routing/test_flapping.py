"""Three nodes in a small world of pure parts: one comes and goes, or makes no tokens, or all are down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from modelyard.routing.cooldown import Cooldowns
from modelyard.routing.failures import Failure
from modelyard.routing.health import IN_ROTATION, NodeHealth
from modelyard.routing.retries import RetryBudget
from modelyard.types.fleet import Health
from tests.support.counts import tell

STEP_S = 0.05  # a request each
ANSWER_S = 0.2
ATTEMPTS_MAX = 3

IsUp = Callable[[float], bool]


def always(_now: float) -> bool:
    return True


def never(_now: float) -> bool:
    return False


@dataclass
class World:
    """Requests go where health and cooldown let them, as the router does it: the well in turns, one trial, the rest."""

    up: dict[str, IsUp]
    makes_tokens: dict[str, IsUp] = field(default_factory=dict)
    now: float = 0.0
    asked: Counter[str] = field(default_factory=Counter)  # attempts
    changes: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    trials_at: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.health = {name: NodeHealth(name, 0.0) for name in self.up}
        self.cooldowns, self.budget = Cooldowns(), RetryBudget()
        self.states = {name: one.state for name, one in self.health.items()}
        self.turn = 0

    def run(self, until: float) -> None:
        while self.now < until:
            for name in self.up:
                if self.now >= self.health[name].next_look_at(self.now):
                    self.look(name)
            self.failed += not self.request()
            self.now += STEP_S

    def look(self, name: str) -> None:
        one = self.health[name]
        if self.up[name](self.now):
            one.looked(self.now)
            if one.wants_try(self.now):
                self.cooldowns.connected(name, self.now)
        else:
            one.look_failed(Failure.CONNECT, self.now)
        self.note(name)

    def note(self, name: str) -> None:
        before, state = self.states[name], self.health[name].state
        if state is not before:
            self.changes[name] += 1
            self.states[name] = state
            if state in IN_ROTATION and before not in IN_ROTATION:
                self.cooldowns.recovered(name, self.now)

    def place(self, name: str) -> int | None:
        """0: asked in turns; 1: where nobody well is left; 2: to find out; None: not asked."""
        one = self.health[name]
        if self.cooldowns.until(name, "m", self.now) or not self.cooldowns.may_try(name, "m", self.now):
            return None
        if one.is_in_rotation(self.now) or one.wants_try(self.now):
            return 0
        if one.state is Health.DOUBTFUL:
            return 1
        return 2 if one.may_try(self.now) else None

    def request(self) -> bool:
        self.budget.requested(self.now)
        left = list(self.up)
        self.turn += 1
        left = left[self.turn % len(left) :] + left[: self.turn % len(left)]
        for attempt in range(ATTEMPTS_MAX):
            places = {name: place for name in left if (place := self.place(name)) is not None}
            if not places or (attempt and not self.budget.take(self.now)):
                return False
            name = min(places, key=lambda one: places[one])
            left.remove(name)
            failure = self.attempt(name)
            if failure is None:
                return True
            if failure is Failure.STALLED:
                return False
        return False

    def attempt(self, name: str) -> Failure | None:
        one, now = self.health[name], self.now
        self.asked[name] += 1
        if not one.is_in_rotation(now):
            one.tried(now)
            self.trials_at.setdefault(name, []).append(now)
        trials = self.cooldowns.begin_trial(name, "m", now)
        makes_tokens = self.makes_tokens.get(name, always)
        failure = None if self.up[name](now) else Failure.CONNECT
        if failure is None:
            is_cut = not (makes_tokens(now) and self.up[name](now + ANSWER_S))
            failure = Failure.STALLED if is_cut else None
        if makes_tokens(now) and failure is not Failure.CONNECT:
            one.answered(now, "m")
        if failure is not None:
            one.attempt_failed(failure, now)
            self.cooldowns.failed(name, "m", failure, now, trials=trials)
            self.note(name)
            self.look(name)  # whoever failed is looked at at once
        else:
            self.cooldowns.succeeded(name, "m", now)
        for trial in trials:
            self.cooldowns.end_trial(trial, now, ok=failure is None)
        self.note(name)
        return failure


@pytest.mark.parametrize("shift_s", [0.0, 0.3, 0.5, 0.8])
def test_a_node_that_comes_and_goes_each_second_stays_away_and_returns_when_it_stays(shift_s: float) -> None:
    world = World({"a": lambda now: now >= 300 or (now + shift_s) % 2 < 1, "b": always, "c": always})
    world.run(300)
    failed, changes, requests = world.failed, world.changes.total(), 300 / STEP_S
    world.run(330)
    before = world.asked["a"]
    world.run(335)
    tell(f"shift {shift_s}: {failed} of {requests:.0f} failed, {changes} changes")

    assert failed <= 0.01 * requests
    assert changes - 3 <= 12  # the first looks are changes too
    assert world.asked["a"] > before


@pytest.mark.parametrize("period_s", [0.5, 3.0, 5.0, 10.0])
def test_slower_coming_and_going_costs_few_requests_too(period_s: float) -> None:
    world = World({"a": lambda now: now % (2 * period_s) < period_s, "b": always, "c": always})
    world.run(300)
    tell(f"period {period_s}: {world.failed} failed, {world.changes['a']} changes")

    assert world.failed <= 0.01 * 300 / STEP_S
    assert world.changes["a"] <= 2 * 300 / (2 * period_s) + 12


def test_a_node_that_lists_and_makes_no_tokens_gets_ever_fewer_requests_and_work_again_within_seconds() -> None:
    wedged_at, well_at = 10.0, 310.0
    world = World({"a": always, "b": always, "c": always}, {"a": lambda now: not wedged_at <= now < well_at})
    world.run(well_at)
    failed = world.failed
    world.run(well_at + 30)
    before = world.asked["a"]
    world.run(well_at + 35)
    tell(f"wedged: {failed} failed")

    assert failed <= 30
    assert world.asked["a"] > before


def test_where_all_are_down_each_is_tried_rarely_and_all_are_back_within_seconds() -> None:
    world = World(dict.fromkeys("abc", lambda now: now < 10 or now >= 310))
    world.run(10)
    before = world.asked.copy()
    world.run(310)
    attempts = world.asked - before
    world.run(320)
    failed = world.failed
    world.run(340)
    tell(f"all down for 300 s: {dict(attempts)} attempts")

    assert all(1 <= attempts[name] <= 3 + 300 / 5 for name in "abc")  # three to find out, then one in a base time
    assert world.failed == failed
    assert all(len(world.trials_at[name]) >= 2 for name in "abc")


def test_an_only_node_that_is_down_is_hardly_asked() -> None:
    world = World({"a": never})
    world.run(300)

    assert world.asked["a"] <= 60

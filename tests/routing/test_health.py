"""A node's health: every state that can be reached has a way back, and who comes and goes stays away."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from modelyard.routing.failures import Failure
from modelyard.routing.health import IN_ROTATION, LIMITS, PASSING, HealthRules, NodeHealth
from modelyard.types.fleet import Health
from tests.support.counts import count, tell

RULES = HealthRules()
START = 1000.0
WAY_BACK_S = 30.0
STATES_MAX = count(12_000, 100_000)

EVENTS: dict[str, Callable[[NodeHealth, float], None]] = {
    "looked": lambda one, now: one.looked(now),
    "look connect": lambda one, now: one.look_failed(Failure.CONNECT, now),
    "look auth": lambda one, now: one.look_failed(Failure.AUTH, now),
    "look limited": lambda one, now: one.look_failed(Failure.LIMITED, now),
    "answered": lambda one, now: one.answered(now, "m"),
    "connect": lambda one, now: one.attempt_failed(Failure.CONNECT, now),
    "stalled": lambda one, now: one.attempt_failed(Failure.STALLED, now),
    "auth": lambda one, now: one.attempt_failed(Failure.AUTH, now),
    "limited": lambda one, now: one.look_failed(Failure.LIMITED, now, 40.0),
    "no memory": lambda one, now: one.attempt_failed(Failure.OUT_OF_MEMORY, now),
    "probed": lambda one, now: one.probed(now, None),
    "probe stalled": lambda one, now: one.probed(now, Failure.STALLED),
    "probe auth": lambda one, now: one.probed(now, Failure.AUTH),
    "tried": lambda one, now: one.tried(now),
}
PAUSES_S = (0.0, 3.0, 25.0, 400.0)
BOUNDS_S = (0.0, 2.0, 10.0, 30.0, 120.0)  # ages between two of these count as the same


def age_of(at: float | None, now: float) -> int:
    """A time as one of few classes; what is to come is below 0."""
    if at is None:
        return 99
    return -1 if at > now else sum(now - at > bound for bound in BOUNDS_S)


def shape(one: NodeHealth, now: float) -> tuple[object, ...]:
    """What tells states apart: all of it, with times as classes of age."""
    times = (
        one.since,
        one._bad_at,
        one._back_at,
        one._recovered_at,
        one._limited_until,
        one._good_since,
        one._heard_at,
    )
    rare = (one._trial_at, one._probed_at)
    return (
        one.state, one._needs_tokens, min(one._misses, 2), min(one._failures, 6), min(one._probe_misses, 2),
        min(one._relapses, 4), min(one._trials, 3), *(age_of(at, now) for at in times),
        *(min(age_of(at, now), 2) for at in rare),
    )  # fmt: skip


def reachable(kind: type[NodeHealth], states_max: int = STATES_MAX) -> Iterator[tuple[NodeHealth, float, str]]:
    """Every state that events lead to, breadth first, with the event that did."""
    first = kind("n", START)
    seen = {shape(first, START)}
    queue = deque([(first, START)])
    while queue and len(seen) < states_max:
        one, then = queue.popleft()
        for pause_s in PAUSES_S:
            for name, event in EVENTS.items():
                new, now = copy.deepcopy(one), then + pause_s
                event(new, now)
                if (found := shape(new, now)) not in seen:
                    seen.add(found)
                    queue.append((new, now))
                    yield new, now, name


def served_after_s(one: NodeHealth, now: float, *, can_probe: bool) -> float | None:
    """From now on the node is well: how long until it gets a request, in rotation, while others are well too.

    What it named itself as its time is waited for first.
    """
    one = copy.deepcopy(one)
    now = began_at = max(now, one._limited_until)
    one._looked_at = now if one._looked_at is not None else None  # the worst case: the last look just failed
    while now <= began_at + 2 * WAY_BACK_S:
        if now >= one.next_look_at(now):
            one.looked(now)
        if one.probe_due(now, has_idle_resident=can_probe, shares_timer=True):
            one.probed(now, None)
        if one.is_in_rotation(now):
            return now - began_at
        if one.wants_try(now):
            one.tried(now)
            one.answered(now, "m")
        now += 0.5
    return None


def faults(kind: type[NodeHealth], states_max: int = STATES_MAX) -> Iterator[str]:
    """What is wrong in any state that can be reached. The number of states comes last, for whoever wants it."""
    found = 0
    for one, now, name in reachable(kind, states_max):
        found += 1
        for can_probe in (True, False):
            after_s = served_after_s(one, now, can_probe=can_probe)
            if after_s is None or after_s > WAY_BACK_S:
                yield f"no way back from {one.state} ({one.reason}) after {name}: {after_s}"
        if (one.state in IN_ROTATION) == bool(one.reason):
            yield f"{one.state} has the reason {one.reason!r}"
        if one.since > now or not 0.0 < one.share(now, "m") <= 1.0:
            yield f"{one.state}: since {one.since} at {now}, share {one.share(now, 'm')}"
        if one.probe_due(now, has_idle_resident=False, shares_timer=False):
            yield "a probe would have to load a model"
        if one.is_in_rotation(now) and one._limited_until > now:
            yield f"{one.state} before its time is over"
        if one.state in (Health.DOUBTFUL, Health.OUT, Health.MISCONFIGURED):
            wait_s = max(one.next_trial_at(), now) - max(now, one._limited_until)
            if wait_s > RULES.trial_s_max:
                yield f"{one.state}: nobody is let through for {wait_s} s"
    tell(f"{kind.__name__}: {found} states")
    assert found >= min(states_max, 10_000) - 1, "too few states: the events are too weak"


def test_from_every_state_a_node_that_is_well_gets_traffic_again() -> None:
    assert list(faults(NodeHealth)) == []


class OneWayOut(NodeHealth):
    """Who is out stays out, whatever looks say."""

    def _recover(self, now: float) -> None:
        if self.state is not Health.OUT:
            super()._recover(now)


class BlocksItsOwnProbe(NodeHealth):
    """Nobody is sent to a node that is out: not even whoever should find out."""

    def probe_due(self, now: float, *, has_idle_resident: bool, shares_timer: bool) -> bool:
        is_in = self.is_in_rotation(now)
        return is_in and super().probe_due(now, has_idle_resident=has_idle_resident, shares_timer=shares_timer)

    def may_try(self, now: float) -> bool:
        return False


class DoubtForEver(NodeHealth):
    """Only an answer ends a doubt, and who is doubted is not asked."""

    def looked(self, now: float) -> None:
        if self.state is not Health.DOUBTFUL:
            super().looked(now)


class ShortenedLimit(NodeHealth):
    """An answer under way ends a limit."""

    def answered(self, now: float, model: str = "") -> None:
        super().answered(now, model)
        if self.state is Health.LIMITED:
            self._become(Health.HEALTHY, now)


@pytest.mark.parametrize("mutant", [OneWayOut, BlocksItsOwnProbe, DoubtForEver, ShortenedLimit])
def test_the_check_finds_a_planted_bug(mutant: type[NodeHealth]) -> None:
    assert next(faults(mutant), None) is not None


def test_what_says_nothing_of_the_node_changes_nothing() -> None:
    for one, now, _name in reachable(NodeHealth, 2000):
        for failure in PASSING:
            after = copy.deepcopy(one)
            after.attempt_failed(failure, now)
            assert after == one
            after.probed(now, failure)
            after._probed_at = one._probed_at
            assert after == one


def well(state: Health = Health.HEALTHY) -> NodeHealth:
    one = NodeHealth("n", START)
    one.looked(START)
    if state is Health.OUT:
        one.look_failed(Failure.CONNECT, START)
        one.look_failed(Failure.CONNECT, START)
    assert one.state is state
    return one


def test_a_node_that_lists_and_makes_no_tokens_is_out_after_one_request_and_one_probe() -> None:
    one = well()
    one.attempt_failed(Failure.STALLED, START + 5)
    one.looked(START + 5)

    assert one.probe_due(START + 5, has_idle_resident=True, shares_timer=True)
    one.probed(START + 10, Failure.STALLED)
    states = [one.state]
    for second in range(11, 100):
        one.looked(START + second)
        states.append(one.state)
    assert set(states) == {Health.OUT}
    one.probed(START + 100, None)
    states.append(one.state)
    assert states[-1] is Health.RECOVERING


def test_one_failed_look_is_a_doubt_that_good_looks_end() -> None:
    one = well()
    one.look_failed(Failure.TIMEOUT, START + 10)
    doubtful = one.state, one.reason
    one.looked(START + 11)
    one.looked(START + 12)
    soon = one.state
    one.looked(START + 13)

    assert doubtful == (Health.DOUBTFUL, "a look failed: timeout")
    assert soon is Health.DOUBTFUL
    assert (one.state, one.reason) == (Health.HEALTHY, "")


def test_a_probe_is_rare_and_asks_no_node_whose_timer_it_would_restart_without_a_doubt() -> None:
    one = well()
    one.answered(START + 1, "m")

    def due(at: float, *, shares: bool, idle: bool = True) -> bool:
        return one.probe_due(START + at, has_idle_resident=idle, shares_timer=shares)

    assert [due(10, shares=False), due(31, shares=False), due(31, shares=True)] == [False, True, False]
    assert not due(31, shares=False, idle=False)
    one.probed(START + 31, None)
    assert [due(60, shares=False), due(61, shares=False)] == [False, True]
    one.attempt_failed(Failure.STALLED, START + 70)
    assert due(70, shares=True)
    one.probed(START + 70, Failure.STALLED)
    assert [due(74, shares=True), due(75, shares=True)] == [False, True]


def test_control_calls_that_hang_are_a_reason_to_probe_while_it_is_known_what_is_in_memory() -> None:
    one = well()
    one.look_failed(Failure.TIMEOUT, START + 10)

    assert one.probe_due(START + 10, has_idle_resident=True, shares_timer=True)
    assert not one.probe_due(START + 16, has_idle_resident=True, shares_timer=True)


def test_a_limited_node_is_left_alone_for_its_time_and_never_for_less() -> None:
    one = well()
    one.look_failed(Failure.LIMITED, START, 40.0)
    one.look_failed(Failure.LIMITED, START + 1, 2.0)
    one.answered(START + 2, "m")
    one.looked(START + 39)

    assert (one.state, one.reason) == (Health.LIMITED, LIMITS)
    assert not one.probe_due(START + 39, has_idle_resident=True, shares_timer=False)
    assert not one.is_in_rotation(START + 39)
    assert one.next_trial_at() == START + 40
    assert one.is_in_rotation(START + 40)
    one.looked(START + 40)
    assert one.state is Health.RECOVERING


def test_a_node_that_goes_out_while_it_is_limited_comes_back_to_its_limit() -> None:
    one = well()
    one.look_failed(Failure.LIMITED, START, 100.0)
    one.look_failed(Failure.CONNECT, START + 1)
    one.look_failed(Failure.CONNECT, START + 2)
    out = one.state
    one.look_failed(Failure.LIMITED, START + 3, 50.0)
    for second in range(4, 10):
        one.looked(START + second)

    assert (out, one.state) == (Health.OUT, Health.LIMITED)


def test_failures_of_requests_lead_to_a_doubt_and_then_out() -> None:
    one = well()
    states = []
    for number in range(6):
        one.attempt_failed(Failure.CONNECT, START + number)
        states.append(one.state)

    assert states == [Health.HEALTHY] * 2 + [Health.DOUBTFUL] * 3 + [Health.OUT]


def test_a_refused_key_is_tried_with_one_request_now_and_then() -> None:
    one = well()
    one.attempt_failed(Failure.AUTH, START + 1)
    one.looked(START + 2)

    states = [one.state]
    assert [one.wants_try(START + 20), one.wants_try(START + 21)] == [False, True]
    one.tried(START + 21)
    assert [one.wants_try(START + 40), one.wants_try(START + 41)] == [False, True]
    one.answered(START + 41)
    assert [*states, one.state] == [Health.MISCONFIGURED, Health.RECOVERING]


def test_a_node_that_is_out_is_looked_at_less_often_and_again_soon_when_it_is_back() -> None:
    one, now = NodeHealth("n", START), START
    pauses = []
    for _ in range(5):
        assert one.next_look_at(now) <= now
        one.look_failed(Failure.CONNECT, now)
        pauses.append(one.next_look_at(now) - now)
        now = one.next_look_at(now)
    one.looked(now)

    assert all(shorter <= longer for shorter, longer in pairwise(pauses))
    assert pauses[-1] == RULES.look_s_max
    assert one.next_look_at(now) - now == RULES.look_s_soon
    assert well().next_look_at(START) == START + RULES.look_s


def test_the_share_of_a_model_follows_the_ramp_from_its_first_answer() -> None:
    one = well(Health.OUT)
    for second in range(4):
        one.looked(START + second)
    recovering = one.state
    one.answered(START + 10, "m")
    shares = [one.share(START + 10 + second, "m") for second in range(25)]

    assert recovering is Health.RECOVERING
    assert one.share(START + 10, "never asked") == RULES.share_least
    assert all(abs(share - min(1.0, second / RULES.ramp_s)) <= 0.1 for second, share in enumerate(shares))
    assert well().share(START, "m") == 1.0
    one.looked(START + 30)
    assert one.state is Health.HEALTHY

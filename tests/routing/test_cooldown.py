"""Cooling down: who is left alone, for how long, and how one attempt finds out that it is over."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from modelyard.routing.cooldown import ANY, AT_ONCE, CooldownRules, Cooldowns, Trial
from modelyard.routing.failures import Failure
from tests.support.counts import count, tell

RULES = CooldownRules(jitter=0.0)
START = 1000.0
STATES_MAX = count(8_000, 60_000)
LONGEST_S = RULES.said_s_max + RULES.trial_s


def some(rules: CooldownRules = RULES) -> Cooldowns:
    return Cooldowns(rules)


def fail(one: Cooldowns, failure: Failure, times: int, now: float = START, model: str = "m") -> None:
    for _ in range(times):
        one.failed("n", model, failure, now)


# ---- what counts, and for whom ----


@pytest.mark.parametrize(
    ("failure", "times"),
    [
        (Failure.CONNECT, 3), (Failure.SERVER, 3), (Failure.INVALID, 3), (Failure.STALLED, 2), (Failure.TIMEOUT, 2),
        (Failure.LIMITED, 1), (Failure.OVERLOADED, 1), (Failure.AUTH, 1), (Failure.OUT_OF_MEMORY, 1),
        (Failure.MODEL_MISSING, 1),
    ],
)  # fmt: skip
def test_so_many_failures_in_a_row_cool_even_an_only_node_down(failure: Failure, times: int) -> None:
    one = some()
    fail(one, failure, times - 1)
    before = one.until("n", "m", START)
    fail(one, failure, 1)

    assert before == 0.0
    assert one.until("n", "m", START) > START
    assert one.reason("n", "m") == failure.value
    assert not one.may_try("n", "m", START)


@pytest.mark.parametrize("failure", Failure)
def test_what_is_said_of_one_model_leaves_the_others_alone(failure: Failure) -> None:
    one = some()
    fail(one, failure, 20)
    is_of_node = failure in (Failure.CONNECT, Failure.OVERLOADED, Failure.AUTH)

    assert bool(one.until("n", "other", START)) is is_of_node
    assert one.until("another", "m", START) == 0.0
    assert set(one.snapshot(START)) == {("n", ANY if is_of_node else "m")}


def test_errors_of_several_models_in_a_row_are_the_nodes() -> None:
    one = some()
    for model in "abcd":
        fail(one, Failure.SERVER, 1, model=model)
    before = one.until("n", "z", START)
    fail(one, Failure.SERVER, 1, model="e")

    assert (before, one.until("n", "z", START)) == (0.0, START + RULES.base_s)


def test_a_success_between_failures_starts_the_count_anew_and_kinds_are_counted_apart() -> None:
    one = some()
    for _ in range(5):
        fail(one, Failure.CONNECT, 2)
        fail(one, Failure.SERVER, 2)
        one.succeeded("n", "m", START)

    assert one.until("n", "m", START) == 0.0
    assert one._entries == {}


# ---- how long ----


def lengths(one: Cooldowns, failure: Failure, times: int) -> list[float]:
    """Fail, wait, fail the trial, and so on."""
    now, found = START, []
    while not one.until("n", "m", now):
        one.failed("n", "m", failure, now)
    for _ in range(times):
        found.append(one.until("n", "m", now) - now)
        now = one.until("n", "m", now)
        trials = one.begin_trial("n", "m", now)
        one.failed("n", "m", failure, now, trials=trials)
    return found


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure.CONNECT, [5, 10, 20, 40, 80, 160, 300, 300]),
        (Failure.SERVER, [5, 10, 20, 40, 80, 160, 300, 300]),
        (Failure.AUTH, [60, 120, 240, 300, 300, 300, 300, 300]),
        (Failure.OVERLOADED, [2, 4, 8, 16, 30, 30, 30, 30]),
    ],
)
def test_each_time_is_twice_as_long_up_to_a_bound(failure: Failure, expected: list[float]) -> None:
    assert lengths(some(), failure, 8) == pytest.approx(expected)


def test_jitter_shortens_our_own_times_a_little_and_always_the_same() -> None:
    plain, mixed = lengths(some(), Failure.CONNECT, 8), lengths(some(CooldownRules()), Failure.CONNECT, 8)

    assert mixed == lengths(some(CooldownRules()), Failure.CONNECT, 8)
    assert all(0.9 * ours <= shorter <= ours + 1e-6 for ours, shorter in zip(plain, mixed, strict=True))
    assert len({round(shorter / ours, 4) for ours, shorter in zip(plain, mixed, strict=True)}) > 4


def cooled_and_back(one: Cooldowns, now: float) -> float:
    fail(one, Failure.CONNECT, 3, now)
    now = one.until("n", "m", now)
    for trial in one.begin_trial("n", "m", now):
        one.end_trial(trial, now, ok=True)
    return now


def test_good_answers_and_quiet_times_take_the_ladder_back_step_by_step() -> None:
    one, now = some(), START
    for _ in range(3):
        now = cooled_and_back(one, now)
    for _ in range(50):  # a burst is one step
        one.succeeded("n", "m", now + RULES.base_s)
    after_burst, after_quiet = copy.deepcopy(one), copy.deepcopy(one)
    fail(after_burst, Failure.CONNECT, 3, now + RULES.base_s)
    fail(after_quiet, Failure.CONNECT, 3, now + RULES.base_s + 2 * RULES.quiet_s)

    assert after_burst.until("n", "m", now) == now + RULES.base_s + 20
    assert after_quiet.until("n", "m", now) == now + RULES.base_s + 2 * RULES.quiet_s + 5


def test_a_time_that_a_node_names_is_kept_and_only_ever_lengthened() -> None:
    one = some()
    one.failed("n", "m", Failure.LIMITED, START, retry_after_s=40.0)
    named = one.until("n", "m", START)
    one.failed("n", "m", Failure.LIMITED, START + 1, retry_after_s=2.0)
    one.failed("n", "m", Failure.OUT_OF_MEMORY, START + 1)
    shorter = one.until("n", "m", START)
    one.recovered("n", START + 2)
    recovered = one.until("n", "m", START + 2)
    one.failed("n", "m", Failure.LIMITED, START + 3, retry_after_s=100.0)

    assert named == shorter == recovered == START + 40
    assert one.until("n", "m", START) == START + 103


def test_a_named_time_has_a_bound() -> None:
    one = some()
    one.failed("n", "m", Failure.LIMITED, START, retry_after_s=float("inf"))

    assert one.until("n", "m", START) == START + RULES.said_s_max


def test_a_node_seen_to_be_well_may_be_tried_earlier_but_for_what_a_look_cannot_tell() -> None:
    one = some()
    fail(one, Failure.CONNECT, 3)
    fail(one, Failure.OUT_OF_MEMORY, 1, model="large")
    one.recovered("n", START + 1)
    one.recovered("another", START + 1)

    assert one.until("n", "m", START + 1) == 0.0
    assert one.until("n", "large", START + 1) == START + 5
    assert one.is_trial("n", "m")


def test_a_node_that_can_be_reached_is_not_left_alone_because_it_could_not() -> None:
    one, silent = some(), some()
    fail(one, Failure.CONNECT, 3)
    fail(silent, Failure.STALLED, 2)
    for each in (one, silent):
        each.connected("n", START + 1)

    assert one.until("n", "m", START + 1) == 0.0
    assert one.is_trial("n", "m")
    assert silent.until("n", "m", START + 1) == START + 5


def test_a_node_that_is_gone_is_forgotten() -> None:
    one = some()
    fail(one, Failure.CONNECT, 3)
    one.failed("another", "m", Failure.AUTH, START)
    one.forget("n")

    assert set(one.snapshot(START)) == {("another", ANY)}
    assert one.snapshot(START + 60) == {}


# ---- trials ----


def test_one_attempt_at_a_time_finds_out() -> None:
    one = some()
    fail(one, Failure.CONNECT, 3)
    early = one.begin_trial("n", "m", START + 4)
    first = one.begin_trial("n", "m", START + 5)
    second = one.begin_trial("n", "other", START + 6)
    meanwhile = one.may_try("n", "other", START + 6)
    replaced = one.begin_trial("n", "m", START + 5 + RULES.trial_s)

    assert (early, len(first), second, meanwhile, len(replaced)) == ((), 1, (), False, 1)


def test_a_trial_whose_caller_left_lets_another_begin_at_once() -> None:
    one = some()
    fail(one, Failure.CONNECT, 3)
    (trial,) = one.begin_trial("n", "m", START + 5)
    one.end_trial(trial, START + 6, ok=None)

    assert one.may_try("n", "m", START + 6)
    assert len(one.begin_trial("n", "m", START + 6)) == 1


def test_a_trial_of_a_node_that_finds_a_model_missing_leaves_the_node_to_the_next() -> None:
    one = some()
    fail(one, Failure.CONNECT, 3)
    trials = one.begin_trial("n", "m", START + 5)
    one.failed("n", "m", Failure.MODEL_MISSING, START + 5, trials=trials)
    one.end_trial(trials[0], START + 5, ok=False)

    assert one.until("n", "m", START + 5) > START + 5
    assert one.may_try("n", "other", START + 5)


def test_a_trial_that_fails_in_another_way_cools_down_what_it_was_for() -> None:
    one = some()
    fail(one, Failure.CONNECT, 3)
    trials = one.begin_trial("n", "m", START + 5)
    one.failed("n", "m", Failure.STALLED, START + 35, trials=trials)

    assert one.until("n", "other", START + 35) == START + 45


def test_a_verdict_that_comes_late_changes_nothing() -> None:
    one = some()
    fail(one, Failure.CONNECT, 3)
    (late,) = one.begin_trial("n", "m", START + 5)
    one.begin_trial("n", "m", START + 5 + RULES.trial_s)
    before = copy.deepcopy(one)
    one.end_trial(late, START + 340, ok=True)
    one.failed("n", "m", Failure.CONNECT, START + 340, trials=(late,))
    one.succeeded("n", "m", START + 340)
    one.end_trial(Trial(("gone", ANY), 1), START + 340, ok=True)

    assert one == before


# ---- the cap ----


@pytest.mark.parametrize("size", range(1, 7))
def test_cooling_down_takes_at_most_half_of_several_out(size: int) -> None:
    group = [(f"n{number}", f"m@n{number}") for number in range(size)]
    for out_count in range(size):
        for cooling_count in range(size - out_count + 1):
            one = some()
            for place, (node, model) in enumerate(group[:cooling_count]):
                for _ in range(3):
                    one.failed(node, model, Failure.CONNECT, START + place)
            out = group[cooling_count : cooling_count + out_count]
            spared = one.spared(group, out, START + 1)
            held = cooling_count - len(spared)

            assert size == 1 or held == 0 or held + out_count <= size // 2
            assert spared <= {model for _node, model in group[:cooling_count]}
            assert not spared or cooling_count + out_count > size // 2
            assert size > 1 or not spared


@pytest.mark.parametrize("failure", AT_ONCE)
def test_nobody_is_spared_who_named_its_time_or_cannot_serve(failure: Failure) -> None:
    one, group = some(), [("a", "m"), ("b", "m2")]
    for node, model in group:
        one.failed(node, model, failure, START)

    assert one.spared(group, [], START) == frozenset()


# ---- every state that can be reached ----


@dataclass
class World:
    """One node with two models, and the attempts that are under way."""

    one: Cooldowns
    now: float
    trials: tuple[tuple[Trial, ...], ...] = ()  # of attempts that were not told to be over


FAILURES = (Failure.CONNECT, Failure.SERVER, Failure.STALLED, Failure.AUTH, Failure.MODEL_MISSING)
PAUSES_S = (0.0, 6.0, 700.0)


def moves(world: World) -> Iterator[tuple[str, World]]:
    for pause_s in PAUSES_S:
        now = world.now + pause_s
        for model in "ab":
            for failure in FAILURES:
                new = World(copy.deepcopy(world.one), now, world.trials)
                new.one.failed("n", model, failure, now)
                yield f"{failure} of an older attempt", new
            for said_s in (2.0, 500.0):
                new = World(copy.deepcopy(world.one), now, world.trials)
                new.one.failed("n", model, Failure.LIMITED, now, retry_after_s=said_s)
                yield f"limited for {said_s}", new
            new = World(copy.deepcopy(world.one), now, world.trials)
            new.one.succeeded("n", model, now)
            yield "succeeded", new
            new = World(copy.deepcopy(world.one), now, world.trials)
            begun = new.one.begin_trial("n", model, now)
            new.trials = (*new.trials, begun)[-2:] if begun else new.trials
            yield "begun", new
        for place, trials in enumerate(world.trials):
            others = world.trials[:place] + world.trials[place + 1 :]
            for verdict in (True, None, Failure.CONNECT, Failure.STALLED, Failure.MODEL_MISSING):
                new = World(copy.deepcopy(world.one), now, others)
                is_failure = isinstance(verdict, Failure)
                if isinstance(verdict, Failure):
                    new.one.failed("n", "a", verdict, now, trials=trials)
                for trial in trials:
                    new.one.end_trial(trial, now, ok=False if is_failure else verdict is True or None)
                yield f"verdict {verdict}", new


def shape(world: World) -> tuple[object, ...]:
    def left(at: float) -> int:
        return sum(at - world.now > bound for bound in (0.0, 5.0, 60.0, 310.0))

    return (
        tuple(
            (key, min(entry.local_count, 3), min(entry.upstream_count, 5), len(entry.models), min(entry.steps, 4),
             left(entry.until), left(entry.said_until), entry.is_closed, entry.reason,
             bool(entry.trial) + (world.now - entry.trial_at >= RULES.trial_s))
            for key, entry in sorted(world.one._entries.items())
        ),
        tuple(tuple(world.one._is_valid(trial) for trial in trials) for trials in world.trials),
    )  # fmt: skip


def has_way_back(world: World) -> bool:
    """Whether a node that is well from now on serves both models again, one attempt after the other."""
    one, now = copy.deepcopy(world.one), world.now
    for model in "ab":
        now = max(now, one.until("n", model, now))
        if not one.may_try("n", model, now):
            now += RULES.trial_s  # one that hangs is waited for
        if not one.may_try("n", model, now):
            return False
        trials = one.begin_trial("n", model, now)
        one.succeeded("n", model, now)
        for trial in trials:
            one.end_trial(trial, now, ok=True)
        if one.until("n", model, now) or one.is_trial("n", model) or now - world.now > LONGEST_S:
            return False
    return True


def faults(rules_of: type[Cooldowns], states_max: int = STATES_MAX) -> Iterator[str]:
    first = World(rules_of(RULES), START)
    seen, queue = {shape(first)}, deque([first])
    while queue and len(seen) < states_max:
        world = queue.popleft()
        for name, new in moves(world):
            if (found := shape(new)) in seen:
                continue
            seen.add(found)
            queue.append(new)
            if not has_way_back(new):
                yield f"no way back after {name}: {new.one._entries}"
            for model in "ab":
                before, after = world.one.until("n", model, new.now), new.one.until("n", model, new.now)
                if after < before and not name.startswith("verdict True"):
                    yield f"{name} shortened {before} to {after}"
                is_kept_out = not new.one.begin_trial("n", model, new.now) and new.one.may_try("n", model, new.now)
                if is_kept_out and new.one.is_trial("n", model):
                    yield f"{name}: a trial may begin and does not"
                if new.one.is_trial("n", model) and new.one.begin_trial("n", model, new.now):
                    yield f"{name}: two trials at a time"
    tell(f"{rules_of.__name__}: {len(seen)} states")
    assert len(seen) >= min(states_max, 5_000), "too few states: the moves are too weak"


def test_every_state_has_a_way_back_one_trial_at_a_time_and_no_shorter_time() -> None:
    assert list(faults(Cooldowns)) == []


class OneWay(Cooldowns):
    """A trial that ends without a verdict stays out for ever."""

    def may_try(self, node: str, model: str, now: float) -> bool:
        return all(entry.until <= now and not entry.trial for entry in self._open(node, model))


class Shortened(Cooldowns):
    """The newest time stands."""

    def failed(
        self,
        node: str,
        model: str,
        failure: Failure,
        now: float,
        *,
        retry_after_s: float | None = None,
        trials: tuple[Trial, ...] = (),
    ) -> None:
        super().failed(node, model, failure, now, retry_after_s=retry_after_s, trials=trials)
        if retry_after_s is not None:
            self._entries[(node, model)].until = now + retry_after_s


class BlocksItsOwnTrial(Cooldowns):
    """Whoever should find out is kept out like all others."""

    def begin_trial(self, node: str, model: str, now: float) -> tuple[Trial, ...]:
        return () if self.is_trial(node, model) else super().begin_trial(node, model, now)


class ManyTrials(Cooldowns):
    """A trial that is out does not count."""

    def begin_trial(self, node: str, model: str, now: float) -> tuple[Trial, ...]:
        for entry in self._open(node, model):
            entry.trial = 0
        return super().begin_trial(node, model, now)


@pytest.mark.parametrize("mutant", [OneWay, Shortened, BlocksItsOwnTrial, ManyTrials])
def test_the_check_finds_a_planted_bug(mutant: type[Cooldowns]) -> None:
    assert next(faults(mutant), None) is not None


# ---- against a small reference ----


class Reference(RuleBasedStateMachine):
    """Connect errors of one node, told in ten lines: counts, a ladder, one trial."""

    @initialize()
    def begin(self) -> None:
        self.one, self.now = some(CooldownRules(jitter=0.0, quiet_s=1e9, trial_s=1e9)), START
        self.fails, self.steps, self.until, self.is_open = 0, 0, 0.0, False
        self.trials: tuple[Trial, ...] = ()

    @rule(pause_s=st.sampled_from([0.5, 3.0, 7.0, 50.0]))
    def wait(self, pause_s: float) -> None:
        self.now += pause_s

    def cool(self) -> None:
        self.until = self.now + min(RULES.base_s * 2**self.steps, RULES.longest_s)
        self.steps, self.is_open, self.fails = self.steps + 1, True, 0

    @rule()
    def an_older_attempt_fails(self) -> None:
        self.one.failed("n", "m", Failure.CONNECT, self.now)
        if not self.is_open:
            self.fails += 1
            if self.fails == RULES.connect_count:
                self.cool()

    @rule()
    def a_trial_begins(self) -> None:
        begun = self.one.begin_trial("n", "m", self.now)
        assert bool(begun) == (self.is_open and self.now >= self.until and not self.trials)
        self.trials = self.trials or begun

    @rule(ok=st.sampled_from([True, False, None]))
    def a_trial_ends(self, ok: bool | None) -> None:
        if not self.trials:
            return
        if ok is False:
            self.one.failed("n", "m", Failure.CONNECT, self.now, trials=self.trials)
            self.cool()
        for trial in self.trials:
            self.one.end_trial(trial, self.now, ok=ok)
        self.is_open = self.is_open and ok is not True
        self.trials = ()

    @invariant()
    def they_agree(self) -> None:
        expected = self.until if self.is_open and self.until > self.now else 0.0
        assert self.one.until("n", "m", self.now) == expected
        assert self.one.is_trial("n", "m") == self.is_open


Reference.TestCase.settings = settings(
    max_examples=count(60, 2000), stateful_step_count=40, deadline=None, derandomize=True
)
TestReference = Reference.TestCase

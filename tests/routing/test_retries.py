"""Second attempts are a part of all requests, and a few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.routing.retries import BALANCE_MAX, QUIET_S, RetryBudget


def taken(budget: RetryBudget, now: float, wanted: int) -> int:
    return sum(budget.take(now) for _ in range(wanted))


def test_a_few_are_always_there() -> None:
    assert taken(RetryBudget(), 0.0, 10) == 3


@pytest.mark.parametrize(("ratio", "floor"), [(0.2, 3), (0.5, 0), (0.0, 2)])
def test_while_everything_fails_they_stay_a_part_of_the_requests(ratio: float, floor: int) -> None:
    budget, extra = RetryBudget(ratio, floor), 0

    for number in range(12_000):  # a minute at 200 a second, each of which would like two
        budget.requested(number / 200)
        extra += taken(budget, number / 200, 2)

    assert ratio * 12_000 - 2 <= extra <= ratio * 12_000 + floor


@given(st.lists(st.tuples(st.floats(0, QUIET_S), st.integers(0, 4)), max_size=200), st.floats(0, 1), st.integers(0, 10))
def test_whatever_comes_and_goes_they_stay_within_it(steps: list[tuple[float, int]], ratio: float, floor: int) -> None:
    budget, now, extra = RetryBudget(ratio, floor), 0.0, 0

    for pause_s, wanted in steps:
        now += pause_s
        budget.requested(now)
        extra += taken(budget, now, wanted)

        assert extra <= ratio * len(steps) + floor + 1e-6


def test_a_good_time_saves_up_for_a_bad_one_and_not_without_end() -> None:
    budget = RetryBudget()
    for number in range(100_000):
        budget.requested(number / 200)

    assert taken(budget, 500.0, 1000) == BALANCE_MAX


def test_a_server_nobody_asks_gets_back_the_few_and_no_more() -> None:
    budget = RetryBudget()
    taken(budget, 0.0, 3)

    assert taken(budget, 5.0, 9) == 0
    assert taken(budget, 3600.0, 9) == 3


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    budget = RetryBudget()
    taken(budget, 100.0, 3)

    assert taken(budget, 100.0, 1) == taken(budget, 50.0, 1) == 0

"""Limits: exact, fair between callers, bounded in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.errors import RateLimited
from modelyard.gateway.keys import Caller
from modelyard.gateway.limits import Limits, RateMeter

from .manual_clock import ManualClock

A, B = Caller("a"), Caller("b")


def test_a_caller_gets_its_requests_and_then_waits_for_the_next_one() -> None:
    clock = ManualClock()
    limits = Limits(clock, requests_max=3, window_s=60)

    left = [state.remaining for state in (limits.admit(A), limits.admit(A), limits.admit(A)) if state]
    with pytest.raises(RateLimited) as refusal:
        limits.admit(A)

    assert left == [2, 1, 0]
    assert refusal.value.retry_after_s == pytest.approx(20)
    assert refusal.value.fields["reset_s"] == pytest.approx(60)
    clock.now += 20
    assert limits.admit(A) is not None
    with pytest.raises(RateLimited):
        limits.admit(A)


def test_refused_requests_cost_nothing() -> None:
    clock = ManualClock()
    limits = Limits(clock, requests_max=1, window_s=10)
    limits.admit(A)
    for _ in range(100):
        with pytest.raises(RateLimited):
            limits.admit(A)

    clock.now += 10

    assert limits.admit(A) is not None


def test_one_caller_does_not_use_up_anothers_rate() -> None:
    limits = Limits(ManualClock(), requests_max=1, window_s=10)
    limits.admit(A)

    assert limits.admit(B) is not None


def test_without_a_limit_nothing_is_counted() -> None:
    limits = Limits(ManualClock())

    assert all(limits.admit(A) is None for _ in range(1000))


@given(st.lists(st.floats(0, 5), max_size=200), st.integers(1, 10))
def test_no_window_ever_holds_more_than_twice_the_limit_and_the_long_run_keeps_it(
    pauses: list[float], requests_max: int
) -> None:
    clock = ManualClock()
    meter = RateMeter(clock, requests_max, 10.0)
    admitted: list[float] = []
    waits: list[float | None] = []
    for pause in pauses:
        clock.now += pause
        try:
            meter.charge("a")
        except RateLimited as refusal:
            waits.append(refusal.retry_after_s)
        else:
            admitted.append(clock.now)

    assert all(wait is not None and 0 < wait <= 10.0 + 1e-6 for wait in waits)  # floats round
    for start in admitted:
        inside = sum(start <= at < start + 10.0 for at in admitted)
        assert inside <= 2 * requests_max
    if admitted:
        assert len(admitted) <= requests_max + (admitted[-1] - admitted[0]) * requests_max / 10.0 + 1e-6


def test_the_table_is_bounded_and_newcomers_share_when_it_is_full() -> None:
    clock = ManualClock()
    meter = RateMeter(clock, 2, 10.0, callers_max=100)
    for n in range(100):
        meter.charge(str(n))
    meter.charge("newcomer-1")
    meter.charge("newcomer-2")
    with pytest.raises(RateLimited):
        meter.charge("newcomer-3")
    meter.charge("5")  # those who were there keep their own

    clock.now += 100
    meter.charge("later")

    assert len(meter._full_again_at) <= 101


def test_at_most_so_many_requests_run_at_once_and_every_end_gives_back() -> None:
    limits = Limits(ManualClock(), concurrent_max=2)
    with limits.slot(A), limits.slot(A):
        with pytest.raises(RateLimited), limits.slot(A):
            pass
        with limits.slot(B):
            assert limits.running_count(A) == 2

    with pytest.raises(KeyError), limits.slot(A):
        raise KeyError

    assert limits.running_count(A) == limits.running_count(B) == 0
    assert not limits._running


def test_wrong_keys_count_against_an_ipv6_network_not_an_address() -> None:
    limits = Limits(ManualClock(), failed_logins_max=3)
    for n in range(3):
        limits.count_failed_login(f"2001:db8::{n}")

    with pytest.raises(RateLimited):
        limits.count_failed_login("2001:db8::ffff")
    limits.count_failed_login("2001:db8:0:1::1")
    limits.count_failed_login("192.0.2.1")
    limits.count_failed_login("unknown:address")

"""Who is in memory and who may use it: each decision as a small story."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modelyard.errors import (
    InsufficientMemory,
    LoadFailed,
    ModelUnloaded,
    QueueFull,
    QueueTimeout,
    ShuttingDown,
    WorkerCrashed,
)
from modelyard.residency.messages import LimitsChanged, Loaded, Unloaded, WorkerDied
from modelyard.residency.state import ResidencyLimits
from modelyard.types.memory import Footprint
from tests.residency.stage import FOREVER, Stage, spec

A, B, C = spec("a", 6), spec("b", 6), spec("c", 3)


def test_two_requests_share_one_load() -> None:
    stage = Stage()

    assert stage.ask(1, A).loads == ["a"]
    assert stage.ask(2, A).loads == []
    assert stage.loaded("a", slots=2).granted == [1, 2]


def test_a_request_for_a_resident_is_granted_at_once() -> None:
    stage = Stage().resident(A)

    assert stage.ask(1, A).granted == [1]
    assert stage.state("a") == "resident"


def test_slots_are_leases() -> None:
    stage = Stage().resident(A, slots=2)

    stage.ask(1, A).ask(2, A)

    assert stage.ask(3, A).granted == []
    assert stage.release(1).granted == [3]


def test_callers_take_turns_within_a_line() -> None:
    stage = Stage().resident(A).ask(0, A)
    for number in range(1, 5):
        stage.ask(number, A, caller="greedy")
    stage.ask(9, A, caller="modest")

    order: list[int] = []
    held = 0
    while len(order) < 5:
        held = stage.release(held).granted[0]
        order.append(held)

    assert order == [1, 9, 2, 3, 4]


def test_an_idle_model_leaves_for_another_and_memory_is_back_before_the_load() -> None:
    stage = Stage().resident(A)

    assert stage.ask(1, B).unloads == [("a", "eviction")]
    assert stage.loads == []
    assert stage.unloaded("a").loads == ["b"]


def test_both_stay_when_both_fit() -> None:
    stage = Stage().resident(A)

    assert stage.ask(1, C).loads == ["c"]
    assert stage.unloads == []


def test_the_cheapest_to_bring_back_leaves() -> None:
    stage = Stage().resident(spec("slow", 5), load_s=4.0)
    stage.resident(spec("fast", 5), load_s=0.5)
    stage.at(100.0)

    assert stage.ask(1, A).unloads == [("fast", "eviction"), ("slow", "eviction")]
    other = Stage().resident(spec("slow", 5), load_s=4.0)
    other.resident(spec("fast", 5), load_s=0.5).at(100.0)
    assert other.ask(1, spec("small", 4)).unloads == [("fast", "eviction")]


def test_a_busy_model_is_not_evicted_until_the_other_has_waited_long_enough() -> None:
    stage = Stage(drain_after_s=10.0).resident(A).ask(1, A)

    assert stage.ask(2, B).unloads == []
    assert stage.wake_at == [10.0]
    assert stage.at(10.0).state("a") == "draining"
    assert stage.ask(3, A).granted == []
    assert stage.release(1).unloads == [("a", "eviction")]
    assert stage.unloaded("a").loads == ["b"]
    assert stage.loaded("b").granted == [2]


def test_nobody_is_overtaken_more_than_eight_times() -> None:
    stage = Stage(drain_after_s=FOREVER).resident(A, slots=2).ask(0, A)
    stage.ask(99, B)
    granted = 0
    for number in range(1, 20):
        granted += len(stage.ask(number, A).granted)
        stage.release(number)

    assert granted == 8
    assert stage.state("a") == "draining"
    assert stage.release(0).unloads == [("a", "eviction")]


def test_a_draining_model_still_serves_who_came_before() -> None:
    stage = Stage(drain_after_s=10.0).resident(A).ask(1, A)
    stage.ask(2, A).ask(3, B).at(10.0)

    assert stage.state("a") == "draining"
    assert stage.release(1).granted == [2]
    assert stage.release(2).unloads == [("a", "eviction")]


def test_a_draining_model_is_spared_when_nobody_needs_its_memory_any_more() -> None:
    stage = Stage(drain_after_s=10.0).resident(A).ask(1, A).ask(2, B).at(10.0).ask(3, A).release(1)
    assert stage.unloads == [("a", "eviction")], "nobody older waits for it"

    stage = Stage(drain_after_s=10.0).resident(A, slots=2).ask(1, A).ask(2, B).at(10.0).ask(3, A)
    assert stage.cancel(2).granted == [3]
    assert stage.state("a") == "resident"


def test_a_pinned_model_is_not_evicted_and_the_refusal_says_so() -> None:
    stage = Stage().resident(A).pin("a")

    assert stage.ask(1, B).refused == [1]
    assert isinstance(stage.error, InsufficientMemory)
    assert not stage.error.never_fits
    assert "pinned" in stage.error.suggestions[0]
    assert stage.pin("a", pinned=False).ask(2, B).unloads == [("a", "eviction")]


def test_what_can_never_fit_is_refused_at_once_with_numbers() -> None:
    stage = Stage()

    assert stage.ask(1, spec("huge", 11)).refused == [1]
    assert isinstance(stage.error, InsufficientMemory)
    assert stage.error.never_fits
    assert "11 B" in str(stage.error)
    assert stage.error.retry_after_s is None


def test_what_no_longer_fits_at_all_is_refused_while_it_waits() -> None:
    stage = Stage().resident(A).ask(1, A).ask(2, B)

    assert stage.read(used=6, total=5, a=6).refused == [2]


def test_memory_held_by_others_is_waited_for_a_while() -> None:
    stage = Stage(memory_wait_s=30.0).read(used=7)

    assert stage.ask(1, A).refused == []
    stage.now = 5.0
    assert stage.ask(2, A).refused == []
    assert stage.at(30.0).refused == [1]
    assert "Other programs hold 7 B" in stage.error.suggestions[0]
    assert stage.wake_at == [35.0]
    assert stage.read(used=4).loads == ["a"]


def test_the_band_of_a_prediction_is_reserved_until_it_is_measured() -> None:
    unsure = replace(A, footprint=Footprint({"gpu0": 6}, band_ratio=0.5))
    stage = Stage().ask(1, unsure)

    assert stage.ask(2, spec("d", 2)).loads == []
    assert stage.loaded("a").loads == ["d"]


def test_growth_of_a_worker_evicts_an_idle_one_and_stops_loads() -> None:
    stage = Stage().resident(A).resident(C).ask(1, A)

    assert stage.read(used=11, a=8, c=3).unloads == [("c", "eviction")]
    assert stage.unloaded("c").read(used=8, a=8).ask(2, C).loads == []
    assert stage.read(used=6, a=6).loads == ["c"]


def test_growth_of_others_evicts_who_is_idle_as_soon_as_it_is() -> None:
    stage = Stage().resident(A).ask(1, A).read(used=13, a=6)

    assert stage.unloads == []
    assert stage.release(1).unloads == [("a", "eviction")]


def test_a_newcomer_stays_a_while_before_it_is_evicted() -> None:
    stage = Stage(residence_load_ratio=0.5, residence_s_max=5.0).resident(A, load_s=4.0)

    assert stage.ask(1, B).unloads == []
    assert stage.wake_at == [2.0]
    assert stage.at(2.0).unloads == [("a", "eviction")]


def test_a_model_with_new_options_replaces_the_old_one_when_that_is_idle() -> None:
    stage = Stage().resident(A)
    new = replace(A, identity="a2")

    assert stage.ask(1, new).unloads == [("a", "change")]
    assert stage.unloaded("a").loads == ["a"]
    assert stage.loaded("a").granted == [1]


def test_a_busy_model_with_old_options_finishes_what_it_has() -> None:
    stage = Stage().resident(A, slots=2).ask(1, A)
    stage.ask(2, replace(A, identity="a2"))

    assert stage.state("a") == "draining"
    assert stage.ask(3, A).granted == []
    assert stage.release(1).unloads == [("a", "change")]


def test_all_waiters_of_a_failed_load_get_the_cause_and_newcomers_during_backoff_too() -> None:
    stage = Stage().ask(1, A).ask(2, A)

    assert stage.load_broke("a").refused == [1, 2]
    assert isinstance(stage.error, LoadFailed)
    assert stage.state("a") == "absent"
    stage.now = 4.0
    assert stage.ask(3, A).refused == [3]
    assert stage.error.retry_after_s == pytest.approx(6.0)
    stage.now = 10.0
    assert stage.ask(4, A).loads == ["a"]


def test_backoff_doubles_up_to_its_limit_and_a_success_resets_it() -> None:
    stage = Stage(backoff_s=10.0, backoff_s_max=25.0, crash_count_max=99)
    waits = []
    for _ in range(4):
        stage.ask(1, A).load_broke("a").ask(2, A)
        waits.append(stage.error.retry_after_s)
        stage.now += waits[-1] or 0
    stage.resident(A).unload("a").unloaded("a").ask(1, A).load_broke("a").ask(2, A)

    assert waits == [10, 20, 25, 25]
    assert stage.error.retry_after_s == 10


def test_an_operator_may_try_a_failed_model_at_once() -> None:
    stage = Stage().ask(1, A).load_broke("a")

    assert stage.ask_load(2, A).loads == ["a"]
    assert stage.loaded("a").granted == [2]
    assert stage.scheduler.failures.reasons() == {}
    assert stage.ask(3, A).granted == [3], "an operator's load takes no slot"


def test_a_crash_is_followed_by_exactly_one_reload() -> None:
    stage = Stage().resident(A).ask(1, A).ask(2, A)

    assert stage.died("a").unloads == [("a", "crash")]
    assert stage.ask(3, A).loads == []
    assert stage.unloaded("a").loads == ["a"]
    assert stage.release(1).last == [], "the lease went with its worker"
    assert stage.loaded("a").granted == [2]


def test_a_crash_loop_ends() -> None:
    stage = Stage(crash_count_max=3, crash_window_s=600.0)
    for number in range(3):
        stage.now += 1.0
        stage.ask(number, A).loaded("a").ask(number + 10, A).died("a")
        if number < 2:
            stage.unloaded("a").loaded("a").release(number + 10).unload("a").unloaded("a")

    assert stage.refused == [12]
    assert isinstance(stage.error, LoadFailed)
    assert "signal 9" in str(stage.error)
    assert stage.unloaded("a").ask(30, A).refused == [30]
    assert stage.error.retry_after_s == pytest.approx(598.0)
    assert list(stage.scheduler.failures.reasons()) == ["a"]


def test_what_is_said_of_an_old_epoch_changes_nothing() -> None:
    stage = Stage().resident(A)
    old = stage.epoch("a")
    stage.unload("a").unloaded("a").resident(A).ask(1, A)

    crash = WorkerCrashed(model="a", exit="late")

    assert stage.feed(WorkerDied(0, "a", old, crash)) == []
    assert stage.feed(Unloaded(0, "a", old)) == []
    assert stage.feed(Unloaded(0, "a", stage.epoch("a"))) == [], "nobody asked it to leave"
    assert stage.feed(Loaded(0, "a", stage.epoch("a"), 9, {}, {}, 0)) == [], "it is loaded already"
    assert stage.state("a") == "resident"


def test_a_load_that_nobody_waits_for_is_given_up_early_and_finished_late() -> None:
    slow = replace(A, load_s_expected=10.0)
    stage = Stage(abandon_load_ratio=0.5)

    stage.ask(1, slow).now = 4.0
    assert stage.cancel(1).unloads == [("a", "abandoned")]
    stage.unloaded("a").ask(2, slow).now = 9.5
    assert stage.cancel(2).unloads == []
    assert stage.loaded("a").state("a") == "resident"


def test_a_load_outlives_who_began_it_if_others_wait() -> None:
    stage = Stage().ask(1, A).ask(2, A).cancel(1)

    assert stage.unloads == []
    assert stage.loaded("a").granted == [2]


def test_a_load_that_fails_while_it_is_given_up_is_simply_gone() -> None:
    stage = Stage().ask(1, A).cancel(1).ask(2, A)

    assert stage.load_broke("a").loads == ["a"]
    assert stage.refused == []


def test_a_cancelled_ticket_gives_its_lease_back_once() -> None:
    stage = Stage().resident(A).ask(1, A).ask(2, A)

    assert stage.cancel(1).granted == [2]
    assert stage.release(1).last == []
    assert stage.cancel(77).last == []


def test_an_idle_model_expires_and_its_time_counts_from_its_last_lease() -> None:
    stage = Stage(idle_ttl_s=300.0).resident(A).ask(1, A)
    stage.now = 250.0
    stage.release(1)

    assert stage.at(300.0).unloads == []
    assert stage.at(550.0).unloads == [("a", "expiry")]
    assert "model.expired" in stage.told


@pytest.mark.parametrize(("keep_alive_s", "leaves_at"), [(0.0, 0.0), (5.0, 5.0), (-1.0, None)])
def test_a_request_may_say_how_long_its_model_stays(keep_alive_s: float, leaves_at: float | None) -> None:
    stage = Stage(idle_ttl_s=300.0).ask(1, A, keep_alive_s=keep_alive_s).loaded("a").release(1)
    if leaves_at == 0.0:
        assert stage.unloads == [("a", "expiry")]
        return
    stage.at(leaves_at or 1e6)

    assert stage.unloads == ([("a", "expiry")] if leaves_at else [])


def test_a_model_may_have_its_own_idle_time_and_pinned_ones_never_expire() -> None:
    assert Stage().resident(replace(A, idle_ttl_s=7.0)).at(7.0).unloads == [("a", "expiry")]
    assert Stage().resident(replace(A, pinned=True)).at(1e6).unloads == []


def test_idle_times_may_change_while_models_are_in_memory() -> None:
    told, own, plain = spec("told", 3), spec("own", 3, idle_ttl_s=50.0), spec("plain", 3)
    stage = Stage(idle_ttl_s=300.0, expires=False).resident(own).resident(plain)
    stage.resident(told).ask(1, told, keep_alive_s=900.0).release(1).at(1000.0)
    assert stage.unloads == [("told", "expiry")]  # only what a request said

    stage.feed(LimitsChanged(stage.now, ResidencyLimits(headroom_bytes=0, idle_ttl_s=2000.0)))
    assert stage.unloads == [("own", "expiry")]

    stage.feed(LimitsChanged(stage.now, ResidencyLimits(headroom_bytes=0, idle_ttl_s=20.0)))
    assert stage.unloads == [("plain", "expiry")]


def test_a_models_own_idle_time_is_that_which_who_asked_last_knew() -> None:
    stage = Stage(idle_ttl_s=300.0).resident(replace(A, idle_ttl_s=50.0)).ask(1, replace(A, idle_ttl_s=500.0))

    assert stage.release(1).at(400.0).unloads == []
    assert stage.at(500.0).unloads == [("a", "expiry")]


def test_an_operator_unload_waits_for_leases_and_answers_who_waits() -> None:
    stage = Stage().resident(A).ask(1, A).ask(2, A)

    assert stage.unload("a").refused == [2]
    assert isinstance(stage.error, ModelUnloaded)
    assert stage.state("a") == "draining"
    assert stage.unload("a").told == []
    assert stage.release(1).unloads == [("a", "operator")]
    assert stage.unload("a", force=True).unloads == []
    assert stage.ask(3, A).loads == []
    assert stage.unloaded("a").loads == ["a"]


def test_a_forced_unload_breaks_leases() -> None:
    stage = Stage().resident(A).ask(1, A)

    assert stage.unload("a").unloads == []
    assert stage.unload("a", force=True).unloads == [("a", "operator")]
    assert stage.release(1).last == []
    assert stage.unloaded("a").state("a") == "absent"


def test_unloading_what_loads_ends_the_load_and_what_is_absent_does_nothing() -> None:
    assert Stage().ask(1, A).unload("a").unloads == [("a", "operator")]
    assert Stage().unload("a").last == []


def test_an_operator_may_pin_while_loading() -> None:
    stage = Stage().ask_load(1, A, pinned=True).loaded("a")

    assert stage.at(1e6).unloads == []


def test_deadlines_are_kept_in_the_queue() -> None:
    stage = Stage().resident(A).ask(1, A)

    assert stage.ask(2, A, deadline=5.0).wake_at == [5.0]
    assert stage.at(5.0).refused == [2]
    assert isinstance(stage.error, QueueTimeout)
    assert stage.ask(3, A, deadline=5.0).refused == [3]


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    stage = Stage(queue_max=2).resident(A).ask(1, A).ask(2, A).ask(3, A)

    assert stage.ask(4, A).refused == [4]
    assert isinstance(stage.error, QueueFull)
    assert stage.error.retry_after_s
    assert 1 <= stage.error.retry_after_s <= 60


def test_in_a_full_queue_who_waits_most_makes_room() -> None:
    stage = Stage(queue_max=3).resident(A).ask(1, A).ask(2, A).ask(3, A).ask(4, A)

    assert stage.ask(5, A, caller="other").refused == [4]
    assert 5 in stage.scheduler.queue


def test_shutdown_refuses_who_waits_drains_who_works_and_ends_the_rest() -> None:
    stage = Stage().resident(A).ask(1, A).ask(2, A).ask(3, C)

    stage.shut_down()

    assert stage.refused == [2, 3]
    assert stage.unloads == [("c", "shutdown")]
    assert stage.ask(4, A).refused == [4]
    assert isinstance(stage.error, ShuttingDown)
    assert stage.ask_load(5, A).refused == [5]
    assert stage.release(1).unloads == [("a", "shutdown")]


def test_a_forced_shutdown_ends_everything() -> None:
    assert Stage().resident(A).ask(1, A).shut_down(force=True).unloads == [("a", "shutdown")]


def test_a_load_under_way_may_be_told_to_make_room_again() -> None:
    stage = Stage(drain_after_s=10.0).ask(1, A)
    stage.ask(2, spec("whole", 10)).at(10.0)
    stage.ask(3, A)

    assert stage.loaded("a", slots=2).granted == [1], "it came before; the third came after"
    assert stage.state("a") == "draining"
    assert stage.release(1).unloads == [("a", "eviction")]


def test_promised_memory_may_be_promised_on() -> None:
    stage = Stage(drain_after_s=10.0).resident(A).ask(1, A)
    stage.ask(2, B).ask(3, spec("whole", 10)).at(10.0)

    assert sorted(stage.scheduler.promised) == ["b", "whole"]
    stage.release(1).unloaded("a")
    assert stage.loads == ["b"]
    stage.loaded("b").release(2)
    assert stage.unloads == [("b", "eviction")]
    assert stage.unloaded("b").loads == ["whole"]


def test_time_does_not_run_backwards() -> None:
    stage = Stage(idle_ttl_s=10.0).resident(A).at(8.0)
    stage.now = 3.0

    stage.ask(1, A).release(1)

    assert stage.at(17.9).unloads == []
    assert stage.at(18.0).unloads == [("a", "expiry")]


def test_what_no_longer_waits_leaves_no_trace() -> None:
    stage = Stage().resident(A).ask(0, A).ask(1000, A, deadline=10.0)
    for number in range(1, 500):
        stage.ask(number, A, deadline=1e6).cancel(number)

    assert len(stage.scheduler.queue._deadlines) < 100

"""What waiting requests are told: place, reason, and how long it may take."""

from __future__ import annotations

from modelyard.residency.waiting import all_waiting, wait_status
from modelyard.types.status import WaitStatus

from .stage import Stage, spec

A, B = spec("a", 6, load_s_expected=8.0), spec("b", 6, load_s_expected=8.0)


def told(stage: Stage, number: int) -> WaitStatus:
    status = wait_status(stage.scheduler, number, stage.now)
    assert status is not None
    return status


def test_a_load_under_way_counts_down() -> None:
    stage = Stage().ask(1, A)
    stage.now = 3.0

    assert (told(stage, 1).reason, told(stage, 1).eta_s, told(stage, 1).waited_s) == ("loading", 5.0, 3.0)


def test_who_is_in_the_way_is_named() -> None:
    stage = Stage(drain_after_s=10).ask(1, B).loaded("b").ask(2, A)
    stage.now = 4.0

    busy = told(stage, 2)
    assert (busy.reason, busy.detail, busy.eta_s) == ("busy", "b", 6.0 + 8.0)
    stage.at(11)
    assert (told(stage, 2).reason, told(stage, 2).detail) == ("memory", "b")
    stage.release(1)
    assert (told(stage, 2).reason, told(stage, 2).detail, told(stage, 2).eta_s) == ("memory", "b", 8.0)


def test_places_are_counted_within_the_line() -> None:
    stage = Stage().ask(1, A).loaded("a").ask(2, A).ask(3, A)

    assert [(one.position, one.reason) for one in all_waiting(stage.scheduler, stage.now)] == [(1, "slot"), (2, "slot")]
    assert told(stage, 3).eta_s == 2 * stage.scheduler.grant_gap_s
    assert wait_status(stage.scheduler, 1, stage.now) is None


def test_other_programs_give_no_time() -> None:
    foreign = Stage().read(used=7).ask(1, A)

    assert (told(foreign, 1).reason, told(foreign, 1).detail, told(foreign, 1).eta_s) == ("foreign", "gpu0", None)

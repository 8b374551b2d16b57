"""Whether a model would fit: told before anybody asks for it."""

from __future__ import annotations

from modelyard.residency.outlook import Outlook, outlook
from modelyard.types.model import ModelSpec

from .stage import Stage, spec


def look(stage: Stage, wanted: ModelSpec) -> Outlook:
    scheduler = stage.scheduler
    pinned = frozenset(name for name, one in scheduler.records.items() if scheduler.is_pinned(one.spec))
    return outlook(wanted, scheduler.records, scheduler.books.ledgers, pinned, stage.now)


def test_on_an_empty_machine_it_fits_now_or_never() -> None:
    stage = Stage(total=10)

    assert look(stage, spec("a", 10)) == Outlook("now")
    assert look(stage, spec("a", 12)) == Outlook("never", device="gpu0", short_bytes=2)


def test_a_resident_is_there_already() -> None:
    stage = Stage().resident(spec("a", 6))

    assert look(stage, spec("a", 6)).fit == "resident"


def test_idle_models_leave_first_and_only_those_needed() -> None:
    stage = Stage(total=10).resident(spec("a", 3)).resident(spec("b", 4))

    assert look(stage, spec("c", 3)) == Outlook("now")
    assert look(stage, spec("c", 7)) == Outlook("after_evictions", ("b",))
    assert set(look(stage, spec("c", 9)).leave) == {"a", "b"}


def test_busy_models_finish_first() -> None:
    stage = Stage(total=10).ask(1, spec("a", 6)).loaded("a")

    assert look(stage, spec("b", 6)) == Outlook("after_answers", ("a",))


def test_what_is_leaving_already_needs_no_further_eviction() -> None:
    stage = Stage(total=10).resident(spec("a", 6)).unload("a")

    assert look(stage, spec("b", 6)) == Outlook("after_evictions")


def test_pins_and_other_programs_block() -> None:
    pinned = Stage(total=10).resident(spec("a", 6)).pin("a")
    foreign = Stage(total=10).read(used=7)

    assert look(pinned, spec("b", 6)) == Outlook("blocked", device="gpu0", short_bytes=2)
    assert look(foreign, spec("b", 6)) == Outlook("blocked", device="gpu0", short_bytes=3)

"""How far a load is: seen by whoever looks, told now and then to whoever follows, and part of what waiters hear."""

from __future__ import annotations

import asyncio

import pytest

from modelyard.events import EventBus
from modelyard.residency.lease import Hosted
from modelyard.residency.progress import ProgressTeller, remaining_s
from modelyard.types.memory import Footprint
from modelyard.types.model import ModelSpec
from modelyard.types.status import Residency
from tests.gateway.manual_clock import ManualClock
from tests.residency.fakes import model, until
from tests.residency.test_manager import running


def teller() -> tuple[ProgressTeller, ManualClock, EventBus, Hosted]:
    clock, events = ManualClock(), EventBus()
    spec = ModelSpec("a", "id:a", Footprint({"ram": 1}), load_s_expected=100.0)
    hosted = Hosted(model("a"), spec, 1, clock.monotonic())
    return ProgressTeller(hosted, clock, events), clock, events, hosted


async def test_a_thousand_small_steps_are_told_eleven_times() -> None:
    tell, clock, events, hosted = teller()
    clock.now += 1.0

    for step in range(1000):
        tell("loading", step / 1000)

    told = [float(str(event.fields["progress"])) for event in events.recent()]
    assert len(told) in (10, 11), told
    assert told == sorted(told)
    assert hosted.progress == ("loading", 0.999)


async def test_a_slow_load_is_told_every_two_seconds_as_long_as_it_moves() -> None:
    tell, clock, events, _hosted = teller()

    for second in range(1, 11):
        clock.now += 1.0
        tell("loading", second / 1000)
    before_stall = len(events.recent())
    for _second in range(10):
        clock.now += 1.0
        tell("loading", 0.01)

    assert before_stall == 5
    assert len(events.recent()) == 6  # the last step, told late; then nothing moves


async def test_a_short_load_is_told_by_its_beginning_and_end_only() -> None:
    tell, clock, events, _hosted = teller()

    tell("loading", 0.5)
    clock.now += 0.1
    tell("ready", 1.0)

    assert not events.recent()


async def test_a_load_does_not_go_back() -> None:
    tell, _clock, _events, hosted = teller()

    tell("loading", 0.6)
    tell("loading", 0.4)

    assert hosted.progress == ("loading", 0.6)


@pytest.mark.parametrize(
    ("expected_s", "elapsed_s", "share", "left_s"),
    [
        (10.0, 4.0, 0.01, 6.0),  # by history
        (10.0, 4.0, 0.9, 6.0),  # memory is there early; the history knows what follows
        (10.0, 60.0, 0.5, 60.0),  # slower than ever
        (10.0, 60.0, 0.0, 0.0),  # nobody knows
    ],
)
def test_what_is_left_is_told_by_history_or_by_a_slower_pace(
    expected_s: float, elapsed_s: float, share: float, left_s: float
) -> None:
    assert remaining_s(expected_s, elapsed_s, share) == left_s


async def test_a_load_and_who_waits_for_it_are_shown() -> None:
    async with running() as yard:
        gate = asyncio.Event()

        async def hold(_name: str) -> None:
            await gate.wait()

        yard.starter.on_start = hold
        using = asyncio.create_task(yard.use("a"))
        await until(lambda: yard.manager.residency_of("a") is Residency.LOADING and bool(yard.starter.starts))

        (resident,) = yard.manager.residents()
        (wait,) = yard.manager.waiting()
        assert (resident.phase, resident.progress) == ("loading", 0.5)
        assert resident.eta_s is not None
        assert (wait.model, wait.position, wait.reason, wait.detail) == ("a", 1, "loading", "50%")
        assert yard.manager.waiting_of("t") is not None

        gate.set()
        await using
        (resident,) = yard.manager.residents()
        assert (resident.phase, resident.progress, resident.eta_s) == ("", None, None)
        assert yard.manager.waiting_of("t") is None
        assert yard.manager.waiting() == ()

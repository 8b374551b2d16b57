"""Another program takes memory: noticed, named, and not stepped on; gives it back: used, without another request."""

from __future__ import annotations

import asyncio

import pytest

from modelyard.engines.echo import echo_model
from modelyard.errors import InsufficientMemory
from modelyard.events import EventBus
from modelyard.residency.watch import READ_EVERY_S
from modelyard.types.status import Residency
from modelyard.units import MIB
from tests.residency.fakes import until
from tests.support.corner import cornered, hog, use

NOTICED_WITHIN_S = 2.0


def test_two_reads_are_made_within_the_time_in_which_others_must_be_noticed() -> None:
    assert 2 * READ_EVERY_S <= NOTICED_WITHIN_S


async def test_what_a_hog_takes_is_seen_at_the_next_read_and_what_it_gives_back_is_used() -> None:
    small, large = echo_model("small", footprint_bytes=100 * MIB), echo_model("large", footprint_bytes=600 * MIB)
    events = EventBus()
    with hog() as other:
        async with cornered(other.pid, events=events) as (manager, corner):
            await use(manager, small)
            await manager.refresh()

            other.hold(700)
            reads = corner.read_count
            await until(lambda: any(event.name == "memory.foreign_grew" for event in events.recent()))
            assert corner.read_count <= reads + 2  # one may have been under way
            waiting = asyncio.create_task(use(manager, large))
            await until(lambda: manager.queue_length == 1)
            assert manager.residency_of("large") is Residency.ABSENT
            device = manager.devices()[0]
            assert device.foreign_bytes > 690 * MIB
            assert device.holders[0].pid == other.pid
            assert device.holders[0].bytes["ram"] > 690 * MIB

            other.hold(0)
            await waiting

        grew, shrank = [event.fields for event in events.recent() if event.name.startswith("memory.")]
        assert str(grew["holder"]).startswith("python")
        assert int(str(grew["to_bytes"])) - int(str(grew["from_bytes"])) > 690 * MIB
        assert int(str(shrank["to_bytes"])) < int(str(shrank["from_bytes"]))


async def test_who_comes_after_a_pause_is_not_answered_from_an_old_reading() -> None:
    large = echo_model("large", footprint_bytes=600 * MIB)
    with hog() as other:
        async with cornered(other.pid) as (manager, corner):
            await manager.refresh()
            other.hold(700)
            reads = corner.read_count
            await until(lambda: manager._watch.is_stale)

            waiting = asyncio.create_task(use(manager, large, wait_s=0.2))
            await until(lambda: manager.queue_length == 1 or waiting.done())

            assert corner.read_count > reads
            assert manager.residency_of("large") is Residency.ABSENT
            with pytest.raises(Exception, match="large"):
                await waiting
            assert corner.workers() == []


async def test_a_refusal_names_the_program_that_is_in_the_way() -> None:
    large = echo_model("large", footprint_bytes=600 * MIB)
    with hog() as other:
        other.hold(700)
        async with cornered(other.pid, memory_wait_s=0.0) as (manager, corner):
            with pytest.raises(InsufficientMemory) as refused:
                await use(manager, large)

            assert str(refused.value.fields["holder"]).startswith("python")
            assert "python" in refused.value.suggestions[1]
            assert corner.workers() == []

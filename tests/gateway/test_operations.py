"""The control plane's use cases."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest
from structlog.testing import capture_logs

from modelyard.errors import ModelNotFound, NotFound
from modelyard.events import EventBus
from modelyard.gateway.audit import TARGET_CHARS_MAX
from modelyard.gateway.keys import Caller
from modelyard.gateway.operations import DRAINING, Operations
from modelyard.types.model import Model
from tests.api.surface import FakeCatalog, FakeRequests, FakeResidency

from .manual_clock import ManualClock

BOSS = Caller("boss")


def build(scan: Callable[[], Sequence[Model]] = tuple) -> tuple[Operations, FakeResidency, EventBus]:
    residency, events = FakeResidency(), EventBus()
    operations = Operations(
        clock=ManualClock(), events=events, residency=residency, catalog=FakeCatalog("tiny"), requests=FakeRequests(),
        scan=scan,
    )  # fmt: skip
    return operations, residency, events


def test_a_node_is_ready_between_its_start_and_its_drain() -> None:
    operations, _residency, events = build()

    before = operations.is_ready
    operations.mark_started()
    during = operations.is_ready
    operations.begin_drain()
    operations.begin_drain()

    assert (before, during, operations.is_ready) == (False, True, False)
    assert [event.name for event in events.recent()] == ["node.started", DRAINING]
    assert operations.status().draining


async def test_a_resident_that_left_the_catalog_can_still_be_unloaded() -> None:
    operations, residency, _events = build()
    await operations.load(BOSS, "TINY")
    operations.catalog.replace(())

    receipt = await operations.unload(BOSS, "Tiny")

    assert receipt is not None
    assert residency.asked[-1] == ("unload", "tiny", False)


async def test_unknown_names_and_ids_are_errors_with_an_audit_line() -> None:
    operations, residency, _events = build()

    with capture_logs() as logs:
        with pytest.raises(ModelNotFound):
            await operations.load(BOSS, "x" * 5000)
        with pytest.raises(NotFound):
            operations.cancel(BOSS, "line\nbreak")

    assert not residency.asked
    assert [line["result"] for line in logs] == ["model_not_found", "not_found"]
    assert len(logs[0]["target"]) == TARGET_CHARS_MAX
    assert logs[1]["target"] == "'line\\nbreak'"


async def test_folders_are_read_on_another_thread_and_one_after_the_other() -> None:
    threads: list[int] = []
    running: list[int] = []

    def scan() -> Sequence[Model]:
        running.append(1)
        assert len(running) == 1
        threads.append(threading.get_ident())
        running.pop()
        return (Model("new", "echo"),)

    operations, _residency, _events = build(scan)

    found = await asyncio.gather(*(operations.rescan(BOSS) for _ in range(5)))

    assert all([model.name for model in models] == ["new"] for models in found)
    assert threading.get_ident() not in threads
    assert len(threads) == 5

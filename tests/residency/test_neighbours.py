"""An Ollama server on our device: its models are in our ledger, leave when their room is needed, and ours for theirs.

The server is fake and speaks real HTTP; local workers are fakes that write into the same fake devices.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

import pytest

from modelyard.clock import SystemClock
from modelyard.errors import InsufficientMemory, LoadFailed
from modelyard.events import EventBus
from modelyard.memory.devices import FakeDevices
from modelyard.memory.holders import NoHolders
from modelyard.providers.ollama_residents import OllamaResidents
from modelyard.residency import neighbours
from modelyard.residency.lease import Lease
from modelyard.residency.manager import ResidencyManager
from modelyard.residency.neighbour_watch import NeighbourHolders, NeighbourWatch
from modelyard.residency.neighbours import Neighbour, SharedNodeStarter, Starters
from modelyard.residency.state import MemoryBooks, Record, ResidencyLimits
from modelyard.types.memory import DeviceReading, Footprint
from modelyard.types.model import Model, ModelSpec, model_at
from modelyard.types.status import Residency
from modelyard.units import GIB
from modelyard.words import render
from tests.support.ollama_node import FakeOllama, Installed

from .fakes import FakeStarter, model, until

CLOCK = SystemClock()
INSTALLED = {
    "small:1b": Installed(3 * GIB, 3 * GIB),
    "big:8b": Installed(6 * GIB, 6 * GIB),
    "split:8b": Installed(7 * GIB, 4 * GIB),
}
OURS = {"mine": 3 * GIB, "large": 6 * GIB, "tiny": GIB}
SPEC = ModelSpec("theirs", "theirs", Footprint({"gpu0": 3}), kind="ollama")
SMALL, BIG, SPLIT = (model_at("studio", "ollama", name) for name in INSTALLED)


@dataclass
class Yard:
    """A node, its neighbour, and the device both use."""

    manager: ResidencyManager
    watch: NeighbourWatch
    starter: SharedNodeStarter
    server: FakeOllama
    devices: FakeDevices
    local: FakeStarter
    events: EventBus

    @asynccontextmanager
    async def lease(self, which: Model | str, *, within_s: float = 15.0) -> AsyncIterator[Lease]:
        wanted = model(which) if isinstance(which, str) else which
        deadline = CLOCK.monotonic() + within_s
        async with self.manager.lease(wanted, ticket="t", caller="me", deadline=deadline) as granted:
            yield granted

    async def use(self, which: Model | str) -> None:
        async with self.lease(which):
            pass

    def told(self, *names: str) -> list[tuple[str, str]]:
        """These events, with the model they are about, in order."""
        return [
            (one.name, str(one.fields.get("model", one.fields.get("node"))))
            for one in self.events.recent()
            if one.name in names
        ]

    def where(self, which: Model) -> Residency:
        return self.manager.residency_of(which.name)

    def foreign(self) -> int:
        return next(one.foreign_bytes for one in self.manager.devices() if one.reading.device == "gpu0")


@asynccontextmanager
async def yard(*, unload_s: float = 2.0, **limits: object) -> AsyncIterator[Yard]:
    """Ten GiB, one of them headroom."""
    events = EventBus()
    devices = FakeDevices({"ram": 64 * GIB, "gpu0": 10 * GIB})
    local = FakeStarter(devices, OURS)
    async with (
        FakeOllama(INSTALLED, devices).serving() as server,
        OllamaResidents("studio", server.url, ("gpu0",), CLOCK, unload_s=unload_s) as node,
    ):
        starter = SharedNodeStarter([Neighbour("studio", node, ("gpu0",), CLOCK)], devices.read, CLOCK)
        manager = ResidencyManager(
            CLOCK, events, devices, Starters(local, starter),
            ResidencyLimits(**{"headroom_bytes": GIB, "residence_load_ratio": 0.0, **limits}),  # type: ignore[arg-type]
            read_every_s=0.05, memory_back_s=0.5, holders=NeighbourHolders(NoHolders(), starter),
        )  # fmt: skip
        watch = NeighbourWatch(starter, manager.guests, events, CLOCK, every_s=0.05, idle_every_s=0.05)
        manager.look_around = watch.fresh
        tasks = [asyncio.create_task(manager.run()), asyncio.create_task(watch.run())]
        try:
            yield Yard(manager, watch, starter, server, devices, local, events)
        finally:
            tasks[1].cancel()
            await manager.close()
            await tasks[0]


async def test_what_it_brings_in_is_in_the_ledger_and_what_it_takes_out_is_not() -> None:
    async with yard() as it:
        await it.server.load("split:8b")
        await until(lambda: it.where(SPLIT) is Residency.RESIDENT)
        (shown,) = it.manager.residents()
        assert (shown.model, shown.reserved_bytes) == ("split:8b@studio", {"gpu0": 4 * GIB, "ram": 3 * GIB})
        assert it.foreign() == 0

        it.server.drop("split:8b")
        await until(lambda: it.where(SPLIT) is Residency.ABSENT)

    assert it.told("model.adopted", "model.left") == [("model.adopted", SPLIT.name), ("model.left", SPLIT.name)]


async def test_it_leaves_when_its_room_is_needed_and_is_seen_gone_before_ours_loads() -> None:
    async with yard() as it:
        await it.server.load("big:8b", -1)
        it.server.faults.unload_s = 0.2
        names_at_start: list[list[str]] = []

        async def note(_name: str) -> None:
            names_at_start.append(it.server.names())

        it.local.on_start = note
        await it.use("large")

        assert names_at_start == [[]]
        assert it.server.unloads() == ["big:8b"]
        assert it.devices.used_bytes["gpu0"] == 6 * GIB
    assert it.told("model.evicted", "model.unloaded", "model.loaded")[:3] == [
        ("model.evicted", BIG.name), ("model.unloaded", BIG.name), ("model.loaded", "large"),
    ]  # fmt: skip


async def test_a_request_sees_what_the_node_has_brought_in_this_moment() -> None:
    async with yard() as it:
        it.watch._looked_at = float("-inf")  # nobody has looked for long
        await it.server.load("big:8b")

        async with it.lease("large"):
            assert it.server.unloads() == ["big:8b"]


async def test_both_stay_when_both_fit() -> None:
    async with yard() as it:
        await it.server.load("small:1b")
        await it.use("large")

        assert (it.server.names(), it.local.live) == (["small:1b"], ["large"])
        assert it.server.unloads() == []


async def test_ours_leaves_for_theirs_and_a_model_in_use_does_not() -> None:
    async with yard(drain_after_s=0.05) as it:
        await it.use(BIG)  # measured
        await it.manager.unload(BIG.name)
        async with it.lease("large"):
            waiting = asyncio.create_task(it.use(BIG))
            await until(lambda: it.manager.residency_of("large") is Residency.DRAINING)
            assert it.local.live == ["large"]
        await waiting

        assert (it.server.names(), it.local.live) == (["big:8b"], [])


async def test_one_of_unknown_size_is_alone_once_and_then_goes_by_need() -> None:
    async with yard() as it:
        await it.use("mine")
        await it.use(SMALL)
        assert it.local.live == [], "nobody knew how much it would take"

        await it.use("mine")
        await it.manager.unload(SMALL.name)
        await it.use(SMALL)

        assert (it.server.names(), it.local.live) == (["small:1b"], ["mine"])
        assert it.told("model.evicted") == [("model.evicted", "mine")]


async def test_one_that_was_only_seen_is_known_too() -> None:
    async with yard() as it:
        await it.server.load("small:1b")
        await until(lambda: it.where(SMALL) is Residency.RESIDENT)
        it.server.drop("small:1b")
        await until(lambda: it.where(SMALL) is Residency.ABSENT)
        await it.use("mine")

        await it.use(SMALL)

        assert it.local.live == ["mine"]


async def test_exclusive_takes_turns_by_kind_and_does_not_thrash() -> None:
    async with yard(policy="exclusive", residence_load_ratio=0.5, drain_after_s=5.0) as it:
        mixed: list[str] = []
        kinds: list[str] = []

        def look() -> None:
            if it.local.live and it.server.running:
                mixed.append(f"{it.local.live} {it.server.names()}")

        async def slow(_name: str) -> None:
            kinds.append("local")
            look()
            await asyncio.sleep(0.1)

        async def one(number: int) -> None:
            await asyncio.sleep(number * 0.005)
            async with it.lease(SMALL if number % 2 else "tiny"):
                look()
                await asyncio.sleep(0.01)

        def changed() -> None:
            look()
            if it.server.running:
                kinds.append("ollama")

        it.local.on_start, it.server.has_changed, it.server.faults.load_s = slow, changed, 0.1
        await asyncio.gather(*(one(number) for number in range(60)))

        assert mixed == [], "two kinds at a time"
        switches = sum(a != b for a, b in pairwise(kinds))
        assert {"local", "ollama"} == set(kinds)
        assert switches <= 60 / 5, f"{kinds}: a change of kind serves several requests"


async def test_exclusive_frees_ours_first_when_theirs_is_wanted() -> None:
    async with yard(policy="exclusive") as it:
        await it.use("tiny")
        await it.use(SMALL)
        assert (it.server.names(), it.local.live) == (["small:1b"], [])

        await it.use("tiny")

        assert (it.server.names(), it.local.live) == ([], ["tiny"])


async def test_one_that_will_not_go_is_named_with_the_numbers_and_nothing_hangs() -> None:
    async with yard(memory_wait_s=0.5, unload_s=0.3) as it:
        await it.server.load("big:8b")
        it.server.faults.keeps.add("big:8b")

        with pytest.raises(InsufficientMemory) as refused:
            await it.use("large")

        assert it.where(BIG) is Residency.ABSENT
        assert it.foreign() == 6 * GIB, "what stays is somebody else's"
        await it.use("mine")  # beside it
        assert it.server.names() == ["big:8b"]
    _text, hints = render(refused.value, "en")
    assert "6.0 GiB" in str(refused.value)
    assert any("big:8b@studio" in hint for hint in hints)
    assert it.server.unloads() == ["big:8b"], "asked once, not again and again"


async def test_one_that_would_not_go_is_tried_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "STAYS_S", 0.2)
    async with yard(unload_s=0.3) as it:
        await it.server.load("big:8b")
        it.server.faults.keeps.add("big:8b")
        waiting = asyncio.create_task(it.use("large"))
        await until(lambda: len(it.server.unloads()) == 2)
        it.server.faults.keeps.clear()

        await waiting

        assert (it.server.names(), it.local.live) == ([], ["large"])


async def test_out_of_reach_changes_nothing_and_is_told_once() -> None:
    async with yard() as it:
        await it.server.load("small:1b")
        await until(lambda: it.where(SMALL) is Residency.RESIDENT)
        port = it.server.port
        await it.server.hang_up()
        await until(lambda: bool(it.told("node.unreachable")))
        for _ in range(3):
            await it.watch.look()
        assert it.where(SMALL) is Residency.RESIDENT
        assert it.foreign() == 0

        await it.server.listen(port)
        await until(lambda: bool(it.told("node.reachable")))

    assert it.told("node.unreachable", "node.reachable") == [
        ("node.unreachable", "studio"), ("node.reachable", "studio"),
    ]  # fmt: skip


async def test_one_at_a_node_that_is_gone_does_not_keep_its_room() -> None:
    async with yard() as it:
        await it.server.load("big:8b")
        await until(lambda: it.where(BIG) is Residency.RESIDENT)
        await it.server.hang_up()
        it.server.drop("big:8b")

        await it.use("large")

        assert it.local.live == ["large"]


async def test_a_lease_of_what_the_node_took_out_ends_and_the_next_loads_it_again() -> None:
    async with yard() as it:
        async with it.lease(SMALL) as first:
            it.server.drop("small:1b")
            await until(lambda: it.where(SMALL) is Residency.ABSENT)
        async with it.lease(SMALL) as second:
            assert second.epoch > first.epoch
        assert it.manager.lease_count == 0


async def test_no_size_is_believed_that_the_device_does_not_show() -> None:
    async with yard() as it:
        await it.use("mine")
        it.server.faults.says["small:1b"] = (900 * GIB, 900 * GIB)
        await it.server.load("small:1b")
        await until(lambda: it.where(SMALL) is Residency.RESIDENT)

        held = next(one.reserved_bytes for one in it.manager.residents() if one.model == SMALL.name)
        assert held["gpu0"] <= 6 * GIB
        await it.use("tiny")

        assert it.local.live == ["mine", "tiny"] or it.local.live == ["tiny"]
        assert it.told("model.load_failed") == []


async def test_a_size_that_is_too_small_shows_as_foreign_use() -> None:
    async with yard() as it:
        it.server.faults.says["big:8b"] = (GIB, GIB)
        await it.server.load("big:8b")
        await until(lambda: it.where(BIG) is Residency.RESIDENT)

        await until(lambda: it.foreign() == 5 * GIB)


async def test_we_end_and_take_only_what_we_brought() -> None:
    async with yard() as it:
        await it.use(SPLIT)
        await it.server.load("small:1b")
        await until(lambda: it.where(SMALL) is Residency.RESIDENT)
        assert it.server.names() == ["small:1b", "split:8b"]

    assert it.server.unloads() == ["split:8b"]


async def test_a_load_beside_an_unload_is_no_leak() -> None:
    async with yard() as it:
        await it.use(SMALL)
        it.server.faults.unload_s = 0.3
        leaving = asyncio.create_task(it.manager.unload(SMALL.name))
        await until(lambda: bool(it.server.unloads()))

        await it.use("large")
        receipt = await leaving

    assert receipt is not None
    assert receipt.leaked_bytes == 0


async def test_a_load_that_fails_says_why_and_leaves_nothing() -> None:
    async with yard() as it:
        it.server.faults.load_error = "llama runner process has terminated"

        with pytest.raises(LoadFailed, match="has terminated"):
            await it.use(SMALL)

        assert it.where(SMALL) is Residency.ABSENT
        assert it.manager.queue_length == 0


async def test_a_load_nobody_waits_for_any_more_is_taken_back() -> None:
    async with yard() as it:
        it.server.faults.load_s = 3600.0
        loading = asyncio.create_task(it.use(SMALL))
        await until(lambda: any(path == "/api/generate" for _m, path, _b in it.server.asked))
        loading.cancel()
        await asyncio.wait([loading])

        await until(lambda: it.where(SMALL) is Residency.ABSENT)
        it.server.faults.load_s = 0.0
        await it.use("large")

        assert it.server.names() == []


async def test_an_old_answer_says_nothing_about_what_was_done_since() -> None:
    async with yard() as it:
        at = it.starter.neighbours["studio"]
        await it.use(SMALL)
        asked = at.acts
        (seen,) = await at.node.residents()
        await it.manager.unload(SMALL.name)

        at.saw([seen], asked, {"gpu0": 10 * GIB})

        assert at.held == {}


def test_a_stranger_is_not_lost_behind_a_model_that_went_unseen() -> None:
    books = MemoryBooks(headroom_bytes=0)
    theirs = Record(SPEC, 1, Residency.RESIDENT, 0.0, held={"gpu0": 3}, base={"gpu0": 3}, in_use={"gpu0": 3})
    loading = Record(SPEC, 2, Residency.LOADING, 0.0, held={"gpu0": 5})

    def read(used: int, *records: Record) -> int:
        books.readings = {"gpu0": DeviceReading("gpu0", "", 10, 10 - used, "gpu")}
        books.update(records)
        return books.ledgers["gpu0"].foreign_bytes

    assert read(5, theirs) == 2
    assert read(2, theirs) == 0, "it went, and nobody knows yet: its own share of the ledger covers for the stranger"

    books.doubt(theirs.held)

    assert read(2, loading) == 2, "a load does not hide him"
    assert read(7, loading) >= 2
    loading.in_use, loading.state = {"gpu0": 5}, Residency.RESIDENT
    assert read(7, loading) == 2

"""Others take memory and give it back: noticed, told, named; and the ledger always adds up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

import pytest

from modelyard.clock import SystemClock
from modelyard.errors import InsufficientMemory
from modelyard.events import Event, EventBus
from modelyard.memory.devices import FakeDevices
from modelyard.residency.manager import ResidencyManager
from modelyard.residency.state import ResidencyLimits
from modelyard.types.memory import Holder
from modelyard.types.status import DeviceStatus, Residency, WaitStatus
from tests.residency.fakes import MIB, FakeStarter, model, until

CLOCK = SystemClock()
SIZES = {"a": 3000 * MIB, "b": 3000 * MIB, "c": 500 * MIB, "huge": 20_000 * MIB}


class FakeHolders:
    """Says whom it is told to."""

    def __init__(self) -> None:
        self.found: tuple[Holder, ...] = ()
        self.asked: list[tuple[Mapping[int, str], Collection[str]]] = []
        self.is_broken = False

    def read(self, left_behind: Mapping[int, str], in_ledger: Collection[str]) -> tuple[Holder, ...]:
        self.asked.append((left_behind, in_ledger))
        if self.is_broken:
            raise OSError("no procfs today")
        return self.found


class Yard:
    """A manager with a device of 8,000 MiB, of which 1,000 stay free."""

    def __init__(self, stop_s: float = 20.0) -> None:
        self.devices = FakeDevices({"gpu0": 8000 * MIB})
        self.starter = FakeStarter(self.devices, dict(SIZES))
        self.events, self.holders = EventBus(), FakeHolders()
        limits = ResidencyLimits(headroom_bytes=1000 * MIB, residence_load_ratio=0.0, memory_wait_s=0.0)
        self.manager = ResidencyManager(
            CLOCK, self.events, self.devices, self.starter, limits,
            holders=self.holders, read_every_s=0.02, memory_back_s=0.2, stop_s=stop_s,
        )  # fmt: skip

    async def use(self, name: str) -> None:
        deadline = CLOCK.monotonic() + 20
        async with self.manager.lease(model(name), ticket="t", caller="me", deadline=deadline):
            await asyncio.sleep(0)

    def foreign(self, mib: int, *names: str) -> None:
        """Others hold so much more, or less."""
        self.devices.used_bytes["gpu0"] += mib * MIB
        self.holders.found = tuple(Holder(n, name, {"gpu0": (900 - n) * MIB}) for n, name in enumerate(names))

    def told(self) -> list[Event]:
        return [event for event in self.events.recent() if event.name.startswith("memory.")]

    @property
    def device(self) -> DeviceStatus:
        return self.manager.devices()[0]


@asynccontextmanager
async def running(stop_s: float = 20.0) -> AsyncIterator[Yard]:
    yard = Yard(stop_s)
    task = asyncio.create_task(yard.manager.run())
    try:
        yield yard
    finally:
        await yard.manager.close()
        await task


def adds_up(device: DeviceStatus) -> bool:
    held = dict(device.held_bytes)
    held.pop("promised")
    parts = device.headroom_bytes + device.foreign_bytes + device.reserved_bytes + device.free_bytes
    return parts == device.reading.total_bytes and sum(held.values()) == device.reserved_bytes


async def test_the_parts_of_the_ledger_are_the_whole_device_in_every_state() -> None:
    async with running(stop_s=0.5) as yard:
        looked: list[dict[str, int]] = []

        async def look(_name: str) -> None:
            assert adds_up(yard.device)
            looked.append(yard.device.held_bytes)

        yard.starter.on_start = look
        await yard.use("a")
        assert yard.device.held_bytes["resident"] == 3000 * MIB
        yard.foreign(1500)
        await until(lambda: yard.device.foreign_bytes == 1500 * MIB)
        assert adds_up(yard.device)
        assert yard.device.free_bytes == (8000 - 1000 - 3000 - 1500) * MIB
        yard.starter.workers[0].will_not_end = True  # so that it is seen leaving
        coming = asyncio.create_task(yard.use("b"))
        await until(lambda: yard.manager.residency_of("a") is Residency.LEAVING)
        assert yard.device.held_bytes | {"loading": 0} == {
            "loading": 0, "resident": 0, "draining": 0, "leaving": 3000 * MIB, "promised": 3000 * MIB,
        }  # fmt: skip
        assert adds_up(yard.device)
        yard.foreign(5000)
        await until(lambda: yard.device.free_bytes < 0)
        assert adds_up(yard.device)
        coming.cancel()

    assert [held["loading"] for held in looked] == [3000 * MIB]


async def test_a_large_change_is_told_once_with_the_largest_holder_and_small_ones_are_not() -> None:
    async with running() as yard:
        await yard.use("c")
        await yard.manager.refresh()
        yard.foreign(300, "editor")  # five per cent of the device are 400
        await until(lambda: yard.device.foreign_bytes == 300 * MIB)
        yard.foreign(300, "game", "browser")
        await until(lambda: bool(yard.told()))
        yard.foreign(-600)
        await until(lambda: len(yard.told()) == 2)

    grew, shrank = yard.told()
    assert (grew.name, shrank.name) == ("memory.foreign_grew", "memory.foreign_shrank")
    assert grew.fields == {
        "device": "gpu0", "from_bytes": 0, "to_bytes": 600 * MIB, "holder": "game", "holder_bytes": 900 * MIB,
    }  # fmt: skip
    assert (shrank.fields["from_bytes"], shrank.fields["to_bytes"], shrank.fields["holder"]) == (600 * MIB, 0, "")


async def test_a_refusal_because_of_others_names_them() -> None:
    async with running() as yard:
        yard.foreign(5000, "game", "browser")

        with pytest.raises(InsufficientMemory) as refused:
            await yard.use("a")

        assert refused.value.fields["holders"] == ["game", "browser"]
        assert refused.value.suggestions[1] == "The largest of them is game, with 900.0 MiB."
        assert yard.device.holders[0].name == "game"


async def test_who_waits_because_of_others_is_told_the_largest() -> None:
    async with running() as yard:
        yard.foreign(5000, "game", "browser")
        await yard.manager.refresh()
        watch = yard.manager._watch

        assert watch.named(WaitStatus("a", 1, "foreign", 1.0, detail="gpu0")).detail == "gpu0: game 900.0 MiB"
        for other in (WaitStatus("a", 1, "busy", 1.0, detail="b"), WaitStatus("a", 1, "foreign", 1.0, detail="ram")):
            assert watch.named(other) == other


async def test_many_refusals_cause_one_look_at_the_processes() -> None:
    async with running() as yard:
        yard.foreign(5000, "game")

        refused = await asyncio.gather(*(yard.use("a") for _ in range(50)), return_exceptions=True)

        assert all(isinstance(one, InsufficientMemory) and one.fields["holder"] == "game" for one in refused)
        assert len(yard.holders.asked) <= 2  # one for the news, one for them


async def test_what_would_never_fit_is_not_blamed_on_others() -> None:
    async with running() as yard:
        yard.foreign(5000, "game")

        with pytest.raises(InsufficientMemory) as refused:
            await yard.use("huge")

        assert "holder" not in refused.value.fields


async def test_a_look_that_fails_costs_only_the_name() -> None:
    async with running() as yard:
        yard.foreign(5000, "game")
        yard.holders.is_broken = True

        with pytest.raises(InsufficientMemory) as refused:
            await yard.use("a")

        assert "holder" not in refused.value.fields
        assert "holders" not in refused.value.fields
        assert yard.holders.asked


async def test_a_worker_that_will_not_end_is_handed_to_whoever_looks_with_its_model() -> None:
    async with running(stop_s=0.05) as yard:
        await yard.use("a")
        await yard.manager.refresh()
        yard.starter.workers[0].will_not_end = True
        await yard.manager.unload("a")

        await until(lambda: any(event.name == "memory.foreign_grew" for event in yard.told()))

        assert yard.holders.asked[-1] == ({1: "a"}, frozenset())
        assert yard.device.free_bytes == 4000 * MIB
        await yard.use("b")  # in what is left
        yard.starter.workers[0].will_not_end = False


async def test_figures_are_fresh_for_who_asks_though_nothing_is_in_memory() -> None:
    async with running() as yard:
        yard.foreign(2000, "game")

        await yard.manager.refresh()

        assert (yard.device.foreign_bytes, yard.device.holders[0].name) == (2000 * MIB, "game")


async def test_a_stop_that_came_to_nothing_is_known_too() -> None:
    async with running() as yard:
        await yard.use("a")
        worker = yard.starter.workers[0]
        end = worker.stop

        async def in_vain() -> None:
            pass

        worker.stop = in_vain  # type: ignore[method-assign]
        receipt = await yard.manager.unload("a")
        await yard.manager.refresh()

        assert receipt is not None
        assert receipt.leaked_bytes == 3000 * MIB
        assert yard.holders.asked[-1][0] == {1: "a"}
        await end()

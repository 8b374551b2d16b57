"""The manager on a real event loop: leases, loads, unloads, receipts, crashes and the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from modelyard.clock import SystemClock
from modelyard.errors import (
    InsufficientMemory,
    LoadFailed,
    QueueTimeout,
    ShuttingDown,
    UpstreamStalled,
    YardError,
)
from modelyard.events import EventBus
from modelyard.memory.devices import FakeDevices
from modelyard.residency.lease import Lease
from modelyard.residency.manager import ResidencyManager
from modelyard.residency.messages import Shutdown
from modelyard.residency.state import ResidencyLimits
from modelyard.types.status import Residency
from tests.residency.fakes import MIB, FakeStarter, model, until

SIZES = {"a": 600 * MIB, "b": 600 * MIB, "c": 200 * MIB, "huge": 2000 * MIB}
CLOCK = SystemClock()


class Yard:
    """A manager with fake devices of 1,000 MiB, running."""

    def __init__(self, slots: int = 1, stop_s: float = 20.0, **limits: float) -> None:
        self.devices = FakeDevices({"gpu0": 1000 * MIB})
        self.starter = FakeStarter(self.devices, dict(SIZES), slots)
        self.events = EventBus()
        self.manager = ResidencyManager(
            CLOCK,
            self.events,
            self.devices,
            self.starter,
            ResidencyLimits(**{"headroom_bytes": 0, "residence_load_ratio": 0.0} | limits),  # type: ignore[arg-type]
            read_every_s=0.02,
            memory_back_s=0.2,
            stop_s=stop_s,
        )

    @asynccontextmanager
    async def lease(self, name: str, wait_s: float = 20.0, **more: Any) -> AsyncIterator[Lease]:
        deadline = CLOCK.monotonic() + wait_s
        async with self.manager.lease(model(name), ticket="t", caller="me", deadline=deadline, **more) as lease:
            yield lease

    async def use(self, name: str, **more: float) -> int:
        """Take a lease and give it back; its epoch."""
        async with self.lease(name, **more) as lease:
            await asyncio.sleep(0)
            return lease.epoch

    def told(self) -> list[str]:
        return [event.name for event in self.events.recent()]


@asynccontextmanager
async def running(**more: float) -> AsyncIterator[Yard]:
    yard = Yard(**more)  # type: ignore[arg-type]
    task = asyncio.create_task(yard.manager.run())
    try:
        yield yard
    finally:
        await yard.manager.close()
        await task


async def test_a_lease_loads_its_model_and_the_worker_stays() -> None:
    async with running() as yard:
        async with yard.lease("a") as lease:
            assert lease.worker.pid == 1
            assert lease.load_s > 0
            assert yard.manager.lease_count == 1

        async with yard.lease("a") as lease:
            assert lease.epoch == 1
            assert lease.load_s == 0
        assert yard.starter.starts == ["a"]
        assert yard.manager.lease_count == 0
        assert yard.told()[:2] == ["model.loading", "model.loaded"]


async def test_many_first_requests_cause_one_load() -> None:
    async with running() as yard:
        epochs = await asyncio.gather(*(yard.use("a") for _ in range(200)))

    assert yard.starter.starts == ["a"]
    assert set(epochs) == {1}


async def test_a_free_slot_is_taken_without_a_suspension() -> None:
    async with running() as yard:
        await yard.use("a")
        coroutine = yard.use("a")

        coroutine.send(None)  # the first suspension is the sleep inside the lease

        assert yard.manager.lease_count == 1
        with pytest.raises(StopIteration):
            coroutine.send(None)


async def test_models_that_do_not_fit_together_take_turns() -> None:
    async with running() as yard:
        await asyncio.gather(*(yard.use(name) for name in "abab"))

        assert len(yard.starter.live) == 1
        assert "model.evicted" in yard.told()


async def test_all_waiters_of_a_failed_load_get_the_cause_each_its_own() -> None:
    async def fails(name: str) -> None:
        raise LoadFailed(model=name, problem="damaged")

    async with running() as yard:
        yard.starter.on_start = fails
        errors = await asyncio.gather(*(yard.use("a") for _ in range(20)), return_exceptions=True)

        assert {str(error) for error in errors} == {"a could not be loaded: damaged"}
        assert len({id(error) for error in errors}) == 20
        assert yard.starter.starts == ["a"]
        assert list(yard.manager.failures()) == ["a"]


async def test_a_foreign_exception_while_starting_is_a_failed_load() -> None:
    async def breaks(_name: str) -> None:
        raise RuntimeError("boom")

    async with running() as yard:
        yard.starter.on_start = breaks

        with pytest.raises(LoadFailed, match="RuntimeError: boom"):
            await yard.use("a")


async def test_what_never_fits_is_refused_at_once() -> None:
    async with running() as yard:
        with pytest.raises(InsufficientMemory) as refused:
            await yard.use("huge")

    assert refused.value.never_fits


async def test_a_deadline_ends_the_wait() -> None:
    async with running() as yard, yard.lease("a"):
        with pytest.raises(QueueTimeout):
            await yard.use("a", wait_s=0.02)


async def test_an_unload_is_done_when_the_worker_is_gone_and_says_what_came_back() -> None:
    async with running() as yard:
        loaded = await yard.manager.load(model("a"))
        assert loaded is not None
        assert loaded.freed_bytes == {"gpu0": -600 * MIB}
        assert await yard.manager.load(model("a")) is None

        receipt = await yard.manager.unload("a")

        assert receipt is not None
        assert (receipt.reason, receipt.freed_bytes, receipt.leaked_bytes) == ("operator", {"gpu0": 600 * MIB}, 0)
        assert yard.starter.workers[0].is_gone
        assert yard.manager.residency_of("a") is Residency.ABSENT
        assert await yard.manager.unload("a") is None


async def test_a_worker_that_will_not_end_leaks_and_the_rest_goes_on() -> None:
    async with running(stop_s=0.05) as yard:
        await yard.use("a")
        yard.starter.workers[0].will_not_end = True

        receipt = await yard.manager.unload("a")

        assert receipt is not None
        assert receipt.leaked_bytes == 600 * MIB
        assert yard.manager.devices()[0].foreign_bytes == 600 * MIB
        await yard.use("c")
        yard.starter.workers[0].will_not_end = False


async def test_a_crash_is_told_and_the_next_request_gets_a_new_worker() -> None:
    async with running() as yard:
        async with yard.lease("a") as lease:
            yard.starter.workers[0].crash()
            await until(lambda: yard.manager.residency_of("a") is not Residency.RESIDENT)
            assert lease.leaving_because == "crash"
        assert await yard.use("a") == 2

        assert "model.crashed" in yard.told()
        assert yard.manager.lease_count == 0


async def test_a_worker_reported_broken_is_replaced() -> None:
    async with running(slots=2) as yard:
        async with yard.lease("a") as lease, yard.lease("a") as other:
            await lease.fail(UpstreamStalled(model="a", stalled_s=30))
            await other.fail(UpstreamStalled(model="a", stalled_s=30))
        assert await yard.use("a") == 2

    assert yard.starter.starts == ["a", "a"]


async def test_a_worker_is_quiet_only_while_it_has_something_to_do() -> None:
    async with running(slots=2) as yard:
        await yard.use("a")
        started = CLOCK.monotonic()
        async with yard.lease("a") as first:
            await asyncio.sleep(0.03)
            async with yard.lease("a") as second:
                assert second.worker_quiet_s() >= 0.02, "a new request does not make a silent worker alive"
                first.progressed()
                assert second.worker_quiet_s() < CLOCK.monotonic() - started - 0.02


async def test_an_idle_model_expires() -> None:
    async with running() as yard:
        await yard.use("a", keep_alive_s=0.0)
        await until(lambda: not yard.starter.live)

        assert "model.expired" in yard.told()


async def test_memory_taken_by_others_is_noticed() -> None:
    async with running(headroom_bytes=100 * MIB) as yard:
        await yard.use("a")
        yard.devices.used_bytes["gpu0"] += 350 * MIB

        await until(lambda: not yard.starter.live)
        assert yard.told().count("model.evicted") == 1


async def test_a_load_nobody_waits_for_is_ended_early() -> None:
    never = asyncio.Event()

    async def hangs(_name: str) -> None:
        await never.wait()

    async with running() as yard:
        yard.starter.on_start = hangs
        task = asyncio.create_task(yard.use("a"))
        await until(lambda: yard.starter.starts == ["a"])
        task.cancel()
        await until(lambda: yard.manager.residency_of("a") is Residency.ABSENT)

        assert yard.starter.cancelled == ["a"]
        assert yard.manager.queue_length == 0


async def test_an_operators_unload_ends_a_load_under_way() -> None:
    async def hangs(_name: str) -> None:
        await asyncio.Event().wait()

    async with running() as yard:
        yard.starter.on_start = hangs
        task = asyncio.create_task(yard.use("a"))
        await until(lambda: yard.starter.starts == ["a"])

        assert await yard.manager.unload("a") is None
        with pytest.raises(YardError, match="unloaded"):
            await task


async def test_a_forced_unload_does_not_wait_for_leases() -> None:
    async with running() as yard, yard.lease("a"):
        receipt = await yard.manager.unload("a", force=True)

        assert receipt is not None
        assert yard.manager.lease_count == 0


async def test_a_pinned_model_stays() -> None:
    async with running(memory_wait_s=0.0) as yard:
        await yard.use("a")
        yard.manager.pin("a", pinned=True)

        with pytest.raises(InsufficientMemory):
            await yard.use("b")
        assert yard.manager.residents()[0].pinned


async def test_status_shows_who_holds_what_and_who_waits() -> None:
    async with running(drain_after_s=0.0) as yard:
        async with yard.lease("a"):
            waiting = asyncio.create_task(yard.use("b"))
            await until(lambda: yard.manager.residency_of("b") is Residency.WAITING)
            first, second = yard.manager.residents()

            assert (first.model, first.state, first.leases, first.pid) == ("a", Residency.DRAINING, 1, 1)
            assert (second.model, second.state, second.waiting) == ("b", Residency.WAITING, 1)
            assert yard.manager.devices()[0].reserved_bytes == 600 * MIB
            assert yard.manager.queue_length == 1
        await waiting


async def test_closing_ends_every_worker_and_refuses_who_waits() -> None:
    async with running() as yard, AsyncExitStack() as leases:
        await leases.enter_async_context(yard.lease("a"))
        await yard.use("c")
        waiting = asyncio.create_task(yard.use("b"))
        await until(lambda: yard.manager.queue_length == 1)

        await yard.manager.close()

        assert yard.starter.live == []
        with pytest.raises(ShuttingDown):
            await waiting


async def test_draining_lets_leases_finish() -> None:
    async with running() as yard:
        async with yard.lease("a"):
            yard.manager.feed(Shutdown(CLOCK.monotonic()))
            with pytest.raises(ShuttingDown):
                await yard.use("a")
            assert yard.starter.live == ["a"]
        await until(lambda: not yard.starter.live)


async def test_a_cancelled_node_leaves_no_worker_behind() -> None:
    yard = Yard()
    task = asyncio.create_task(yard.manager.run())
    await yard.use("a")
    started = asyncio.Event()

    async def hangs(_name: str) -> None:
        started.set()
        await asyncio.Event().wait()

    yard.starter.on_start = hangs
    waiting = asyncio.create_task(yard.use("c"))
    await started.wait()
    task.cancel()
    await asyncio.wait([task, waiting])

    assert yard.starter.live == []
    assert yard.starter.cancelled == ["c"]
    assert isinstance(waiting.exception(), ShuttingDown)


async def test_what_is_asked_before_the_start_is_done_after_it() -> None:
    yard = Yard()
    waiting = asyncio.create_task(yard.use("a"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task = asyncio.create_task(yard.manager.run())

    assert await waiting == 1
    await yard.manager.close()
    await task


async def test_the_next_load_is_planned_with_what_the_last_one_took() -> None:
    async with running() as yard:
        await yard.use("a")
        await yard.manager.unload("a")
        yard.starter.sizes["a"] = 1  # the prediction would now be another
        await yard.use("a")

        assert yard.manager.residents()[0].footprint_source == "measured"


async def test_devices_that_cannot_be_read_end_nothing() -> None:
    async with running() as yard:
        await yard.use("a")

        def broken() -> tuple[()]:
            raise OSError("no driver")

        yard.devices.read = broken  # type: ignore[method-assign]
        await asyncio.sleep(0.05)
        assert await yard.use("a") == 1


async def test_a_failure_nobody_foresaw_ends_the_node_and_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    yard = Yard()
    running = asyncio.create_task(yard.manager.run())
    await yard.use("a")
    publish = yard.events.publish

    def broken(name: str, at: float, **fields: object) -> None:
        if name == "model.loaded":
            raise RuntimeError("planted")
        publish(name, at, **fields)

    monkeypatch.setattr(yard.events, "publish", broken)

    async with asyncio.timeout(20):
        with pytest.raises(ShuttingDown):
            await yard.use("c")
        with pytest.raises(RuntimeError, match="planted"):
            await running
        await yard.manager.close()

    assert yard.starter.starts == ["a", "c"]
    assert yard.starter.live == []

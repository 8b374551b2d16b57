"""One ledger over everybody who holds memory on a device: two engines with processes of their own, an Ollama server
with clients of its own, and a program that is none of our business.

The device is simulated, the rest is real: processes, sockets, HTTP. What processes hold counts from the moment their
start is asked for until they no longer exist, so what the ledger believes is held against what is true.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import psutil

from modelyard.clock import SystemClock
from modelyard.engines.base import LaunchOptions
from modelyard.engines.echo import Echo, echo_model
from modelyard.errors import YardError
from modelyard.events import EventBus
from modelyard.memory.measured import Measured
from modelyard.memory.planner import add
from modelyard.providers.ollama_residents import OllamaResidents
from modelyard.residency.manager import ResidencyManager
from modelyard.residency.messages import DevicesRead, Effect, Event, Load
from modelyard.residency.neighbour_watch import NeighbourWatch
from modelyard.residency.neighbours import Neighbour, SharedNodeStarter, Starters
from modelyard.residency.ports import RunningWorker
from modelyard.residency.state import ResidencyLimits
from modelyard.types.memory import DeviceReading, Footprint, ProcessMemory
from modelyard.types.model import Model, ModelSpec, model_at
from modelyard.types.status import Residency
from modelyard.units import GIB, MIB
from modelyard.workers.run_folder import RunFolder
from modelyard.workers.start import Starter
from tests.support.counts import count, tell
from tests.support.node import ask, client, echo, fetch, resident, running, until
from tests.support.ollama_node import FakeOllama, Installed

CLOCK = SystemClock()
GPU = "gpu0"
CAPACITY, HEADROOM = 12 * GIB, GIB
BUDGET = CAPACITY - HEADROOM
REQUESTS = count(suite=300, prove=3000)
AT_ONCE = 10
DEADLINE_S = 60.0
STEADY = {"steady-2": 2 * GIB, "steady-3": 3 * GIB, "steady-5": 5 * GIB, "steady-20": 20 * GIB}
VAGUE = {"vague-2": 2 * GIB, "vague-4": 4 * GIB}  # predicted with a band, and larger than predicted
BAND_RATIO, WRONG_RATIO = 0.1, 1.08
THEIRS = {"o1:1b": GIB, "o2:1b": 2 * GIB, "o3:3b": 3 * GIB, "o6:8b": 6 * GIB}
THERE = {name: model_at("studio", "ollama", name) for name in THEIRS}


class Machine:
    """One GPU, and who really holds how much of it."""

    def __init__(self) -> None:
        self.hog_bytes = 0
        self.used_bytes: dict[str, int] = {GPU: 0}  # of the Ollama server, which keeps this account itself
        self.starting: Counter[str] = Counter()
        self.workers: dict[int, int] = {}  # process id -> bytes
        self.changing = threading.Lock()
        self.most_bytes = 0
        self.over: list[str] = []

    def used(self) -> int:
        with self.changing:  # the device is read on other threads too
            living = sum(held for pid, held in self.workers.items() if _lives(pid))
            used = self.hog_bytes + self.used_bytes[GPU] + living + sum(self.starting.values())
        self.most_bytes = max(self.most_bytes, used)
        if used > BUDGET:
            self.over.append(f"in truth {used / GIB:.2f} GiB are in use")
        return used

    def read(self) -> tuple[DeviceReading, ...]:
        used = self.used()
        return (
            DeviceReading("ram", "RAM", 64 * GIB, 64 * GIB),
            DeviceReading(GPU, "simulated", CAPACITY, max(0, CAPACITY - used), "gpu"),
        )

    def process(self, pid: int) -> ProcessMemory:
        return ProcessMemory(gpu_bytes={GPU: self.workers.get(pid, 0)}) if _lives(pid) else ProcessMemory()


class Scripted(Echo):
    """An engine of its own for models that say they are its own; they live on the GPU."""

    def __init__(self, name: str, sizes: dict[str, int], band_ratio: float) -> None:
        super().__init__(os.environ)
        self.name, self._sizes, self._band_ratio = name, sizes, band_ratio

    def serves(self, model: Model) -> bool:
        return model.name in self._sizes

    async def footprint(self, model: Model, options: LaunchOptions) -> Footprint:
        return Footprint({GPU: self._sizes[model.name]}, "declared", self._band_ratio)


class Watched:
    """A starter whose workers are on the machine's account from the first moment on."""

    def __init__(self, inner: Starter, machine: Machine) -> None:
        self._inner, self._machine = inner, machine

    async def spec(self, model: Model, context_length: int | None = None) -> ModelSpec:
        return await self._inner.spec(model, context_length)

    def remember(self, spec: ModelSpec, measured: Measured) -> None:
        self._inner.remember(spec, measured)

    async def start(
        self, model: Model, epoch: int, on_progress: Callable[[str, float], None], spec: ModelSpec | None = None
    ) -> RunningWorker:
        size = STEADY.get(model.name) or int(VAGUE[model.name] * WRONG_RATIO)
        with self._machine.changing:
            self._machine.starting[model.name] = size
        self._machine.used()
        pid = 0
        try:
            worker = await self._inner.start(model, epoch, on_progress, spec)
            pid = worker.pid
        finally:
            with self._machine.changing:
                del self._machine.starting[model.name]
                self._machine.workers[pid] = size if pid else 0
        return worker


class Yard:
    """Everything on one machine, and an observer at the owner's elbow."""

    def __init__(self, machine: Machine, manager: ResidencyManager, server: FakeOllama, watch: NeighbourWatch) -> None:
        self.machine, self.manager, self.server, self.watch = machine, manager, server, watch
        self.scheduler = manager._scheduler
        self.looks: Counter[str] = Counter()
        self.broken: list[str] = []
        step = self.scheduler.step

        def observed(event: Event) -> list[Effect]:
            effects = step(event)
            for effect in effects:
                if isinstance(effect, Load):
                    self.looks["load"] += 1
                    if self.free() < 0:
                        self.broken.append(f"{-self.free() / MIB:.0f} MiB too much with {effect.model}")
            if isinstance(event, DevicesRead) and event.readings:
                self.looks["reading"] += 1
                believed = BUDGET - self.free()
                if believed < event.readings[1].used_bytes:
                    self.broken.append(f"{(event.readings[1].used_bytes - believed) / MIB:.0f} MiB nobody accounts for")
            return effects

        self.scheduler.step = observed  # type: ignore[method-assign]

    def free(self) -> int:
        """Of the budget, by the ledger."""
        held = add(*(record.held for record in self.scheduler.records.values())).get(GPU, 0)
        return BUDGET - held - self.scheduler.books.ledgers[GPU].foreign_bytes

    def is_quiet(self) -> bool:
        """Nobody loads or leaves: while one does, its memory cannot be told from a stranger's. Headroom is for that."""
        states = (Residency.RESIDENT, Residency.DRAINING)
        return all(record.state in states for record in self.scheduler.records.values())

    def has_at_most(self, count: int) -> bool:
        return len(self.scheduler.records) <= count

    def know(self) -> None:
        """What somebody else has just done is known at once: how late it may be known is another guarantee's matter."""
        self.manager.feed(DevicesRead(CLOCK.monotonic(), self.manager._hosting.read_devices()))

    async def ask(self, model: Model, hold_s: float) -> str:
        deadline = CLOCK.monotonic() + DEADLINE_S
        try:
            async with self.manager.lease(model, ticket="t", caller=model.engine, deadline=deadline):
                await asyncio.sleep(hold_s)
        except YardError as verdict:
            return verdict.code
        return "served"

    async def meddle(self, chance: random.Random) -> None:
        """The other program takes or gives; the server's own clients bring models in, and have them taken out."""
        await until(self.is_quiet, "a moment without a load or an unload")
        records = self.scheduler.records
        fitting = [
            name for name, size in THEIRS.items()
            if size <= self.free() and name not in self.server.running and THERE[name].name not in records
        ]  # fmt: skip
        act = chance.choice(("hog", "their load", "their load", "their unload"))
        if act == "hog":
            self.machine.hog_bytes = min(chance.choice((0, 1, 2)) * GIB, self.machine.hog_bytes + max(0, self.free()))
        elif act == "their load" and fitting:
            faults, load_s = self.server.faults, self.server.faults.load_s
            faults.load_s = 0.0  # at once, before anybody else can act
            await self.server.load(chance.choice(fitting), -1)
            faults.load_s = load_s
        elif act == "their unload" and self.server.running:
            self.server.drop(chance.choice(self.server.names()))
        else:
            return
        self.looks[act] += 1
        self.know()


@asynccontextmanager
async def yard() -> AsyncIterator[Yard]:
    machine, events = Machine(), EventBus()
    installed = {name: Installed(size, size) for name, size in THEIRS.items()}
    async with AsyncExitStack() as stack:
        run = stack.enter_context(RunFolder())
        server = await stack.enter_async_context(FakeOllama(installed, machine).serving())  # type: ignore[arg-type]
        node = await stack.enter_async_context(OllamaResidents("studio", server.url, (GPU,), CLOCK))
        engines = (Scripted("steady", STEADY, 0.0), Scripted("vague", VAGUE, BAND_RATIO))
        there = SharedNodeStarter([Neighbour("studio", node, (GPU,), CLOCK)], machine.read, CLOCK)
        starter = Starters(Watched(Starter(engines, run, machine.process), machine), there)
        limits = ResidencyLimits(headroom_bytes=HEADROOM, residence_load_ratio=0.2, drain_after_s=1.0)
        manager = ResidencyManager(CLOCK, events, machine, starter, limits, read_every_s=0.05)
        watch = NeighbourWatch(there, manager.guests, events, CLOCK, every_s=0.05)
        manager.look_around = watch.fresh
        tasks = [asyncio.create_task(manager.run()), asyncio.create_task(watch.run())]
        server.faults.load_s = server.faults.unload_s = 0.05
        await watch.look()
        try:
            yield Yard(machine, manager, server, watch)
        finally:
            tasks[1].cancel()
            await manager.close()
            await tasks[0]


def models() -> list[Model]:
    ours = [echo_model(name, slots=2) for name in (*STEADY, *VAGUE)]
    return [*ours, *THERE.values()]


async def test_three_runtimes_and_a_stranger_share_one_device_and_it_is_never_promised_twice() -> None:
    chance = random.Random(20)
    async with yard() as it:
        wanted = models()
        favourite, gate, tasks = chance.choice(wanted), asyncio.Semaphore(AT_ONCE), []

        async def one(model: Model, hold_s: float) -> str:
            try:
                return await it.ask(model, hold_s)
            finally:
                gate.release()

        for number in range(REQUESTS):
            if number % 6 == 0:
                favourite = chance.choice(wanted)
            if number % 4 == 0:
                await it.meddle(chance)
            await gate.acquire()
            model = favourite if chance.random() < 0.85 else chance.choice(wanted)
            tasks.append(asyncio.create_task(one(model, chance.choice((0.0, 0.01, 0.05)))))
        outcomes = Counter(await asyncio.gather(*tasks))
        leases, waiting = it.manager.lease_count, it.manager.queue_length
        loads = Counter("theirs" if "@" in one.spec.name else "ours" for one in it.scheduler.records.values())

    tell(f"{dict(outcomes)}; {dict(it.looks)}; at the end {dict(loads)}; at most {it.machine.most_bytes / GIB:.2f} GiB")
    assert it.broken == []
    assert it.machine.over == []
    assert outcomes.total() == REQUESTS
    assert outcomes["served"] >= REQUESTS * 0.7
    assert set(outcomes) <= {"served", "insufficient_memory"}
    assert leases == waiting == 0
    assert it.looks["load"] >= 20
    assert it.looks["their load"] >= 5
    assert it.machine.most_bytes > BUDGET * 0.8, "there was no need to be careful"


async def test_when_a_stranger_takes_too_much_idle_models_leave_at_once_whoever_brought_them_in() -> None:
    ours = next(model for model in models() if model.name == "steady-5")
    theirs = THERE["o3:3b"]
    async with yard() as it:
        assert await it.ask(ours, 0.0) == "served"
        await it.server.load("o3:3b", -1)
        await it.watch.look()
        assert set(it.scheduler.records) == {ours.name, theirs.name}

        for left in (1, 0):
            it.machine.hog_bytes += CAPACITY - it.machine.used()  # all there is
            it.know()
            states = [record.state for record in it.scheduler.records.values()]
            assert Residency.LEAVING in states, "in the same step"
            await until(partial(it.has_at_most, left), "one has gone")
        assert it.server.names() == []
        loads = it.looks["load"]
        waiting = asyncio.create_task(it.ask(ours, 0.0))
        await until(lambda: it.manager.queue_length == 1, "it waits for the stranger")
        it.know()
        assert it.looks["load"] == loads, "a load while there is no room"

        it.machine.hog_bytes = 0
        it.know()

        assert await waiting == "served"
    assert it.broken == []


async def test_a_whole_server_counts_an_ollama_servers_models_and_takes_their_room() -> None:
    config = echo(mine={"footprint_bytes": 600 * MIB})
    config["memory"] |= {"ram_limit_bytes": 1024 * MIB, "headroom_bytes": 64 * MIB}
    theirs = "small:1b@studio"
    async with FakeOllama({"small:1b": Installed(500 * MIB, 0)}).serving() as server:
        config["nodes"] = [{"name": "studio", "url": server.url, "devices": ["ram"]}]
        await server.load("small:1b")
        async with running(config) as yard, client() as session:
            await until(lambda: resident(session, yard, theirs), "it is in the ledger")
            shown = await resident(session, yard, theirs)
            assert shown is not None
            assert (shown["engine"], shown["reserved_bytes"]) == ("ollama", {"ram": 500 * MIB})

            assert (await ask(session, yard, "mine")).status == 200
            assert server.unloads() == ["small:1b"]

            await fetch(session, yard, "/admin/models/mine/unload", "POST", json={})
            await server.load("small:1b")
            await until(lambda: resident(session, yard, theirs), "it is back")
            answer = await fetch(session, yard, f"/admin/models/{theirs}/unload", "POST", json={})
            assert answer["receipt"]["reason"] == "operator"
            assert server.names() == []

            await server.load("small:1b")
            await until(lambda: resident(session, yard, theirs), "it is back once more")
            told = [event for event in yard.log_events() if event.get("event") == "model.evicted"]
        assert server.names() == ["small:1b"], "what others brought in stays when only we end"
    assert [(event["model"], event["wanted_by"]) for event in told] == [(theirs, "mine")]


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

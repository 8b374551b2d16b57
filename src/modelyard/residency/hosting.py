"""Carries out loads and unloads, and measures what they did. Says what came of it; decides nothing.

One `Hosted` per load. Whatever goes wrong on the way, the scheduler hears of exactly one end of each.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial

import structlog

from modelyard.clock import Clock
from modelyard.diagnosis import crash
from modelyard.diagnosis.showing import shown
from modelyard.errors import N_, LoadFailed, OutOfMemory, YardError
from modelyard.events import EventBus
from modelyard.memory.machine import DeviceReader
from modelyard.memory.measured import Measured
from modelyard.memory.planner import add, corrected, in_use
from modelyard.types.memory import Footprint, ProcessMemory, Receipt
from modelyard.types.model import Model, ModelSpec

from .lease import Hosted
from .messages import Adopt, DevicesRead, Event, Load, LoadBroke, Loaded, Unload, Unloaded, WorkerDied
from .ports import RunningWorker, WorkerStarter
from .progress import ProgressTeller
from .receipts import Readings, counted_bytes, measure, memory_back, receipt, told, used_bytes

LAST_LINES_SHOWN = 5
MEASURED_BAND_RATIO = 0.05  # how wrong a prediction is that was measured before

_log = structlog.get_logger()

Learn = Callable[[Hosted, ModelSpec], None]


class Hosting:
    """The workers of this node."""

    def __init__(
        self,
        clock: Clock,
        events: EventBus,
        devices: DeviceReader,
        starter: WorkerStarter,
        feed: Callable[[Event], None],
        *,
        memory_back_s: float,
        stop_s: float,
    ) -> None:
        self._clock, self._events, self._devices, self._starter, self._feed = clock, events, devices, starter, feed
        self._memory_back_s = memory_back_s
        self._stop_s = stop_s
        self._before_begin: list[Coroutine[None, None, None]] = []
        self.tasks: asyncio.TaskGroup | None = None
        self._on_failure: Callable[[Exception], None] = lambda _failure: None
        self.by_epoch: dict[int, Hosted] = {}
        self.left_behind: dict[int, str] = {}  # workers that could not be ended: process id -> model
        self.read_at = float("-inf")
        self._newest: tuple[float, Readings] = (float("-inf"), ())
        self._keeping = threading.Lock()  # looks are made on several threads

    def begin(self, tasks: asyncio.TaskGroup, on_failure: Callable[[Exception], None]) -> None:
        """From here on there is somebody to carry things out; what was asked for before is done now."""
        self.tasks, self._on_failure = tasks, on_failure
        for act in self._before_begin:
            tasks.create_task(act)
        self._before_begin.clear()

    def current(self, name: str) -> Hosted | None:
        """The newest load of a model that has not ended."""
        return next((one for one in reversed(self.by_epoch.values()) if one.spec.name == name), None)

    def read_devices(self) -> Readings:
        """Look at the devices. A look that fails must not end the node: then nothing has changed."""
        began_at = self.read_at = self._clock.monotonic()
        try:
            readings = self._devices.read()
        except Exception:
            _log.exception("residency.devices_not_read")
            return self.newest
        with self._keeping:
            if began_at >= self._newest[0]:
                self._newest = (began_at, readings)
        return readings

    @property
    def newest(self) -> Readings:
        """The look that began last. It is what is told: an older one that ends later would take back what is known."""
        return self._newest[1]

    async def look(self) -> None:
        """Measure devices and workers off the loop's thread, and tell."""
        up = {one.spec.name: (one.epoch, one.worker) for one in self.by_epoch.values() if one.worker is not None}
        memory = await asyncio.to_thread(self._measure_all, up)
        for epoch, held in memory.values():
            if epoch in self.by_epoch:
                self.by_epoch[epoch].memory = held
        used = {name: (epoch, in_use(held)) for name, (epoch, held) in memory.items()}
        self._feed(DevicesRead(self._clock.monotonic(), self.newest, used))

    def load(self, model: Model, effect: Load, learn: Learn) -> None:
        hosted = Hosted(model, effect.spec, effect.epoch, self._clock.monotonic())
        self.by_epoch[effect.epoch] = hosted
        self._do(self._guarded(hosted, self._load(hosted, learn)))

    def unload(self, effect: Unload) -> None:
        hosted = self.by_epoch[effect.epoch]
        hosted.leaving_because = effect.reason
        if hosted.is_guest and effect.reason == "shutdown":  # only we end; it is there for others
            self._end(hosted, None)
            self._feed(Unloaded(self._clock.monotonic(), effect.model, effect.epoch))
            return
        if hosted.worker is not None:
            self._do(self._guarded(hosted, self._unload(hosted, hosted.worker)))
            return
        hosted.is_given_up = True  # its load ends it
        if hosted.starting is not None:
            hosted.starting.cancel()

    def adopt(self, model: Model, effect: Adopt, worker: RunningWorker) -> None:
        """Another node brought it in; there is nothing to start."""
        hosted = Hosted(model, effect.spec, effect.epoch, self._clock.monotonic())
        hosted.worker, hosted.ready_at, hosted.loaded_at = worker, hosted.began_at, self._clock.wall()
        hosted.is_guest = True
        self.by_epoch[effect.epoch] = hosted

    def forget(self, epoch: int) -> None:
        """Another node took it out; there is nothing to stop."""
        hosted = self.by_epoch.get(epoch)
        if hosted is not None:
            self._end(hosted, None)

    # Loading.

    async def _load(self, hosted: Hosted, learn: Learn) -> None:
        before = used_bytes(await asyncio.to_thread(self.read_devices))
        error = await self._start(hosted, before, learn)
        if hosted.worker is not None:
            return
        await self.look()  # what it held is not foreign
        now, name = self._clock.monotonic(), hosted.spec.name
        self._end(hosted, None)
        if error is not None and not hosted.is_given_up:
            self._feed(LoadBroke(now, name, hosted.epoch, error, is_memory=isinstance(error, OutOfMemory)))
        else:
            self._feed(Unloaded(now, name, hosted.epoch))

    async def _start(self, hosted: Hosted, before: dict[str, int], learn: Learn) -> YardError | None:
        """Start the worker, unless it was given up; why it failed, or None."""
        if hosted.is_given_up:
            return None
        progress = ProgressTeller(hosted, self._clock, self._events)
        hosted.starting = asyncio.ensure_future(self._starter.start(hosted.model, hosted.epoch, progress, hosted.spec))
        try:
            await asyncio.wait([hosted.starting])
        except asyncio.CancelledError:  # the node ends: nothing may stay behind
            hosted.starting.cancel()
            await asyncio.wait([hosted.starting])
            if not hosted.starting.cancelled() and hosted.starting.exception() is None:
                await hosted.starting.result().stop()
            raise
        if hosted.starting.cancelled():
            return None if hosted.is_given_up else LoadFailed(model=hosted.spec.name, problem=N_("it was cancelled"))
        error = hosted.starting.exception()
        if error is None:
            await self._ready(hosted, hosted.starting.result(), before, learn)
            return None
        if isinstance(error, YardError):
            return error
        _log.error("residency.load_error", model=hosted.spec.name, exc_info=error)
        return LoadFailed(model=hosted.spec.name, problem=f"{type(error).__name__}: {error}")

    async def _ready(self, hosted: Hosted, worker: RunningWorker, before: dict[str, int], learn: Learn) -> None:
        """Measure a new worker and hand it over; from here on it can be unloaded like any other."""
        name = hosted.spec.name
        try:
            memory = await asyncio.to_thread(measure, worker.memory)
            readings = await asyncio.to_thread(self.read_devices)
        except asyncio.CancelledError:
            await worker.stop()
            raise
        if hosted.is_given_up:
            await worker.stop()
            return
        now = self._clock.monotonic()
        hosted.worker, hosted.ready_at, hosted.loaded_at = worker, now, self._clock.wall()
        hosted.memory = memory
        hosted.receipt = receipt("load", name, "request", before, used_bytes(readings), memory, hosted.load_s)
        self._learned(hosted, memory, learn)
        held, used = corrected(hosted.spec.footprint, memory), in_use(memory)
        self._feed(DevicesRead(now, self.newest))
        self._tell("model.loaded", hosted, hosted.receipt)
        self._feed(Loaded(now, name, hosted.epoch, worker.slots, held, used, hosted.load_s))
        worker.exited.add_done_callback(partial(self._worker_exited, hosted, worker))

    def _learned(self, hosted: Hosted, memory: ProcessMemory, learn: Learn) -> None:
        old = hosted.spec.footprint
        footprint = Footprint(corrected(old, memory), "measured", min(old.band_ratio, MEASURED_BAND_RATIO), old.parts)
        learn(hosted, replace(hosted.spec, footprint=footprint, load_s_expected=hosted.load_s))
        self._remember(hosted, memory, (hosted.load_s,))

    def _remember(self, hosted: Hosted, memory: ProcessMemory, loads_s: tuple[float, ...] = ()) -> None:
        """For the next prediction, also after a restart. What an engine said of its parts stays beside it."""
        spec, most = hosted.spec, max(memory.anonymous_bytes, hosted.memory.anonymous_bytes)
        parts = {name: count for name, count in spec.footprint.parts.items() if not name.startswith("measured_")}
        known = Measured(corrected(spec.footprint, memory), parts, most, memory.file_bytes, loads_s)
        self._starter.remember(spec, known)

    def _worker_exited(self, hosted: Hosted, worker: RunningWorker, exited: asyncio.Future[str]) -> None:
        if exited.cancelled() or hosted.leaving_because:
            return
        error = crash(hosted.spec.name, exited.result(), worker.verdict())
        error.fields["last_lines"] = " | ".join(shown(line) for line in worker.last_lines()[-LAST_LINES_SHOWN:])
        self._feed(WorkerDied(self._clock.monotonic(), hosted.spec.name, hosted.epoch, error))

    # Unloading.

    async def _unload(self, hosted: Hosted, worker: RunningWorker) -> None:
        began_at = self._clock.monotonic()
        memory = await asyncio.to_thread(measure, worker.memory)
        if memory.anonymous_bytes or memory.gpu_bytes:  # what it held after its work says more than what it began with
            self._remember(hosted, memory)
        first = await asyncio.to_thread(self.read_devices)
        before = used_bytes(first)
        await self._stop(hosted, worker)
        expected = (
            memory if hosted.spec.kind == "local" else replace(memory, anonymous_bytes=0)
        )  # it may be mapped files
        readings, leaked = await memory_back(
            self.read_devices, counted_bytes(first), expected, self._memory_back_s, partial(self._coming, began_at)
        )
        now = self._clock.monotonic()
        after = used_bytes(readings)
        done = receipt(
            "unload", hosted.spec.name, hosted.leaving_because, before, after, memory, now - began_at, leaked
        )
        self._end(hosted, done)
        self._feed(DevicesRead(now, self.newest))
        self._tell("model.unloaded", hosted, done)
        self._feed(Unloaded(now, hosted.spec.name, hosted.epoch, leaked))

    async def _stop(self, hosted: Hosted, worker: RunningWorker) -> None:
        """A process that cannot be ended must not hold up everything else: its memory then shows as leaked."""
        try:
            async with asyncio.timeout(self._stop_s):
                await worker.stop()
            if worker.pid and not worker.exited.done():  # not even KILL ended it
                self.left_behind[worker.pid] = hosted.spec.name
        except TimeoutError:
            self.left_behind[worker.pid] = hosted.spec.name
            _log.error("residency.worker_will_not_end", model=hosted.spec.name, pid=worker.pid)
        except YardError as error:
            _log.error("residency.worker_stays", model=hosted.spec.name, code=error.code, problem=str(error))
        except Exception:
            _log.exception("residency.stop_error", model=hosted.spec.name, pid=worker.pid)

    def _coming(self, since: float) -> dict[str, int]:
        """What loads that overlap with a time may have taken."""
        loads = [one for one in self.by_epoch.values() if one.worker is None or one.ready_at >= since]
        return add(*(one.spec.footprint.reserved_bytes for one in loads))

    # Both.

    def _end(self, hosted: Hosted, done: Receipt | None) -> None:
        del self.by_epoch[hosted.epoch]
        if not hosted.end.done():
            hosted.end.set_result(done)

    def _do(self, act: Coroutine[None, None, None]) -> None:
        if self.tasks is None:
            self._before_begin.append(act)
        else:
            self.tasks.create_task(act)

    async def _guarded(self, hosted: Hosted, act: Coroutine[None, None, None]) -> None:
        """An act that fails in a way nobody foresaw ends the node, and leaves neither a process nor anybody waiting."""
        try:
            await act
        except Exception as failure:
            self._on_failure(failure)
            if hosted.worker is not None:
                await self._stop(hosted, hosted.worker)
            if not hosted.end.done():
                hosted.end.set_result(None)

    def _measure_all(self, up: dict[str, tuple[int, RunningWorker]]) -> dict[str, tuple[int, ProcessMemory]]:
        memory = {name: (epoch, measure(worker.memory)) for name, (epoch, worker) in up.items()}
        self.read_devices()
        return memory

    def _tell(self, name: str, hosted: Hosted, done: Receipt) -> None:
        spec, what = hosted.spec, {"engine": hosted.model.engine, "purpose": hosted.spec.purpose}
        fields = {"model": spec.name, **what, "epoch": hosted.epoch, **told(done)}
        _log.info(name, **fields)
        self._events.publish(name, self._clock.wall(), **fields)

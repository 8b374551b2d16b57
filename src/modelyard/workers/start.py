"""From a model to a running worker: choose the engine, its options and footprint, start it, wait until it serves.

What residency asks for and all it sees of processes. Decides nothing about memory: it is told to start, and starts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import structlog

from modelyard.engines.base import Engine, LaunchOptions
from modelyard.errors import LoadFailed, ModelFileError
from modelyard.types.memory import Footprint, ProcessMemory
from modelyard.types.model import Model, ModelSpec
from modelyard.units import GIB
from modelyard.workers.process import KILL_S, TERM_S, ExitStatus, Worker, spawn
from modelyard.workers.ready import LoadWatch, wait_ready
from modelyard.workers.run_folder import RunFolder

SPECS_MAX = 1024
LOAD_BYTES_PER_S_EXPECTED = 500_000_000  # a first guess of what a load costs, until one was measured

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StartLimits:
    """How long a load may take, and a stop."""

    load_stall_s: float = 60.0
    load_s: float = 300.0
    load_s_per_gib: float = 20.0
    term_s: float = TERM_S
    kill_s: float = KILL_S

    def deadline_s(self, size_bytes: int) -> float:
        return self.load_s + self.load_s_per_gib * size_bytes / GIB


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long one model stays, if its configuration says so."""

    idle_ttl_s: float | None = None
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How one model is started: the same for every start until its files or the settings change."""

    engine: Engine
    options: LaunchOptions
    footprint: Footprint
    spec: ModelSpec


class StartedWorker:
    """A worker that serves one model. `exited` says how it ended."""

    def __init__(self, worker: Worker, plan: Plan, memory: Callable[[], ProcessMemory], limits: StartLimits) -> None:
        self.pid = worker.pid
        self.socket = worker.socket
        self.slots = plan.options.slots
        self.context_length = plan.options.context_length
        self.exited: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.memory = memory
        self._worker = worker
        self._limits = limits
        worker.exited.add_done_callback(self._tell_end)

    def last_lines(self) -> tuple[str, ...]:
        """What the worker said last."""
        return self._worker.last_lines()

    async def stop(self) -> None:
        """End the process and everything it started; returns when it is gone. Also clears up after a crash."""
        await self._worker.stop(term_s=self._limits.term_s, kill_s=self._limits.kill_s)

    def _tell_end(self, ended: asyncio.Future[ExitStatus]) -> None:
        if not self.exited.done():
            self.exited.set_result(ended.result().text)


class Starter:
    """Starts workers in one run's folder. Implements residency's `WorkerStarter`."""

    def __init__(
        self,
        engines: Iterable[Engine],
        run: RunFolder,
        memory: Callable[[int], ProcessMemory],
        limits: StartLimits | None = None,
        keeping: Mapping[str, Keeping] | None = None,
    ) -> None:
        """`memory` measures a process and all below it: a device reader's `process`. `keeping` is by model name."""
        self._engines = tuple(engines)
        self._run = run
        self._memory = memory
        self._limits = limits or StartLimits()
        self._keeping = {name.lower(): value for name, value in (keeping or {}).items()}
        self._plans: OrderedDict[str, asyncio.Task[Plan]] = OrderedDict()

    async def spec(self, model: Model) -> ModelSpec:
        """What residency must know to place the model. Raises `LoadFailed` if no engine serves it."""
        return (await self.plan(model)).spec

    async def plan(self, model: Model) -> Plan:
        """Options with their reasons, and the footprint. Worked out once per model identity, however many ask."""
        if model.problem:
            raise ModelFileError(path=model.name, problem=model.problem)
        key = model.identity or model.name
        task = self._plans.get(key)
        if task is None:
            task = self._plans[key] = asyncio.create_task(self._make_plan(model))
            while len(self._plans) > SPECS_MAX:
                self._plans.popitem(last=False)
        try:
            # Shielded: whoever asked first may leave while others wait for the same answer.
            return await asyncio.shield(task)
        except BaseException:
            if task.done() and self._plans.get(key) is task and (task.cancelled() or task.exception()):
                del self._plans[key]  # a failure is not an answer to keep
            raise

    async def start(self, model: Model, epoch: int, on_progress: Callable[[str, float], None]) -> StartedWorker:
        """Raises `LoadFailed` or `LoadStalled`. Whatever goes wrong, cancellation too, nothing is left running."""
        plan = await self.plan(model)
        command = plan.engine.command(model, plan.options, self._run.new_socket())
        try:
            worker = await spawn(command, run_folder=self._run.path, mark=self._run.mark)
        except OSError as error:
            problem = f"the worker cannot be started: {error.strerror or error}"
            raise LoadFailed(model=model.name, problem=problem) from error
        memory = partial(self._memory, worker.pid)
        watch = LoadWatch(
            model=model.name,
            stall_s=self._limits.load_stall_s,
            deadline_s=self._limits.deadline_s(model.size_bytes),
            explain=plan.engine.explain_failure,
            memory=memory,
            on_progress=on_progress,
            expected_bytes=plan.footprint.total_bytes,
        )
        try:
            await wait_ready(worker, watch)
        except BaseException as error:
            lines = worker.last_lines()
            await worker.stop(term_s=self._limits.term_s, kill_s=self._limits.kill_s)
            _log.warning(
                "worker.load_ended",
                model=model.name,
                epoch=epoch,
                pid=worker.pid,
                why=type(error).__name__,
                lines=lines,
            )
            raise
        return StartedWorker(worker, plan, memory, self._limits)

    async def _make_plan(self, model: Model) -> Plan:
        engine = next((engine for engine in self._engines if engine.serves(model)), None)
        if engine is None:
            raise LoadFailed(model=model.name, problem=f"no engine here serves it ({model.engine or 'unknown format'})")
        options = engine.options(model)
        footprint = await engine.footprint(model, options)
        keeping = self._keeping.get(model.name.lower(), Keeping())
        spec = ModelSpec(
            name=model.name,
            identity=f"{model.identity or model.name}+{_digest(options)}",
            footprint=footprint,
            slots=options.slots,
            load_s_expected=0.2 + model.size_bytes / LOAD_BYTES_PER_S_EXPECTED,
            idle_ttl_s=keeping.idle_ttl_s,
            pinned=keeping.pinned,
        )
        return Plan(engine, options, footprint, spec)


def _digest(options: LaunchOptions) -> str:
    text = json.dumps([options.slots, options.context_length, dict(options.values)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]

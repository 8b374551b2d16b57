"""From a model to a running worker: choose the engine, its options and footprint, start it, wait until it serves.

What residency asks for and all it sees of processes. Decides nothing about memory: it is told to start, and starts.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import structlog

from modelyard.diagnosis import Verdict
from modelyard.engines.base import Engine
from modelyard.errors import LoadFailed, said
from modelyard.memory.measured import Measured, MeasuredStore
from modelyard.models.problems import unusable
from modelyard.types.memory import ProcessMemory
from modelyard.types.model import Model, ModelSpec
from modelyard.units import GIB
from modelyard.workers.launch_plan import Keeping, LaunchPlanner, Plan, key_of
from modelyard.workers.process import KILL_S, TERM_S, ExitStatus, Worker, spawn
from modelyard.workers.ready import LoadWatch, wait_ready
from modelyard.workers.run_folder import RunFolder
from modelyard.workers.trace import Trace

SPECS_MAX = 1024

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


class StartedWorker:
    """A worker that serves one model. `exited` says how it ended."""

    def __init__(self, worker: Worker, plan: Plan, trace: Trace, limits: StartLimits) -> None:
        self.pid = worker.pid
        self.socket = worker.socket
        self.has_progress = worker.has_progress
        self.slots = plan.options.slots
        self.context_length = plan.options.context_length
        self.exited: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.memory = trace.memory
        self._worker = worker
        self._trace = trace
        self._verdict: Verdict | None = None
        self._limits = limits
        worker.exited.add_done_callback(self._tell_end)

    def last_lines(self) -> tuple[str, ...]:
        """What the worker said last."""
        return self._worker.last_lines()

    def verdict(self) -> Verdict:
        """Why it ended; to be asked when it has."""
        if self._verdict is None:
            self._verdict = self._trace.verdict(self._worker.exited.result(), self.last_lines())
        return self._verdict

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
        store: MeasuredStore | None = None,
    ) -> None:
        """`memory` measures a process and all below it: a device reader's `process`. `keeping` is by model name."""
        self._run = run
        self._memory = memory
        self.limits = limits or StartLimits()
        self._planner = LaunchPlanner(engines, keeping or {}, store or MeasuredStore())
        self._plans: OrderedDict[tuple[str, int | None], asyncio.Task[tuple[Plan, ...]]] = OrderedDict()

    def configure(self, keeping: Mapping[str, Keeping]) -> None:
        """Plan anew, with this, whatever is started next."""
        self._planner.configure(keeping)
        self._plans.clear()

    async def spec(self, model: Model, context_length: int | None = None) -> ModelSpec:
        """What residency must know to place the model. Raises `LoadFailed` if no engine serves it."""
        return (await self.plan(model, context_length)).spec

    async def plan(self, model: Model, context_length: int | None = None) -> Plan:
        """How it is started in full, with a context for so many tokens."""
        return (await self._ways(model, context_length))[0]

    async def estimates(self, model: Model) -> tuple[ModelSpec, ...]:
        """What a load would take with each size of context."""
        return await self._planner.estimates(model)

    def remember(self, spec: ModelSpec, measured: Measured) -> None:
        """What a load of this spec really took, for the next one, also after a restart."""
        self._planner.store.keep(key_of(spec), measured)
        for plans, _task in [(key, task) for key, task in self._plans.items() if key[0] == spec.name]:
            del self._plans[plans]

    async def start(
        self,
        model: Model,
        epoch: int,
        on_progress: Callable[[str, float], None],
        spec: ModelSpec | None = None,
    ) -> StartedWorker:
        """Start it in the way `spec` says, else in full. Raises `LoadFailed` or `LoadStalled`.

        Whatever goes wrong, cancellation too, nothing is left running.
        """
        plan = await self._chosen(model, spec)
        command = plan.engine.command(model, plan.options, self._run.new_socket())
        try:
            worker = await spawn(command, run_folder=self._run.path, mark=self._run.mark)
        except OSError as error:
            problem = said("the worker cannot be started: {error}", error=error.strerror or error)
            raise LoadFailed(model=model.name, problem=problem) from error
        watch = LoadWatch(
            model=model.name,
            stall_s=self.limits.load_stall_s,
            deadline_s=self.limits.deadline_s(model.size_bytes),
            explain=plan.engine.explain_failure,
            memory=partial(self._memory, worker.pid),
            on_progress=on_progress,
            expected_bytes=plan.footprint.total_bytes,
            given_up=plan.spec.degraded,
        )
        try:
            trace = await wait_ready(worker, watch)
        except BaseException as error:
            lines = worker.last_lines()
            await worker.stop(term_s=self.limits.term_s, kill_s=self.limits.kill_s)
            why = type(error).__name__
            _log.warning("worker.load_ended", model=model.name, epoch=epoch, pid=worker.pid, why=why, lines=lines)
            raise
        return StartedWorker(worker, plan, trace, self.limits)

    async def _chosen(self, model: Model, spec: ModelSpec | None) -> Plan:
        """The plan behind a spec that was handed out; settings may have changed since, then the nearest one."""
        ways = await self._ways(model, spec.context_length or None if spec is not None and not spec.degraded else None)
        if spec is None:
            return ways[0]
        alike = [way for way in ways if way.spec.identity == spec.identity and way.spec.degraded == spec.degraded]
        return alike[0] if alike else ways[0]

    async def _ways(self, model: Model, context_length: int | None) -> tuple[Plan, ...]:
        """Worked out once per model and wish, however many ask."""
        if model.problem:
            raise unusable(model)
        key = (model.name, context_length)
        task = self._plans.get(key)
        if task is not None and task.done() and not task.cancelled() and task.exception() is None:
            if task.result()[0].spec.identity.startswith(f"{model.identity or model.name}+"):
                return task.result()
            task = None  # its files have changed
        if task is None:
            task = self._plans[key] = asyncio.create_task(self._planner.ways(model, context_length))
            while len(self._plans) > SPECS_MAX:
                self._plans.popitem(last=False)
        try:
            # Shielded: whoever asked first may leave while others wait for the same answer.
            return await asyncio.shield(task)
        except BaseException:
            if task.done() and self._plans.get(key) is task and (task.cancelled() or task.exception()):
                del self._plans[key]  # a failure is not an answer to keep
            raise

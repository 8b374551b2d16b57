"""Owns the scheduler: brings it what happened and carries out what it asks for.

Promises: a lease is given back once, however its request ends; a load nobody cancelled is not cancelled with somebody
else's request; an unload is done when the processes are gone and their memory is back. It decides nothing: each `if`
here that could be a decision belongs into the scheduler. Everything runs on the event loop's thread, so `feed` needs no
lock; only measurements, which may be slow, go to a thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection

import structlog

from modelyard.clock import Clock
from modelyard.errors import YardError
from modelyard.events import EventBus
from modelyard.memory.holders import HolderReader, NoHolders
from modelyard.memory.machine import DeviceReader
from modelyard.types.memory import Receipt
from modelyard.types.model import Model, ModelSpec

from . import messages as say
from .guests import Guests
from .hosting import Hosting
from .lease import Asked, Hosted, Lease
from .ports import WorkerStarter
from .scheduler import Scheduler
from .standing import Standing
from .state import ResidencyLimits
from .use import NO_WISH, Use, Wish
from .watch import READ_EVERY_S, DeviceWatch

SPECS_MAX = 1024

_log = structlog.get_logger()


class ResidencyManager(Standing):
    """Who is in memory, and who may use it."""

    def __init__(
        self,
        clock: Clock,
        events: EventBus,
        devices: DeviceReader,
        starter: WorkerStarter,
        limits: ResidencyLimits | None = None,
        *,
        queue_s: float = 300.0,
        holders: HolderReader | None = None,
        read_every_s: float = READ_EVERY_S,
        memory_back_s: float = 5.0,
        stop_s: float = 20.0,
    ) -> None:
        self._clock, self._events, self._starter = clock, events, starter
        self.queue_s = queue_s  # longest wait for memory; may be changed at any time
        self._stop_s = stop_s
        self._scheduler = Scheduler(limits or ResidencyLimits())
        self._hosting = Hosting(clock, events, devices, starter, self.feed, memory_back_s=memory_back_s, stop_s=stop_s)
        self._watch = DeviceWatch(
            clock, events, self._scheduler, self._hosting, holders or NoHolders(), every_s=read_every_s
        )
        self.guests = Guests(clock, self._scheduler, self._hosting, self.feed, self._register)
        self.look_around: Callable[[], Awaitable[None]] | None = None  # at other nodes, before a model is placed
        self._inbox: deque[say.Event] = deque()
        self._is_stepping = False
        self._asked: dict[int, Asked] = {}
        self._tickets = 0
        self._numbers: dict[str, int] = {}  # by request: the number under which it waits
        self._models: dict[str, Model] = {}  # as last asked for, by name
        self._specs: dict[tuple[str, int | None], ModelSpec] = {}  # by model identity and wished context
        self._alarm: asyncio.TimerHandle | None = None
        self._closing = asyncio.Event()
        self._closed = asyncio.Event()
        self._failure: Exception | None = None  # what nobody foresaw: the node ends with it

    async def run(self) -> None:
        """Carry out loads and unloads until closed or cancelled; then end every worker."""
        async with asyncio.TaskGroup() as tasks:
            self._hosting.begin(tasks, self._fail)
            watching = tasks.create_task(self._watch.run(self._fail))
            try:
                await self._closing.wait()
            finally:
                try:
                    await self._end_all()
                finally:
                    watching.cancel()
                    self._hosting.tasks = None
                    self._closed.set()
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        """End every worker and `run`. Leases that are still out are broken."""
        self._closing.set()
        if self._hosting.tasks is not None:
            await self._closed.wait()

    # The data plane.

    def lease(
        self,
        model: Model,
        *,
        ticket: str,
        caller: str,
        deadline: float,
        keep_alive_s: float | None = None,
        wish: Wish = NO_WISH,
    ) -> Use:
        """Use a model: loaded if need be, others evicted if need be, waited for until `deadline` (monotonic).

        `async with manager.lease(...) as lease:`; `ticket` is the request's id.
        """
        return Use(self, model, ticket, caller, deadline, keep_alive_s, wish)

    async def take(self, use: Use) -> Lease:
        """The first half of a use; without a suspension if a slot is free."""
        wish = use.wish
        spec = self._specs.get((use.model.identity, wish.context_length))
        if spec is None:
            spec = await self._spec(use.model, wish.context_length)
        if self.look_around is not None and spec.name not in self._scheduler.records:
            await self.look_around()
        number, asked = self._ask(use.model, spec)
        try:
            due = min(use.deadline, asked.at + self.queue_s)
            wanted = say.Requested(asked.at, number, spec, use.caller, due, use.keep_alive_s, wish.priority, wish.role)
            self.feed(wanted)
            self._numbers[use.ticket] = number
            hosted = await self._watch.result(asked)
        except BaseException:
            self._forget(number, asked)
            raise
        finally:
            self._numbers.pop(use.ticket, None)
        now = self._clock.monotonic()
        if not hosted.leases:
            hosted.busy_since = now
        hosted.leases += 1
        use.number, use.hosted = number, hosted
        return Lease(hosted, asked.at, now, self._clock, self._report)

    def give_back(self, use: Use) -> None:
        """The second half."""
        assert use.hosted is not None, "given back before it was taken"
        use.hosted.leases -= 1
        del self._asked[use.number]
        self.feed(say.Released(self._clock.monotonic(), use.number))

    # The control plane.

    async def load(
        self, model: Model, *, pinned: bool | None = None, context_length: int | None = None, role: str = ""
    ) -> Receipt | None:
        """Bring a model in; the receipt of its load, or None if it was there already."""
        spec = await self._spec(model, context_length)
        if self.look_around is not None:
            await self.look_around()
        number, asked = self._ask(model, spec)
        try:
            self.feed(say.LoadAsked(asked.at, number, spec, asked.at + self.queue_s, pinned, role))
            hosted = await self._watch.result(asked)
        finally:
            self._forget(number, asked)
        return hosted.receipt if hosted.ready_at >= asked.at else None

    async def unload(self, name: str, *, force: bool = False, role: str = "") -> Receipt | None:
        """Take a model out, after its leases unless forced; None if it was not there, or another role still has it."""
        hosted = self._hosting.current(name)
        self.feed(say.UnloadAsked(self._clock.monotonic(), name, force, role))
        if hosted is None or (role and self._scheduler.roles.get(name)):
            return None
        return await asyncio.shield(hosted.end)

    def pin(self, name: str, *, pinned: bool) -> None:
        """Keep a model from eviction and expiry, or no longer."""
        self.feed(say.PinAsked(self._clock.monotonic(), name, pinned))

    def forget_specs(self, names: Collection[str] | None = None) -> None:
        """Plan these models anew when they are asked for next; all of them if none are named."""
        wanted = None if names is None else {name.lower() for name in names}
        gone = {model.identity for name, model in self._models.items() if wanted is None or name in wanted}
        self._specs = {key: spec for key, spec in self._specs.items() if key[0] not in gone}

    # The owner's loop.

    def feed(self, event: say.Event) -> None:
        """Tell the scheduler, and carry out what it asks for. What happens meanwhile waits its turn."""
        self._inbox.append(event)
        if self._is_stepping:
            return
        self._is_stepping = True
        try:
            while self._inbox:
                for effect in self._scheduler.step(self._inbox.popleft()):
                    self._carry_out(effect)
        finally:
            self._is_stepping = False

    def _carry_out(self, effect: say.Effect) -> None:
        match effect:
            case say.Grant():
                asked = self._asked.get(effect.ticket)
                if asked is None:  # nobody is there to take it
                    self.feed(say.Cancelled(self._clock.monotonic(), effect.ticket))
                else:
                    asked.answer(self._hosting.by_epoch[effect.epoch], None)
            case say.Refuse():
                asked = self._asked.get(effect.ticket)
                if asked is not None:
                    asked.answer(None, effect.error)
            case say.WakeAt():
                if self._alarm is not None:
                    self._alarm.cancel()
                wait_s = max(0.0, effect.at - self._clock.monotonic())
                self._alarm = asyncio.get_running_loop().call_later(wait_s, self._ring)
            case say.Tell():
                fields = {**effect.fields, "engine": self._models[str(effect.fields["model"])].engine}
                _log.info(effect.name, **fields)
                self._events.publish(effect.name, self._clock.wall(), **fields)
            case say.Adopt():
                self.guests.arrived(effect)
            case say.Load():
                self._hosting.load(self._models[effect.model], effect, self._learn)
            case say.Unload():
                self._hosting.unload(effect)

    def _ring(self) -> None:
        self._alarm = None
        self.feed(say.Tick(self._clock.monotonic()))

    def _ask(self, model: Model, spec: ModelSpec) -> tuple[int, Asked]:
        self._tickets += 1
        asked = self._asked[self._tickets] = Asked(self._clock.monotonic())
        self._models[spec.name] = model
        if self._watch.is_stale:
            self.feed(say.DevicesRead(asked.at, self._hosting.read_devices()))
        return self._tickets, asked

    def _forget(self, number: int, asked: Asked) -> None:
        """A ticket that ends here: if it was not refused it may still wait, or have been granted this very moment."""
        del self._asked[number]
        if asked.error is None:
            self.feed(say.Cancelled(self._clock.monotonic(), number))

    async def _spec(self, model: Model, context_length: int | None = None) -> ModelSpec:
        spec = self._specs.get((model.identity, context_length))
        if spec is None:
            spec = await self._starter.spec(model, context_length)
            self._keep(model, spec, context_length)
        return spec

    def _register(self, model: Model, spec: ModelSpec) -> None:
        self._models[spec.name] = model
        self._keep(model, spec, None)

    def _keep(self, model: Model, spec: ModelSpec, context_length: int | None) -> None:
        self._specs[model.identity, context_length] = spec
        while len(self._specs) > SPECS_MAX:
            del self._specs[next(iter(self._specs))]

    def _learn(self, hosted: Hosted, spec: ModelSpec) -> None:
        """The next load of the same model is planned with what this one really took."""
        for key, known in self._specs.items():
            is_same = known.identity == spec.identity and known.context_length == spec.context_length
            if key[0] == hosted.model.identity and is_same and not spec.degraded:
                self._specs[key] = spec

    def _report(self, hosted: Hosted, error: YardError) -> None:
        self.feed(say.WorkerDied(self._clock.monotonic(), hosted.spec.name, hosted.epoch, error))

    def _fail(self, failure: Exception) -> None:
        """End the node in order. Raised in a task, it would end the group that has to end the workers."""
        _log.error("residency.failed", exc_info=failure)
        self._failure = self._failure or failure
        self._closing.set()

    async def _end_all(self) -> None:
        self.feed(say.Shutdown(self._clock.monotonic(), force=True))
        ends = [hosted.end for hosted in self._hosting.by_epoch.values()]
        if ends:
            await asyncio.wait(ends, timeout=2 * self._stop_s)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

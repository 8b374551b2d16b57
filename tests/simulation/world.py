"""A simulated node around the scheduler: clients, operators, other nodes and other people's programs.

The same schedule is always the same story. It ends with all faults healed, and then everything must come to rest.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from modelyard.residency import messages as say
from modelyard.types.memory import Footprint
from modelyard.types.model import ModelSpec

from .machine import READ_EVERY_S, Client, Machine, Worker
from .plan import Act, Dice

HEALING_ENDS = frozenset((
    "wrong_sizes", "failing_loads", "cancels", "short_deadlines", "growth", "stalls", "contexts", "leaks",
    "late_messages", "deaf_workers",
))  # fmt: skip


@dataclass(eq=False)
class World(Machine):
    """Runs one schedule."""

    HOLDS_S: ClassVar[tuple[float, ...]] = (0.05, 0.2, 1.0, 6.0)
    PATIENCE_S: ClassVar[float] = 60.0

    late: list[Client] = field(default_factory=list)  # asked for once all was well
    tickets: int = 0
    changed: int = 0  # how often launch options did
    wishes: dict[tuple[str, int], ModelSpec] = field(default_factory=dict)

    def run(self) -> World:
        """What happens from outside for a while; then heal, and let everything come to rest."""
        self.read()
        at = READ_EVERY_S
        while at < 120.0:
            self.later(at, self.read)
            at += READ_EVERY_S
        doings: dict[str, Callable[[Dice], None]] = {
            "arrive": self._arrive, "foreign": self._foreign, "crash": self._crash, "operate": self._operate,
            "pin": self._pin, "role": self._role, "stale": self._stale, "grow": self._grow, "appear": self._appear,
            "vanish": self._vanish, "recycle": self._recycle, "change": self._change, "sleep": self._sleep,
            "shutdown": self._shutdown,
        }  # fmt: skip
        for act in self.plan.acts:
            self._schedule(act, doings[act.name])
        self.later(self.plan.heal_at, self._heal)
        heap = self._heap
        while heap:
            at, _number, do = heapq.heappop(heap)
            if at > self.now:
                self.now = at
            do()
        return self

    def _schedule(self, act: Act, do: Callable[[Dice], None]) -> None:
        self.later(act.at, lambda: do(Dice(act.dice)))

    # What clients do.

    def _arrive(self, dice: Dice) -> None:
        spec = dice.pick(self.specs)
        if self.has("contexts"):
            spec = self._with_context(spec, 8 if dice.percent(25) else 4)
        self.ask(spec, dice)

    def _with_context(self, spec: ModelSpec, context_length: int) -> ModelSpec:
        wish = self.wishes.get((spec.identity, context_length))
        if wish is None:
            wish = self.wishes[spec.identity, context_length] = replace(spec, context_length=context_length)
        return wish

    def ask(self, spec: ModelSpec, dice: Dice) -> Client:
        self.tickets += 1
        wait_s, keep_alive_s = dice.pick((0.5, 5.0, 20.0)), dice.pick((None, 0.0, 5.0))
        caller, priority, has_role = dice.pick("aaab"), dice.pick((0, 0, 0, 5)), dice.percent(20)
        if self.is_healed:
            wait_s = 600.0
        elif not self.has("short_deadlines"):
            wait_s = self.PATIENCE_S
        ticket, deadline = self.tickets, self.now + wait_s
        client = self.clients[ticket] = Client(ticket, spec.name, deadline, dice, spec)
        if dice.percent(30) and self.has("cancels"):
            self.later(self.now + dice.pick((0.0, 0.3, 3.0)), lambda: self._cancel(ticket))
        event = say.Requested(
            self._told_now(dice), ticket, spec, caller, deadline,
            keep_alive_s if self.has("keep_alive") else None,
            priority if self.has("priorities") else 0,
            dice.pick(("chat", "code")) if has_role and self.has("roles") else "",
        )  # fmt: skip
        self.feed(event)
        return client

    def _told_now(self, dice: Dice) -> float:
        """A clock may say less than it did."""
        return self.now - 3.0 if self._jumps and dice.percent(2) else self.now

    def _cancel(self, ticket: int) -> None:
        if ticket in self.clients:
            self.done(ticket, "cancelled")
            self.feed(say.Cancelled(self.now, ticket))

    def granted(self, grant: say.Grant) -> None:
        client = self.clients[grant.ticket]
        client.place, client.epoch = "leased", grant.epoch
        ticket, hold_s = grant.ticket, client.dice.pick(self.HOLDS_S)
        self.later(self.now + hold_s, lambda: self.release(ticket))

    def release(self, ticket: int) -> None:
        client = self.clients.get(ticket)
        if client is not None:
            self.done(ticket, "served")
            self.feed(say.Released(self._told_now(client.dice), ticket))

    def done(self, ticket: int, outcome: str) -> None:
        client = self.clients.pop(ticket)
        client.place, client.outcome = "done", outcome

    # What operators do.

    def _operate(self, dice: Dice) -> None:
        spec = dice.pick(self.specs)
        what = dice.pick(("unload", "force", "load"))
        if what == "load":
            self._load_asked(spec, dice, "")
        elif what == "force":
            self.forced.add(spec.name)
            self.feed(say.UnloadAsked(self.now, spec.name, force=True))
            self.forced.discard(spec.name)
        else:
            self.feed(say.UnloadAsked(self.now, spec.name))

    def _role(self, dice: Dice) -> None:
        spec, role = dice.pick(self.specs), dice.pick(("chat", "code"))
        if dice.percent(50):
            self._load_asked(spec, dice, role)
        else:
            self.feed(say.UnloadAsked(self.now, spec.name, role=role))

    def _load_asked(self, spec: ModelSpec, dice: Dice, role: str) -> None:
        self.tickets += 1
        deadline = self.now + self.PATIENCE_S
        self.clients[self.tickets] = Client(self.tickets, spec.name, deadline, dice, spec, takes_slot=False)
        self.feed(say.LoadAsked(self.now, self.tickets, spec, deadline, role=role))

    def _pin(self, dice: Dice) -> None:
        name = dice.pick(self.specs).name
        pinned = name not in self.pinned
        (self.pinned.add if pinned else self.pinned.discard)(name)
        self.feed(say.PinAsked(self.now, name, pinned))

    def _change(self, dice: Dice) -> None:
        """New launch options in the configuration: the next request brings them."""
        self.changed += 1
        index = dice.below(len(self.specs))
        old, share = self.specs[index], dice.pick((5, 10, 10, 12))
        sizes = {device: count * share // 10 for device, count in old.footprint.bytes.items()}
        footprint = Footprint(sizes, old.footprint.source, old.footprint.band_ratio)
        if self.is_narrow:
            footprint = old.footprint
        self.specs[index] = replace(old, identity=f"{old.name}/{dice.below(1 << 30)}", footprint=footprint, rungs=())

    def _shutdown(self, dice: Dice) -> None:
        self.is_stopping, force = True, dice.percent(30)
        if force:
            self.forced.update(self.workers)
        self.feed(say.Shutdown(self.now, force))
        self.forced.clear()

    # What goes wrong.

    def _up(self) -> list[Worker]:
        return [one for one in self.workers.values() if one.phase == "up"]

    def _foreign(self, dice: Dice) -> None:
        device = dice.pick(sorted(self.devices))
        if not self.is_healed:
            self.foreign[device] = dice.between(0, self.devices[device] // 2)

    def _grow(self, dice: Dice) -> None:
        up = self._up()
        if up:
            worker = dice.pick(up)
            worker.size = {device: count + 10 for device, count in worker.size.items()}

    def _crash(self, dice: Dice) -> None:
        able = [one for one in self.workers.values() if one.phase in ("up", "ending") and not one.is_adopted]
        busy = [one for one in able if any(client.epoch == one.epoch for client in self.clients.values())]
        if able and not self.is_healed:
            self.crash(dice.pick(busy or able))

    def _recycle(self, dice: Dice) -> None:
        up = self._up()
        if up:
            worker = dice.pick(up)
            self.feed(say.RecycleAsked(self.now, worker.model, worker.epoch, "planted"))

    def _appear(self, dice: Dice) -> None:
        """Another node on our device brings a model in without asking, if the device has the memory."""
        name, device, size = dice.pick(("o1", "o2")), "gpu0", dice.between(5, 20)
        if name in self.workers or self.is_healed or self.used()[device] + size > self.devices[device]:
            return
        spec = ModelSpec(name, name, Footprint({device: size}, "measured"), kind="ollama")
        effects = self.feed(say.Adopted(self.now, spec, {device: size}))
        if any(type(effect) is say.Adopt for effect in effects):
            self.read()

    def _vanish(self, dice: Dice) -> None:
        """It takes one out by itself."""
        theirs = [one for one in self._up() if one.is_adopted]
        if theirs:
            worker = dice.pick(theirs)
            worker.phase, worker.share = "gone", 0.0
            self.tell(worker, say.Left(self.now, worker.model, worker.epoch))

    def _stale(self, dice: Dice) -> None:
        """Something said of an old epoch, said once more."""
        live = {(one.model, one.epoch) for one in self.workers.values()}
        old = [one for one in self.past if (one.model, one.epoch) not in live]
        if old:
            self.say_again(dice.pick(old))

    def _sleep(self, dice: Dice) -> None:
        """The machine is suspended: everything due meanwhile comes at once, and late."""
        slept_s = dice.pick((20.0, 400.0))
        self.now += slept_s
        self.slept_s += slept_s

    # How it ends.

    def _heal(self) -> None:
        """No more faults and no more others; every model must be served again in bounded time."""
        self.is_healed = True
        self.foreign = dict.fromkeys(self.devices, 0)
        self.features -= HEALING_ENDS
        while any(one.is_adopted and one.phase == "up" for one in self.workers.values()):
            self._vanish(Dice(self.plan.seed))
        for name in sorted(self.pinned):
            self.pinned.discard(name)
            self.feed(say.PinAsked(self.now, name, False))
        self.read()
        self.later(self.now + 700.0, self._finish)

    def _finish(self) -> None:
        if not self.is_stopping:
            first = Dice(self.plan.seed).below(1 << 30)
            self.late = [self.ask(spec, Dice(first + n)) for n, spec in enumerate(self.specs) if self._can_fit(spec)]

    def _can_fit(self, spec: ModelSpec) -> bool:
        budgets = {device: total - self.limits.headroom_bytes for device, total in self.devices.items()}
        return any(
            all(count <= budgets[device] for device, count in way.footprint.reserved_bytes.items()) for way in spec.ways
        )

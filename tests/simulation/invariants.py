"""What must hold after each step, and at the end. Counted by the world's own books, not the scheduler's, where it can.

I1 no overcommit, I2 no eviction under use or of pinned models, I3 one worker per model, I4 each load ends once, I5 a
reservation is a process, I6 each request is in one place, I7 one answer each, I8 old epochs and repeated words change
nothing, I9 the queue is bounded, I10 who left owns nothing, I11 nothing is granted after its deadline, I12 nobody is
overtaken too often, I13 a broken budget sends idle models away at once, I14 slots are kept. `loading.py` has the rules
of loads. Each step is looked at where it changes something; everything is looked at every tenth step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from modelyard.errors import LoadFailed
from modelyard.residency import messages as say
from modelyard.types.status import Residency

from .loading import LoadingRules
from .machine import Client, Worker
from .plan import Schedule, schedule
from .violation import Violation, need
from .world import World

FULL_LOOK_EVERY = 10  # steps
REST_S_MAX = 3000.0  # of virtual time until everything has come to rest
_STATES = {state: number for number, state in enumerate(Residency)}


@dataclass(eq=False)
class Watcher:
    """Looks on while a world runs."""

    seen: Counter[str] = field(default_factory=Counter)  # rare branches, so that a weak generator shows
    states: set[int] = field(default_factory=set)  # situations, sizes and times apart
    ended: set[int] = field(default_factory=set)  # epochs told to end
    refused: set[int] = field(default_factory=set)  # tickets refused in this step

    def __post_init__(self) -> None:
        self.loading = LoadingRules(self.seen)

    def begin(self) -> None:
        self.ended.clear()
        self.loading.begin()

    def __call__(self, world: World, event: say.Event, effects: list[say.Effect]) -> None:
        seen, kind = self.seen, type(event)
        seen[kind.__name__] += 1
        if self.refused:
            self.refused = set()
        for effect in effects:
            if type(effect) is say.Refuse:
                self.refused.add(effect.ticket)
        if event is world.repeated:
            need(not effects, "I8 old words", event)
            seen["said again"] += 1
        elif kind is say.Loaded or kind is say.LoadBroke:
            self._load_ended(world, event, effects)  # type: ignore[arg-type]
        elif kind is say.WorkerDied and event.epoch not in self.ended:  # type: ignore[union-attr]
            self.loading.died(world, event.model)  # type: ignore[union-attr]
        elif kind is say.Requested and effects and type(effects[0]) is say.Refuse:
            if type(effects[0].error) is LoadFailed:
                self.loading.refused(world, event.spec.name)  # type: ignore[union-attr]
        elif kind is say.UnloadAsked:
            self._role_kept(world, event, effects)  # type: ignore[arg-type]
        for effect in effects:
            what = type(effect)
            seen[what.__name__] += 1
            if what is say.Tell:
                seen[effect.name] += 1  # type: ignore[union-attr]
            elif what is say.Refuse:
                self._refuse(world, effect)  # type: ignore[arg-type]
            elif what is say.Grant:
                self._grant(world, effect)  # type: ignore[arg-type]
            elif what is say.Load:
                self.loading.load(world, effect)  # type: ignore[arg-type]
            elif what is say.Unload:
                self._unload(world, effect, effects)  # type: ignore[arg-type]
        scheduler = world.scheduler
        need(len(scheduler.queue) <= world.limits.queue_max, "I9 queue", len(scheduler.queue))
        if kind is say.Cancelled or kind is say.Released:
            ticket = event.ticket  # type: ignore[union-attr]
            need(ticket not in scheduler.queue and ticket not in scheduler.leases, "I10 left and there", ticket)
        elif kind is say.Requested and not effects:
            need(event.ticket in scheduler.queue, "I6 lost", event)  # type: ignore[union-attr]
        elif kind is say.Tick:
            self._recycled(world)
        if world.steps % FULL_LOOK_EVERY == 0:
            self._everybody(world, effects)
            self._everything(world)

    def _load_ended(self, world: World, event: say.Loaded | say.LoadBroke, effects: list[say.Effect]) -> None:
        if event.epoch not in self.ended:
            self.loading.ended(world, event, effects)

    def _role_kept(self, world: World, event: say.UnloadAsked, effects: list[say.Effect]) -> None:
        """A role lets go for itself only."""
        others = world.roles_before - {event.role} if event.role else None
        if others:
            self.seen["a role let go, others stay"] += 1
            need(not any(type(one) is say.Unload for one in effects), "unloaded for one role", event)
            need(not any(type(one) is say.Refuse for one in effects), "refused for one role", event)

    def _refuse(self, world: World, effect: say.Refuse) -> None:
        self.seen[type(effect.error).__name__] += 1
        client = world.clients.get(effect.ticket)
        need(client is not None and client.place == "waiting", "I7 two answers", effect.ticket)

    def _grant(self, world: World, grant: say.Grant) -> None:
        client = world.clients.get(grant.ticket)
        if client is None:
            raise Violation("I10 granted to who left", grant)
        need(client.place == "waiting" and grant.ticket not in self.refused, "I7 two answers", grant)
        need(world.scheduler._now < client.deadline, "I11 after its deadline", grant)
        worker = world.workers.get(grant.model)
        if worker is None or worker.epoch != grant.epoch or grant.epoch in self.ended:
            raise Violation("grant of a ghost", grant)
        self._is_enough(world, client, worker, grant)
        if world.is_narrow and client.takes_slot:
            self._overtaken(world, grant)

    def _is_enough(self, world: World, client: Client, worker: Worker, grant: say.Grant) -> None:
        """Who asks gets what serves; only where launch options change meanwhile, what is newest."""
        if not world.changed:
            need(worker.spec.serves(client.spec), "a model that does not serve", grant)
        elif worker.spec.identity == client.spec.identity:
            need(worker.spec.context_length >= client.spec.context_length, "a context too small", grant)

    def _overtaken(self, world: World, grant: say.Grant) -> None:
        for other in world.clients.values():  # I12
            if other.ticket >= grant.ticket or other.place != "waiting" or other.model == grant.model:
                continue
            if other.ticket in self.refused or other.model in world.workers:
                continue
            other.bypassed += 1
            self.seen["bypass"] += 1
            self.seen["bypassed to the limit"] += other.bypassed == world.limits.bypass_count_max
            need(other.bypassed <= world.limits.bypass_count_max, "I12 bypassed", f"{grant} {other}")

    def _unload(self, world: World, unload: say.Unload, effects: list[say.Effect]) -> None:
        need(unload.epoch not in self.ended, "I4 two ends", unload)
        self.ended.add(unload.epoch)
        self.seen[f"unload for {unload.reason}"] += 1
        leases = world.scheduler.leases
        new = [one for one in effects if type(one) is say.Grant and one.epoch == unload.epoch and one.ticket in leases]
        users = [
            one for one in world.clients.values()
            if one.epoch == unload.epoch and one.place == "leased" and one.ticket in leases
        ]  # fmt: skip  # operators' loads hold nothing
        may_break = unload.reason == "crash" or unload.model in world.forced
        need(may_break or not (users or new), "I2 left while in use", unload)
        if unload.reason in ("eviction", "expiry"):
            need(unload.model not in world.pinned, "I2 pinned", unload)
        elif unload.reason == "abandoned":
            waiting = [one for one in world.clients.values() if one.model == unload.model and one.place == "waiting"]
            need(all(one.ticket in self.refused for one in waiting), "a load given up though somebody waits", unload)
        elif unload.reason == "change":
            wanted = {spec.identity for spec in world.specs if spec.name == unload.model}
            had = world.workers[unload.model].spec
            wishes = [one.spec for one in world.clients.values() if one.model == unload.model]
            is_small = any(spec.context_length > had.context_length for spec in wishes)
            need(is_small or had.identity not in wanted, "reload without need", unload)

    def _recycled(self, world: World) -> None:
        """After a look at the clock nobody who should have been replaced by now is open to new work."""
        scheduler = world.scheduler
        for record in scheduler.records.values():
            if record.recycle_by is not None and record.is_open and record.spec.name not in world.pinned:
                need(record.recycle_by > scheduler._now, "recycling forgotten", record.spec.name)

    def _everybody(self, world: World, effects: list[say.Effect]) -> None:
        """I6, I7 and I9 for all."""
        queue, leases = world.scheduler.queue, world.scheduler.leases
        answered = {one.ticket for one in effects if type(one) is say.Grant or type(one) is say.Refuse}
        waiting = 0
        for ticket, client in world.clients.items():
            is_queued = ticket in queue
            need(not (is_queued and ticket in leases), "I6 in two places", client)
            if client.place == "waiting" and ticket not in answered:
                need(is_queued, "I6 lost", client)
                waiting += 1
        need(len(queue) == waiting, "I6 waits for nobody", f"{len(queue)} {waiting}")

    def _everything(self, world: World) -> None:
        """I5, I13 and I14."""
        scheduler, workers = world.scheduler, world.workers
        leases = Counter(map(id, scheduler.leases.values()))
        situation, there = len(scheduler.promised), 0
        for name, record in scheduler.records.items():
            state = record.state
            self.seen[state.value] += 1
            if record.epoch <= world.newest_epoch:  # else its process begins in this very step
                worker = workers.get(name)
                need(worker is not None and worker.epoch == record.epoch, "I5 no process", name)
                there += 1
            need(record.leases == leases[id(record)], "I14 miscounted", name)
            need(record.leases <= record.slots, "I14 too many", name)
            flags = (record.closed_from is not None) * 2 + bool(record.leave_reason)
            situation += hash((_STATES[state], min(record.leases, 3), flags, min(record.slots, 2)))
        need(there == len(workers), "I5 no reservation", list(workers))
        for line in scheduler.queue.lines.values():
            situation += hash((min(len(line.turns), 3), line.needs_memory, min(line.bypassed, 9), line.is_mixed))
        self.states.add(hash((situation, scheduler._is_overcommitted)))
        if scheduler._is_overcommitted:
            self._overcommitted(world)

    def _overcommitted(self, world: World) -> None:
        scheduler = world.scheduler
        for device, ledger in scheduler.books.ledgers.items():
            staying = [one for one in scheduler.records.values() if one.is_staying and one.held.get(device, 0)]
            if sum(one.held[device] for one in staying) + ledger.foreign_bytes > ledger.budget_bytes:
                self.seen["overcommitted"] += 1
                for one in staying:
                    idle = one.is_open and not one.leases and one.spec.name not in scheduler.queue.lines
                    need(not idle or scheduler.is_pinned(one.spec), "I13 idle on a full device", one.spec.name)

    def at_rest(self, world: World) -> None:
        """Nothing left to do: everybody has an answer, every model can be served again, and idle ones have gone."""
        need(not world.clients, "progress", list(world.clients.values())[:3])
        need(not world.scheduler.leases and not len(world.scheduler.queue), "leftovers")
        need(not world.workers and not world.scheduler.records, "still in memory", list(world.workers))
        for client in world.late:
            need(client.outcome == "served", "not served after all was well", f"{client.model} {client.outcome}")
        need(world.stepped_at < REST_S_MAX + world.slept_s, "took too long to come to rest", world.stepped_at)


def run(seed: int, watcher: Watcher, **more: object) -> World:
    """The schedule of one seed under full watch."""
    return run_schedule(schedule(seed), watcher, **more)


def run_schedule(plan: Schedule, watcher: Watcher, **more: object) -> World:
    """One schedule under full watch, to its end."""
    watcher.begin()
    world = World(plan, watcher, **more)  # type: ignore[arg-type]
    world.run()
    watcher.at_rest(world)
    return world

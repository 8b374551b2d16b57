"""What must hold after each step, and at the end. Counted by the world's own books, not the scheduler's, where it can.

I1 no overcommit, I2 no eviction under use or of pinned models, I3 one worker per model, I4 each load ends once, I5 a
reservation is a process, I6 each request is in one place, I7 one answer each, I8 old epochs change nothing, I9 the
queue is bounded, I10 who left owns nothing, I11 nothing is granted after its deadline, I12 nobody is overtaken too
often, I13 a broken budget sends idle models away at once, I14 slots are kept.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from modelyard.residency import messages as say
from modelyard.types.status import Residency

from .world import World

FULL_LOOK_EVERY = 10  # steps; in between only what a step concerns is looked at


class Violation(AssertionError):
    """An invariant does not hold."""


def need(condition: bool, name: str, detail: object = "") -> None:
    if not condition:
        raise Violation(f"{name}: {detail}")


@dataclass(eq=False)
class Watcher:
    """Looks on while a world runs."""

    seen: Counter[str] = field(default_factory=Counter)  # rare branches, so that a weak generator shows
    ended: set[int] = field(default_factory=set)  # epochs told to end
    refused: set[int] = field(default_factory=set)  # tickets refused in this step
    cooldowns: dict[str, tuple[float, float]] = field(default_factory=dict)  # model -> until when, the last wait
    broke: Counter[tuple[str, str]] = field(default_factory=Counter)  # (model, way) -> loads broken for memory in a row
    broke_at: dict[str, float] = field(default_factory=dict)
    states: set[int] = field(default_factory=set)  # shapes the scheduler was seen in: a weak generator shows few

    def __call__(self, world: World, event: say.Event, effects: list[say.Effect]) -> None:
        self.seen[type(event).__name__] += 1
        self.refused = {one.ticket for one in effects if isinstance(one, say.Refuse)}
        self._old_epochs(world, event, effects)
        reserved = {one.epoch: one.reserved for one in world.workers.values()}
        if isinstance(event, say.LoadBroke | say.Loaded) and event is not world.stale_event:
            self._cool_down(world, event)
        for effect in effects:
            self.seen[type(effect).__name__] += 1
            match effect:
                case say.Load():
                    self._not_too_soon(world, effect)
                    need(effect.model not in world.workers, "I3", effect.model)
                    reserved[effect.epoch] = world.scheduler.records[effect.model].held
                    self._budget(world, reserved, effect)
                    if world.limits.has_rules or effect.spec.degraded or not effect.spec.footprint.is_known:
                        self._rules(world, effect)
                case say.Unload():
                    self._unload(world, effect, effects)
                case say.Grant():
                    self._grant(world, effect)
                case say.Refuse():
                    self.seen[type(effect.error).__name__] += 1
                    need(world.clients[effect.ticket].place == "waiting", "I7", effect.ticket)
                case say.Tell():
                    self.seen[effect.name] += 1
                case _:
                    pass
        self._places(world, event, effects)
        if world.steps % FULL_LOOK_EVERY == 0:
            self._all_places(world, effects)
            self._scheduler_state(world)

    def _old_epochs(self, world: World, event: say.Event, effects: list[say.Effect]) -> None:
        if event is world.stale_event:
            need(not effects, "I8", event)

    def _cool_down(self, world: World, event: say.LoadBroke | say.Loaded) -> None:
        """After a failure nobody goes on from, requests start no load for a while; twice as long each time."""
        name, is_waited_for = event.model, event.model in world.scheduler.queue.lines
        if isinstance(event, say.Loaded) or not is_waited_for:
            self.broke = Counter({one: count for one, count in self.broke.items() if one[0] != name})
        else:
            self.broke[name, world.ways.get((name, event.epoch), "")] += 1
            self.broke_at[name] = world.now
        if isinstance(event, say.Loaded):
            self.cooldowns.pop(event.model, None)
        elif event.model not in world.scheduler.queue.lines:
            limits = world.limits
            until, last_s = self.cooldowns.get(event.model, (0.0, 0.0))
            wait_s = min(max(limits.backoff_s, last_s * 2), limits.backoff_s_max)
            self.cooldowns[event.model] = max(until, event.now + wait_s), wait_s

    def _not_too_soon(self, world: World, load: say.Load) -> None:
        until, _wait_s = self.cooldowns.get(load.model, (0.0, 0.0))
        is_operators = any(not one.takes_slot and one.model == load.model for one in world.clients.values())
        tries = self.broke[load.model, load.spec.identity]
        is_fresh = world.now > self.broke_at.get(load.model, 0.0) + world.limits.backoff_s  # whoever wanted it had left
        need(tries <= 1 or is_fresh, "the same way tried again and again", f"{load.model} {tries}")
        need(world.now >= until - 3.0 or is_operators, "a load in its cooldown", f"{load.model} until {until}")

    def _budget(self, world: World, reserved: dict[int, dict[str, int]], load: say.Load) -> None:
        for device in load.spec.footprint.bytes:
            held = sum(one.get(device, 0) for one in reserved.values())
            others = world.scheduler.books.ledgers[device].foreign_bytes
            if all(one.phase == "up" for one in world.workers.values()):
                others = world.foreign_read[device]  # nothing is uncertain: it must have been seen exactly
            budget = world.devices[device] - world.limits.headroom_bytes
            need(held + others <= budget, "I1", f"{load.model}: {held} + {others} > {budget}")

    def _rules(self, world: World, load: say.Load) -> None:
        """Kinds, groups, sizes nobody knows, and that something is given up only where that was needed."""
        spec, records = load.spec, world.scheduler.records
        others = [one for one in records.values() if one.epoch < load.epoch]
        unpinned = [one for one in others if not world.scheduler.is_pinned(one.spec)]
        if world.limits.policy == "exclusive":
            self.seen["load under exclusive"] += 1
            wrong = [(one.spec.name, one.state.value, one.spec.kind) for one in unpinned if one.spec.kind != spec.kind]
            need(not wrong, "two kinds", f"{load.model} {spec.kind} beside {wrong}")
        allowed = world.limits.groups.get(spec.group)
        if allowed is not None:
            pinned = sum(one.spec.group == spec.group for one in others if one not in unpinned)
            members = sum(one.spec.group == spec.group for one in unpinned)
            self.seen["load within a group"] += 1
            need(members + pinned < allowed or not members, "too many of a group", load)
        if not spec.footprint.is_known:
            self.seen["load of an unknown size"] += 1
            shared = [one.spec.name for one in unpinned if one.held.keys() & spec.footprint.bytes.keys()]
            need(not shared, "an unknown size beside others", shared)
        if spec.degraded:
            self.seen["load of a smaller way"] += 1

    def _unload(self, world: World, effect: say.Unload, effects: list[say.Effect]) -> None:
        need(effect.epoch not in self.ended, "I4", effect)
        self.ended.add(effect.epoch)
        self.seen[f"unload for {effect.reason}"] += 1
        new = {one.ticket for one in effects if isinstance(one, say.Grant) and one.epoch == effect.epoch}
        users = [one for one in world.clients.values() if one.epoch == effect.epoch and one.place == "leased"]
        users = [one for one in users if one.ticket in world.scheduler.leases]  # operators' loads hold nothing
        may_break = effect.reason == "crash" or effect.model in world.forced
        need(may_break or not (users or new & set(world.scheduler.leases)), "I2", effect)
        need(effect.reason not in ("eviction", "expiry") or effect.model not in world.pinned, "I2 pinned", effect)
        if effect.reason == "abandoned":
            waiting = [one for one in world.clients.values() if one.model == effect.model and one.place == "waiting"]
            need(
                all(one.ticket in self.refused for one in waiting),
                "a load was given up although somebody waits",
                effect,
            )
        if effect.reason == "change":
            wanted = {spec.identity for spec in world.specs if spec.name == effect.model}
            had = world.scheduler.records[effect.model].spec
            wishes = [one.spec for one in world.clients.values() if one.model == effect.model]
            is_small = any(spec is not None and spec.context_length > had.context_length for spec in wishes)
            need(is_small or had.identity not in wanted, "reload without need", effect)

    def _grant(self, world: World, effect: say.Grant) -> None:
        client = world.clients.get(effect.ticket)
        if client is None:
            raise Violation(f"I10: {effect} for somebody who left")
        need(client.place == "waiting", "I7", effect)
        need(world.scheduler._now < client.deadline, "I11", effect)
        worker = world.workers.get(effect.model)
        need(worker is not None and worker.epoch == effect.epoch and effect.epoch not in self.ended, "grant of a ghost")
        if client.spec is not None:
            record = world.scheduler.leases.get(effect.ticket)
            if record is not None and record.spec.identity == client.spec.identity and not record.spec.degraded:
                need(record.spec.context_length >= client.spec.context_length, "a context too small", effect)
        if not world.is_narrow or not client.takes_slot:
            return
        for other in world.clients.values():  # I12
            is_waiting = other.place == "waiting" and other.ticket not in self.refused
            is_overtaken = is_waiting and other.ticket < effect.ticket and other.model != effect.model
            if is_overtaken and other.model not in world.workers:
                other.bypassed += 1
                self.seen["bypass"] += 1
                self.seen["bypassed to the limit"] += other.bypassed == world.limits.bypass_count_max
                need(other.bypassed <= world.limits.bypass_count_max, "I12", f"{effect} {other}")

    def _places(self, world: World, event: say.Event, effects: list[say.Effect]) -> None:
        """I6, I9 and I10 for who is concerned by this step."""
        scheduler = world.scheduler
        need(len(scheduler.queue) <= world.limits.queue_max, "I9", len(scheduler.queue))
        if isinstance(event, say.Cancelled | say.Released):
            need(event.ticket not in scheduler.queue and event.ticket not in scheduler.leases, "I10", event)
        elif isinstance(event, say.Requested) and not effects:
            need(event.ticket in scheduler.queue, "I6 lost", event)

    def _all_places(self, world: World, effects: list[say.Effect]) -> None:
        """I6 and I9 for everybody."""
        scheduler = world.scheduler
        answered = {one.ticket for one in effects if isinstance(one, say.Grant | say.Refuse)}
        waiting = 0
        for client in world.clients.values():
            is_queued = client.ticket in scheduler.queue
            need(not (is_queued and client.ticket in scheduler.leases), "I6", client)
            if client.place == "waiting" and client.ticket not in answered:
                need(is_queued, "I6 lost", client)
                waiting += 1
        need(len(scheduler.queue) == waiting, "I9", f"{len(scheduler.queue)} {waiting}")

    def _scheduler_state(self, world: World) -> None:
        scheduler = world.scheduler
        self.states.add(hash(_shape(world)))
        leases = Counter(id(record) for record in scheduler.leases.values())
        for name, record in scheduler.records.items():
            need(record.leases == leases[id(record)], "I14 count", name)
            need(record.leases <= record.slots, "I14", name)
            self.seen[record.state.value] += 1
        for device, ledger in scheduler.books.ledgers.items():  # I13
            staying = [one for one in scheduler.records.values() if one.is_staying and one.held.get(device, 0)]
            if sum(one.held[device] for one in staying) + ledger.foreign_bytes > ledger.budget_bytes:
                self.seen["overcommitted"] += 1
                for one in staying:
                    idle = one.is_open and not one.leases and one.spec.name not in scheduler.queue.lines
                    need(not idle or scheduler.is_pinned(one.spec), "I13", one.spec.name)

    def settled(self, world: World) -> None:
        """After a step's effects were carried out: I5."""
        live = {(one.model, one.epoch) for one in world.workers.values()}
        booked = {(name, record.epoch) for name, record in world.scheduler.records.items()}
        need(live == booked, "I5", f"{live} {booked}")

    def at_rest(self, world: World) -> None:
        """Nothing left to do: everybody has an answer, every model can be served again, and idle ones have gone."""
        need(not world.clients, "progress", list(world.clients.values())[:3])
        need(not world.scheduler.leases and not len(world.scheduler.queue), "leftovers")
        need(not world.workers and not world.scheduler.records, "still in memory", list(world.workers))
        for client in world.late:
            need(client.outcome == "served", "not served after all was well", f"{client.model} {client.outcome}")
        need(world.stepped_at < 3000, "took too long to come to rest", world.stepped_at)


def run(seed: int, watcher: Watcher, **more: object) -> World:
    """One schedule under full watch."""
    world = World(seed, watcher, **more)  # type: ignore[arg-type]
    return finish(world, watcher)


def finish(world: World, watcher: Watcher) -> World:
    """Run a world to its end, and look at what is left."""
    watcher.ended.clear()
    watcher.cooldowns.clear()
    watcher.broke.clear()
    watcher.broke_at.clear()
    world.run()
    watcher.settled(world)
    watcher.at_rest(world)
    return world


def _shape(world: World) -> tuple[object, ...]:
    """What distinguishes one situation from another, sizes and times apart. Numbers only: their hash is the same in
    every process.
    """
    scheduler = world.scheduler
    records = sorted(
        (list(Residency).index(one.state), min(one.leases, 3), one.closed_from is not None, bool(one.leave_reason))
        for one in scheduler.records.values()
    )
    lines = sorted(
        (min(len(one.tickets()), 3), one.needs_memory, one.is_mixed) for one in scheduler.queue.lines.values()
    )
    return tuple(records), tuple(lines), scheduler.limits.policy == "fit", len(scheduler.promised)

"""What must hold whenever a load starts: bytes, kinds, groups, unknown sizes, smaller ways, and time to cool down.

Counted by the world's own books where it can. The rules, stated exactly, for a load of model M at that step:

- I1: what all workers hold or are promised, M with its upper band included, and what others hold is within the budget.
- kinds: under `exclusive` no unpinned model of another kind is in memory, not even on its way out.
- groups: with M no more of its group are in memory than allowed, those on their way out counted, unless all are pinned.
- unknown size: no unpinned model holds memory on the devices M may use.
- ladder: for each better way, it is over the budget of an empty machine, or over what pinned models and others leave,
  or a load broke for memory since one went well. No way is tried more than twice in a row, unless much later.
- refused for a failure: only while such a cooldown lasts, or after five ends of its workers in ten minutes.
- cooldown: after n failures in a row no request's load for 10 * 2**(n-1) seconds, five minutes at most.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from modelyard.errors import LoadFailed
from modelyard.residency import messages as say
from modelyard.types.model import ModelSpec

from .violation import need
from .world import World

CLOCK_SLACK_S = 3.0  # by which a clock may say less than it did


@dataclass(slots=True)
class Cooldown:
    """What the world knows of one model's failures."""

    wait_s: float = 0.0
    until: float = 0.0


@dataclass(eq=False)
class LoadingRules:
    """Looks on at loads and how they end."""

    seen: Counter[str]
    cooldowns: dict[str, Cooldown] = field(default_factory=dict)
    broke: Counter[str] = field(default_factory=Counter)  # model -> loads broken for memory since one went well
    broke_at: dict[str, float] = field(default_factory=dict)  # model -> when a load that is tried again broke
    ends: dict[str, list[float]] = field(default_factory=dict)  # model -> when its workers ended by themselves
    tries: Counter[tuple[str, str]] = field(default_factory=Counter)  # model, way -> loads broken in a row

    def begin(self) -> None:
        self.cooldowns.clear()
        self.broke.clear()
        self.tries.clear()
        self.broke_at.clear()
        self.ends.clear()

    def ended(self, world: World, event: say.Loaded | say.LoadBroke, effects: list[say.Effect]) -> None:
        """A load went well or broke; not called for what is said again, or too late."""
        model = event.model
        if type(event) is say.Loaded:
            self.cooldowns.pop(model, None)
            self.broke.pop(model, None)
            self._begin_anew(model)
            return
        goes_on = False
        if isinstance(event, say.LoadBroke) and event.is_memory:
            self.broke[model] += 1
            is_waited_for = any(one.model == model and one.place == "waiting" for one in world.clients.values())
            is_over = any(type(one) is say.Refuse and isinstance(one.error, LoadFailed) for one in effects)
            goes_on = is_waited_for and not is_over
        if model in world.scheduler.queue.lines:  # it is tried again
            if self._is_fresh(world, model):
                self._begin_anew(model)
            self.tries[model, world.ways[event.epoch]] += 1
            self.broke_at[model] = world.now
        else:
            self._begin_anew(model)
        if goes_on:
            return
        self.died(world, model)
        cooldown, limits = self.cooldowns.setdefault(model, Cooldown()), world.limits
        cooldown.wait_s = min(max(limits.backoff_s, cooldown.wait_s * 2), limits.backoff_s_max)
        cooldown.until = max(cooldown.until, event.now + cooldown.wait_s)

    def died(self, world: World, model: str) -> None:
        self.ends.setdefault(model, []).append(world.now)

    def refused(self, world: World, model: str) -> None:
        """A request was refused at once since the model failed lately."""
        cooldown, limits = self.cooldowns.get(model), world.limits
        is_cooling = cooldown is not None and world.now <= cooldown.until + CLOCK_SLACK_S
        lately = [at for at in self.ends.get(model, ()) if at >= world.now - limits.crash_window_s - CLOCK_SLACK_S]
        is_looping = len(lately) >= limits.crash_count_max
        self.seen["refused for a crash loop"] += is_looping
        need(is_cooling or is_looping, "refused for a failure that is over", model)

    def _begin_anew(self, model: str) -> None:
        for key in [key for key in self.tries if key[0] == model]:
            del self.tries[key]

    def _is_fresh(self, world: World, model: str) -> bool:
        """Whether the last try is long ago, since who wanted it had left."""
        return world.now > self.broke_at.get(model, 0.0) + world.limits.backoff_s

    def load(self, world: World, load: say.Load) -> None:
        spec = load.spec
        need(load.model not in world.workers, "I3 two workers", load.model)
        self._budget(world, load)
        self._cooled(world, load)
        is_fresh = self._is_fresh(world, load.model)
        need(is_fresh or self.tries[load.model, spec.identity] < 2, "the same way again and again", load.model)
        if world.limits.policy == "exclusive":
            self._kinds(world, load)
        if spec.group:
            self._groups(world, load)
        if not spec.footprint.is_known:
            self._unknown(world, load)
        if spec.degraded:
            self._ladder(world, load)

    def _budget(self, world: World, load: say.Load) -> None:
        need_bytes = world.scheduler.records[load.model].held
        workers = world.workers.values()
        is_certain = all(one.phase == "up" for one in workers)  # then others must have been seen exactly
        for device in load.spec.footprint.bytes:
            held = sum(one.reserved.get(device, 0) for one in workers) + need_bytes.get(device, 0)
            known = load.spec.footprint.reserved_bytes[device]
            need(need_bytes.get(device, 0) >= known, "I1 reservation without its band", load.model)
            others = world.scheduler.books.ledgers[device].foreign_bytes
            if is_certain:
                others = max(others, world.foreign_read[device])
            budget = world.devices[device] - world.limits.headroom_bytes
            need(held + others <= budget, "I1 overcommit", f"{load.model}: {held} + {others} > {budget}")

    def _cooled(self, world: World, load: say.Load) -> None:
        cooldown = self.cooldowns.get(load.model)
        if cooldown is None or world.now >= cooldown.until - CLOCK_SLACK_S:
            return
        self.seen["operator's load in a cooldown"] += 1
        is_operators = any(not one.takes_slot and one.model == load.model for one in world.clients.values())
        need(is_operators, "cooldown", f"{load.model} until {cooldown.until}")

    def _others(self, world: World, load: say.Load) -> list[ModelSpec]:
        return [one.spec for one in world.workers.values() if one.model != load.model]

    def _kinds(self, world: World, load: say.Load) -> None:
        self.seen["load under exclusive"] += 1
        others = self._others(world, load)
        wrong = [one.name for one in others if one.kind != load.spec.kind and one.name not in world.pinned]
        need(not wrong, "two kinds", f"{load.model} beside {wrong}")

    def _groups(self, world: World, load: say.Load) -> None:
        allowed = world.limits.groups.get(load.spec.group)
        if allowed is None:
            return
        self.seen["load within a group"] += 1
        members = [one for one in self._others(world, load) if one.group == load.spec.group]
        is_full = len(members) >= allowed
        need(not is_full or all(one.name in world.pinned for one in members), "too many of a group", load.model)
        self.seen["load over a group of pinned models"] += is_full

    def _unknown(self, world: World, load: say.Load) -> None:
        self.seen["load of an unknown size"] += 1
        for one in world.workers.values():
            is_near = not one.reserved.keys().isdisjoint(load.spec.footprint.bytes)
            need(not is_near or one.model in world.pinned, "an unknown size beside others", one.model)

    def _ladder(self, world: World, load: say.Load) -> None:
        self.seen["load of a smaller way"] += 1
        if self.broke[load.model]:
            return
        wanted = next(
            (one.spec for one in world.clients.values() if one.model == load.model and load.spec in one.spec.rungs),
            None,
        )
        if wanted is None:
            return  # who wanted that ladder has just left
        scheduler = world.scheduler
        kept = [one.held for name, one in scheduler.records.items() if name in world.pinned and name != load.model]
        kept += [held for name, held in scheduler.promised.items() if name in world.pinned and name != load.model]
        for way in wanted.ways[: wanted.ways.index(load.spec)]:
            short = False
            for device, count in way.footprint.reserved_bytes.items():
                others = scheduler.books.ledgers[device].foreign_bytes + sum(held.get(device, 0) for held in kept)
                short |= count + others > world.devices[device] - world.limits.headroom_bytes
            need(short, "a smaller way without need", f"{load.model}: {way.identity} would do")

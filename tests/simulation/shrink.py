"""Makes a failing schedule short, and tells it: acts and features are left out, while it fails in the same way."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import replace

from modelyard.residency import messages as say
from modelyard.residency.scheduler import Scheduler
from modelyard.residency.state import ResidencyLimits

from .invariants import Watcher, run_schedule
from .plan import Schedule
from .violation import Violation
from .world import World

LINES_MAX = 80  # of a story

Make = Callable[[ResidencyLimits], Scheduler]


def failure(plan: Schedule, make: Make = Scheduler) -> str:
    """The name of what fails; empty if nothing does."""
    try:
        run_schedule(plan, Watcher(), make=make)
    except Violation as violation:
        return violation.name
    except Exception as error:  # whatever a broken scheduler does
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {where.name}"
    return ""


def shrink(plan: Schedule, make: Make = Scheduler) -> Schedule:
    """The shortest schedule we find that fails like this one: halves are left out first, then ever smaller pieces."""
    name = failure(plan, make)
    assert name, f"seed {plan.seed} does not fail"
    size = len(plan.acts)
    while size:
        first, has_shrunk = 0, False
        while first < len(plan.acts):
            shorter = replace(plan, acts=plan.acts[:first] + plan.acts[first + size :])
            if failure(shorter, make) == name:
                plan, has_shrunk = shorter, True
            else:
                first += size
        size = size if has_shrunk and size < 4 else size // 2
    for feature in sorted(plan.features):
        simpler = replace(plan, features=plan.features - {feature})
        if failure(simpler, make) == name:
            plan = simpler
    return plan


def report(plan: Schedule, make: Make = Scheduler) -> str:
    """A failing schedule made short: its story, and what to keep in `regressions.py`."""
    if not failure(plan, make):
        return f"seed {plan.seed} fails only sometimes: something is not in a fixed order"
    short = shrink(plan, make)
    lines = story(short, make)
    if len(lines) > LINES_MAX:
        lines[LINES_MAX // 2 : -LINES_MAX // 2] = [f"     ... {len(lines) - LINES_MAX} more ..."]
    return "\n".join([f"seed {plan.seed}, {len(plan.acts)} acts made {len(short.acts)}:", *lines, repr(short)])


def story(plan: Schedule, make: Make = Scheduler) -> list[str]:
    """What happened, step by step, up to the failure."""
    lines: list[str] = []
    watcher = Watcher()

    def watch(world: World, event: say.Event, effects: list[say.Effect]) -> None:
        shown = [_short(one) for one in effects if not isinstance(one, say.Tell | say.WakeAt)]
        if shown or not isinstance(event, say.DevicesRead | say.Tick):
            again = "again: " if event is world.repeated else ""
            lines.append(f"{world.now:8.2f}  {again + _short(event):36} {', '.join(shown)}".rstrip())
        watcher(world, event, effects)

    world = World(plan, watch, make)
    models = [f"{one.name} {_size(one.footprint.bytes)} {one.kind} {one.group}".rstrip() for one in world.specs]
    lines.append(f"{', '.join(models)}; {world.limits.policy}, {', '.join(sorted(plan.features))}")
    try:
        world.run()
        watcher.at_rest(world)
    except Exception as error:
        lines.append(f"{world.now:8.2f}  {type(error).__name__}: {error}")
    return lines


def _size(sizes: dict[str, int]) -> str:
    return "+".join(f"{device}:{count}" for device, count in sizes.items())


def _short(one: say.Event | say.Effect) -> str:
    """Its name, and the most telling of its fields."""
    spec, error = getattr(one, "spec", None), getattr(one, "error", None)
    model = getattr(one, "model", None) or (spec.name if spec is not None else None)
    parts = [getattr(one, "ticket", None), model, getattr(one, "epoch", None), getattr(one, "reason", None)]
    if spec is not None and spec.identity != spec.name:
        parts.append(spec.identity)
    if error is not None:
        parts.append(type(error).__name__)
    if isinstance(one, say.PinAsked):
        parts.append("pinned" if one.pinned else "not pinned")
    return " ".join([type(one).__name__, *(str(part) for part in parts if part is not None)])

"""Makes a failing schedule short: planned acts are left out, as many as possible, while it fails in the same way."""

from __future__ import annotations

from collections.abc import Callable

from modelyard.residency import messages as say
from modelyard.residency.scheduler import Scheduler
from modelyard.residency.state import ResidencyLimits

from .invariants import Watcher, finish
from .world import World

Make = Callable[[ResidencyLimits], Scheduler]
Skip = frozenset[int]


def failure(seed: int, skip: Skip = frozenset(), make: Make = Scheduler) -> tuple[str, World]:
    """The name of what fails, empty if nothing does, and the world as it was then."""
    watcher = Watcher()
    world = World(seed, watcher, make, skip=skip)
    try:
        finish(world, watcher)
    except (AssertionError, KeyError) as error:
        return f"{type(error).__name__} {error}".split(":")[0], world
    return "", world


def shrink(seed: int, make: Make = Scheduler) -> Skip:
    """Which acts need not happen for this seed to fail: halves first, then ever smaller pieces."""
    name, world = failure(seed, make=make)
    assert name, f"seed {seed} does not fail"
    skip: Skip = frozenset()
    size = world.planned
    while size:
        for first in range(1, world.planned + 1, size):
            fewer = skip | set(range(first, first + size))
            if fewer != skip and failure(seed, fewer, make)[0] == name:
                skip = fewer
        size //= 2
    return skip


def story(seed: int, skip: Skip, make: Make = Scheduler) -> list[str]:
    """What happened, step by step, up to the failure."""
    lines: list[str] = []
    watcher = Watcher()

    def watch(world: World, event: say.Event, effects: list[say.Effect]) -> None:
        shown = [_short(one) for one in effects if not isinstance(one, say.Tell | say.WakeAt)]
        if shown or not isinstance(event, say.DevicesRead | say.Tick):
            lines.append(f"{world.now:8.2f}  {_short(event):32} {', '.join(shown)}")
        watcher(world, event, effects)

    world = World(seed, watch, make, skip=skip)
    try:
        finish(world, watcher)
    except (AssertionError, KeyError) as error:
        lines.append(f"          {error}")
    return lines


def _short(one: say.Event | say.Effect) -> str:
    spec = getattr(one, "spec", None)
    named = [getattr(one, "ticket", None), getattr(one, "model", None) or (spec.name if spec is not None else None)]
    return " ".join([type(one).__name__, *(str(part) for part in named if part is not None)])

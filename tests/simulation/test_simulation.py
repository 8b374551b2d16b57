"""Thousands of seeded schedules under full watch, and proof that the watch sees what it should."""

from __future__ import annotations

import time

import pytest

from modelyard.residency.scheduler import Scheduler
from tests.support.counts import count, tell

from .invariants import Watcher, run
from .mutants import MUTANTS, LockHeldOnException
from .regressions import REGRESSIONS
from .shrink import failure, shrink, story

CHUNK_SEEDS = 250
CHUNK_COUNT = 10_000 // CHUNK_SEEDS  # `make simulate SEEDS=1000000` is the long run
MUTANT_SEEDS_MAX = count(1_000, 10_000)
STATES_MIN = 2_000  # distinct situations in a thousand schedules; fewer would mean a weak generator
RARE = ("bypassed to the limit", "unload for abandoned", "unload for change", "overcommitted", "QueueFull",
        "InsufficientMemory", "draining", "QueueTimeout", "LoadBroke", "model.crashed", "load under exclusive",
        "load within a group", "load of an unknown size", "load of a smaller way", "Adopt", "Left",
        "unload for recycle")  # fmt: skip


@pytest.mark.parametrize("chunk", range(CHUNK_COUNT))
def test_every_schedule_keeps_every_promise(chunk: int) -> None:
    watcher = Watcher()

    began, steps = time.process_time(), 0
    for seed in range(chunk * CHUNK_SEEDS, (chunk + 1) * CHUNK_SEEDS):
        steps += run_or_tell(seed, watcher)
    tell(f"{CHUNK_SEEDS} schedules, {(time.process_time() - began) / steps * 1e6:.1f} us a step")

    assert watcher.seen["Grant"]


def run_or_tell(seed: int, watcher: Watcher) -> int:
    """Steps of one schedule; one that fails is told as shortly as possible."""
    try:
        return run(seed, watcher).steps
    except (AssertionError, KeyError):
        skip = shrink(seed)
        pytest.fail("\n".join([f"seed {seed}, without {sorted(skip)}:", *story(seed, skip)]))


@pytest.mark.parametrize("seed", REGRESSIONS, ids=str)
def test_what_once_failed_does_not_fail_again(seed: int) -> None:
    assert run_or_tell(seed, Watcher())


def test_a_failing_schedule_is_made_short() -> None:
    failing = next(seed for seed in range(1_000) if failure(seed, make=LockHeldOnException)[0])
    name, world = failure(failing, make=LockHeldOnException)

    skip = shrink(failing, LockHeldOnException)

    assert failure(failing, skip, LockHeldOnException)[0] == name
    assert world.planned - len(skip) <= 5
    assert name.split()[-1] in story(failing, skip, LockHeldOnException)[-1]


def test_the_generator_reaches_many_situations() -> None:
    watcher = Watcher()

    for seed in range(30_000, 31_000):
        run(seed, watcher)

    assert len(watcher.states) >= STATES_MIN


def test_rare_things_happen() -> None:
    watcher = Watcher()
    missing = set(RARE)
    for seed in range(20_000, 20_400):
        run(seed, watcher)
        missing = {name for name in RARE if not watcher.seen[name]}
        if not missing:
            break

    assert not missing, "the generator is too weak"


def test_the_same_seed_is_the_same_schedule() -> None:
    traces = [[run(seed, Watcher()).trace for seed in range(20)] for _ in range(2)]

    assert traces[0] == traces[1]
    assert len(set(traces[0])) == 20


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_planted_bug_is_found(mutant: type[Scheduler]) -> None:
    for seed in range(MUTANT_SEEDS_MAX):
        if failure(seed, make=mutant)[0]:
            tell(f"{mutant.__name__}: found after {seed + 1} schedules")
            return
    pytest.fail(f"{mutant.__name__} survived {MUTANT_SEEDS_MAX} seeds")

"""Thousands of seeded schedules under full watch, and proof that the watch sees what it should."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from modelyard.residency.scheduler import Scheduler
from tests.support.counts import count, tell

from .invariants import Watcher, run
from .mutants import FURTHER, HISTORICAL, LockHeldOnException
from .mutants_of_rules import OF_RULES
from .plan import schedule
from .regressions import REGRESSIONS
from .shrink import failure, report, shrink, story

CHUNK_SEEDS = 250
CHUNK_COUNT = 10_000 // CHUNK_SEEDS  # `make simulate SEEDS=1000000` is the long run
MUTANT_SEEDS_MAX = count(1_000, 10_000)
STEPS_MIN = 190  # of a schedule, on average
STATES_MIN = 6_000  # distinct situations in a thousand schedules; fewer would mean a weak generator
RARE = (
    "bypassed to the limit", "unload for abandoned", "unload for change", "unload for recycle", "unload for crash",
    "unload for expiry", "unload for operator", "unload for shutdown", "overcommitted", "QueueFull", "QueueTimeout",
    "InsufficientMemory", "LoadFailed", "ModelUnloaded", "ShuttingDown", "draining", "LoadBroke", "WorkerDied", "Left",
    "Adopt", "load under exclusive", "load within a group", "load over a group of pinned models",
    "load of an unknown size", "load of a smaller way", "operator's load in a cooldown",
    "a role let go, others stay", "said again", "refused for a crash loop",
)  # fmt: skip


@pytest.mark.parametrize("chunk", range(CHUNK_COUNT))
def test_every_schedule_keeps_every_promise(chunk: int) -> None:
    watcher, steps, began = Watcher(), 0, time.process_time()

    for seed in range(chunk * CHUNK_SEEDS, (chunk + 1) * CHUNK_SEEDS):
        try:
            steps += run(seed, watcher).steps
        except Exception:
            pytest.fail(report(schedule(seed)))

    step_us = (time.process_time() - began) / steps * 1e6
    tell(f"{CHUNK_SEEDS} schedules, {steps} steps, {step_us:.1f} us each, {len(watcher.states)} situations")
    assert steps >= CHUNK_SEEDS * STEPS_MIN


@pytest.mark.parametrize("showed", REGRESSIONS)
def test_what_once_failed_does_not_fail_again(showed: str) -> None:
    plan = REGRESSIONS[showed]

    name = failure(plan)

    assert not name, "\n".join(story(plan))


def test_a_failing_schedule_is_made_short() -> None:
    plan = next(plan for plan in map(schedule, range(1_000)) if failure(plan, LockHeldOnException))
    name = failure(plan, LockHeldOnException)

    short = shrink(plan, LockHeldOnException)

    assert failure(short, LockHeldOnException) == name
    assert len(short.acts) <= 5
    assert name in story(short, LockHeldOnException)[-1]


def test_the_generator_reaches_many_situations() -> None:
    watcher = Watcher()

    for seed in range(20_000, 21_000):
        run(seed, watcher)

    assert len(watcher.states) >= STATES_MIN
    assert not [name for name in RARE if not watcher.seen[name]]


def test_the_same_seed_is_the_same_schedule_in_every_process() -> None:
    traces = [run(seed, Watcher()).trace for seed in range(20)]
    script = "from tests.simulation.invariants import Watcher, run\n"
    script += "print([run(seed, Watcher()).trace for seed in range(20)])"

    others = [
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout.strip()
        for salt in ("1", "2")
    ]  # fmt: skip

    assert others == [str(traces)] * 2
    assert len(set(traces)) == 20


@pytest.mark.parametrize("mutant", [*HISTORICAL, *FURTHER, *OF_RULES], ids=lambda mutant: mutant.__name__)
def test_a_planted_bug_is_found(mutant: type[Scheduler]) -> None:
    for seed in range(MUTANT_SEEDS_MAX):
        name = failure(schedule(seed), mutant)
        if name:
            tell(f"{mutant.__name__}: found in schedule {seed + 1} as: {name}")
            return
    pytest.fail(f"{mutant.__name__} survived {MUTANT_SEEDS_MAX} seeds")


def test_fourteen_historical_bugs_are_planted() -> None:
    assert len(set(HISTORICAL)) == 14

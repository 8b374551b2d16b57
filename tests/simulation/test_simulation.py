"""Thousands of seeded schedules under full watch, and proof that the watch sees what it should."""

from __future__ import annotations

import pytest

from modelyard.residency.scheduler import Scheduler
from tests.support.counts import count

from .invariants import Watcher, run
from .mutants import MUTANTS

CHUNK_SEEDS = 50
CHUNK_COUNT = count(2_000, 10_000) // CHUNK_SEEDS
MUTANT_SEEDS_MAX = count(400, 10_000)
RARE = ("bypassed to the limit", "unload for abandoned", "unload for change", "overcommitted", "QueueFull",
        "InsufficientMemory", "draining", "QueueTimeout", "LoadBroke", "model.crashed")  # fmt: skip


@pytest.mark.parametrize("chunk", range(CHUNK_COUNT))
def test_every_schedule_keeps_every_promise(chunk: int) -> None:
    watcher = Watcher()

    for seed in range(chunk * CHUNK_SEEDS, (chunk + 1) * CHUNK_SEEDS):
        run(seed, watcher)

    assert watcher.seen["Grant"]


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
        try:
            run(seed, Watcher(), make=mutant)
        except (AssertionError, KeyError):
            return
    pytest.fail(f"{mutant.__name__} survived {MUTANT_SEEDS_MAX} seeds")

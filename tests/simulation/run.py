"""Run many schedules: `python -m tests.simulation.run --seeds 10000 [--first 0] [--cores 2]`.

Prints what came up, rarest first. The first failure ends it; it is made as short as possible and told step by step.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from .invariants import Watcher, run
from .plan import schedule
from .shrink import report

CHUNK_SEEDS = 500


@dataclass
class Findings:
    """What some schedules showed."""

    schedules: int = 0
    steps: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    states: set[int] = field(default_factory=set)
    failed: int | None = None  # the seed

    def add(self, more: Findings) -> None:
        self.schedules += more.schedules
        self.steps += more.steps
        self.seen += more.seen
        self.states |= more.states
        self.failed = more.failed


def run_chunk(seeds: range) -> Findings:
    """Some schedules in a row, in one process."""
    watcher, found = Watcher(), Findings()
    found.seen, found.states = watcher.seen, watcher.states
    for seed in seeds:
        try:
            found.steps += run(seed, watcher).steps
        except Exception:
            found.failed = seed
            break
        found.schedules += 1
    return found


def chunks(first: int, count: int) -> Iterator[range]:
    for start in range(first, first + count, CHUNK_SEEDS):
        yield range(start, min(start + CHUNK_SEEDS, first + count))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    found, began = Findings(), time.monotonic()
    with multiprocessing.Pool(options.cores) as pool:
        for more in pool.imap(run_chunk, chunks(options.first, options.seeds)):
            found.add(more)
            if found.failed is not None:
                break
            sys.stderr.write(f"\r{found.schedules} of {options.seeds} schedules, {time.monotonic() - began:.0f} s")
            sys.stderr.flush()
        pool.terminate()
    took_s = time.monotonic() - began
    sys.stderr.write("\n")
    if found.failed is not None:
        sys.stdout.write(report(schedule(found.failed)) + "\n")
        return 1
    for name, count in sorted(found.seen.items(), key=lambda item: item[1]):
        sys.stdout.write(f"{count:10} {name}\n")
    sys.stdout.write(
        f"{found.schedules} schedules, {found.steps} steps, {len(found.states)} distinct situations, {took_s:.1f} s\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

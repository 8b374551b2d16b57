"""Run many schedules: `python -m tests.simulation.run --seeds 10000 [--first 0] [--cores 2]`.

Prints what came up, rarest first. A failure is made as short as possible and told step by step.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed

from .invariants import Watcher, run
from .shrink import shrink, story

CHUNK = 2_000
Outcome = tuple[int, Counter[str], set[int], int | None]


def chunk(first: int, count: int) -> Outcome:
    """Steps, what was seen, the shapes, and the seed that failed."""
    watcher, steps = Watcher(), 0
    for seed in range(first, first + count):
        try:
            steps += run(seed, watcher).steps
        except (AssertionError, KeyError):
            return steps, watcher.seen, watcher.states, seed
    return steps, watcher.seen, watcher.states, None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    end = options.first + options.seeds
    seen: Counter[str] = Counter()
    states: set[int] = set()
    steps = done = 0
    began = time.monotonic()
    with ProcessPoolExecutor(options.cores) as pool:
        chunks = [pool.submit(chunk, first, min(CHUNK, end - first)) for first in range(options.first, end, CHUNK)]
        for finished in as_completed(chunks):
            more, seen_there, states_there, failed = finished.result()
            if failed is not None:
                pool.shutdown(cancel_futures=True)
                return tell(failed)
            steps, done = steps + more, done + CHUNK
            seen += seen_there
            states |= states_there
            sys.stderr.write(f"\r{min(done, options.seeds)} of {options.seeds}")
    for name, count in sorted(seen.items(), key=lambda item: item[1]):
        sys.stdout.write(f"{count:10} {name}\n")
    took_s = time.monotonic() - began
    sys.stdout.write(f"{options.seeds} schedules, {steps} steps, {len(states)} distinct states, {took_s:.1f} s\n")
    return 0


def tell(seed: int) -> int:
    skip = shrink(seed)
    sys.stdout.write(f"\nseed {seed} fails; left out: {sorted(skip)}\n")
    sys.stdout.writelines(f"{line}\n" for line in story(seed, skip))
    return 1


if __name__ == "__main__":
    sys.exit(main())

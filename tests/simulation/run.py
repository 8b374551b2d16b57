"""Run many schedules: `python -m tests.simulation.run --seeds 10000 [--first 0]`. Prints what came up, rarest first."""

from __future__ import annotations

import argparse
import sys
import time

from .invariants import Watcher, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    watcher = Watcher()
    steps = 0
    began = time.monotonic()
    for seed in range(options.first, options.first + options.seeds):
        try:
            steps += run(seed, watcher).steps
        except AssertionError as failure:
            sys.stdout.write(f"seed {seed}: {failure}\n")
            raise
    for name, count in sorted(watcher.seen.items(), key=lambda item: item[1]):
        sys.stdout.write(f"{count:10} {name}\n")
    took_s = time.monotonic() - began
    sys.stdout.write(f"{options.seeds} schedules, {steps} steps, {took_s:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

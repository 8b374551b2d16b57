"""Routing compared on made-up traffic: `python -m bench.routing [--seed N] [--seeds N] [--requests N]`.

A simulation, so nothing here is a speed of this machine: seconds are those of the simulated nodes. Deterministic.
The seed of the table, and the further seeds, were not used to set the ranking's constants.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from .routing_nodes import Node, Run, Timeline
from .routing_policies import POLICIES, Policy, View, work_of
from .routing_traces import GB, SHAPES, Ask, Trace, make_trace

LOOK_S = 10.0  # between two looks at a node
COOLDOWN_S = 5.0  # a node that failed is left alone
FOUR = ("random", "round robin", "least connections", "residency only")
STRICT = "residency, remembered"
REFUSED_S = 0.05  # until a refused connection is noticed


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a way to choose came to on one trace."""

    p50_s: float
    p95_s: float
    p99_s: float
    loads: int
    evictions: int
    warmest: float  # part of the requests that went to the warmest copy there was, of those for which there was one

    def beats(self, other: Outcome) -> bool:
        return self.loads < other.loads and self.p95_s < other.p95_s


class Gateway:
    """Sends each request where a policy says, and sees what a gateway sees."""

    def __init__(self, trace: Trace, policy: Policy) -> None:
        self._trace, self._policy, self._timeline = trace, policy, Timeline()
        self._nodes = {one.name: Node(one, trace.sizes_gb, self._timeline) for one in trace.machines}
        self._views = {one.name: View(one) for one in trace.machines}
        self._cooling: dict[str, float] = {}
        self._first_s: list[float] = []
        self._warm: Counter[bool] = Counter()

    def run(self) -> Outcome:
        for ask in self._trace.asks:
            self._timeline.at(ask.at, lambda ask=ask: self._send(ask, frozenset()))  # type: ignore[misc]
        for number, (name, node) in enumerate(self._nodes.items()):
            looks = int(self._trace.asks[-1].at / LOOK_S) + 1
            for look in range(looks):
                when = (look + number / len(self._nodes)) * LOOK_S
                self._timeline.at(when, lambda name=name: self._look(name))  # type: ignore[misc]
            for failing, begin, end in self._trace.outages:
                if failing == name:
                    self._timeline.at(begin, node.fail)
                    self._timeline.at(end, node.recover)
        self._timeline.run()
        assert len(self._first_s) == len(self._trace.asks), "every request is answered"
        ordered = sorted(self._first_s)
        p50, p95, p99 = (ordered[int(len(ordered) * part)] for part in (0.5, 0.95, 0.99))
        nodes = self._nodes.values()
        warmest = self._warm[True] / max(self._warm.total(), 1)
        return Outcome(p50, p95, p99, sum(one.loads for one in nodes), sum(one.evictions for one in nodes), warmest)

    def _look(self, name: str) -> None:
        node, view = self._nodes[name], self._views[name]
        if node.is_down:
            self._cooling[name] = self._timeline.now + LOOK_S + 1
            return
        view.residents = {model for model, copy in node.copies.items() if copy.ready_at <= self._timeline.now}
        held = sum(round(self._trace.sizes_gb[model] * GB) for model in view.residents)
        view.most_bytes = max(view.most_bytes, held)
        view.free_gb = node.free_gb if view.machine.tells_room else None

    def _send(self, ask: Ask, failed: frozenset[str]) -> None:
        now = self._timeline.now
        able = [view for view in self._views.values() if self._nodes[view.name].fits(ask.model)]
        well = [view for view in able if view.name not in failed and self._cooling.get(view.name, 0.0) <= now]
        view = self._policy.choose(ask, well or able, now)
        node = self._nodes[view.name]
        if node.is_down:
            self._cooling[view.name] = now + COOLDOWN_S
            again = failed | {view.name}
            self._timeline.at(now + REFUSED_S, lambda: self._send(ask, again))
            return
        if not failed:
            self._note_warmth(ask, node)
        was_warm, work = ask.model in view.residents, work_of(ask)
        view.in_flight[ask.model] += 1
        view.work[ask.model] += work
        is_counted = False

        def began() -> None:
            nonlocal is_counted
            is_counted = True
            self._first_s.append(self._timeline.now - ask.at)
            if not was_warm:
                view.loaded(ask.model, self._trace.sizes_gb[ask.model], self._timeline.now - now)

        def over() -> None:
            view.in_flight[ask.model] -= 1
            view.work[ask.model] -= work

        def ended() -> None:
            over()
            view.spoke(ask.model, run.speed)

        def lost() -> None:
            over()
            self._cooling[view.name] = self._timeline.now + COOLDOWN_S
            view.residents.clear()
            if not is_counted:
                self._send(ask, failed | {view.name})

        run = Run(ask, began, ended, lost)
        node.take(run)

    def _note_warmth(self, ask: Ask, node: Node) -> None:
        nodes = self._nodes.values()
        if any(one.has_read(ask) for one in nodes):
            self._warm[node.has_read(ask)] += 1
        elif any(one.holds(ask.model) for one in nodes):
            self._warm[node.holds(ask.model)] += 1


def outcomes(name: str, seed: int, count: int) -> dict[str, Outcome]:
    """Every way to choose, on one trace."""
    trace = make_trace(name, seed, count)
    return {policy: Gateway(trace, kind(seed, trace.sizes_gb)).run() for policy, kind in POLICIES.items()}


def is_ahead(found: dict[str, Outcome], others: Sequence[str] = FOUR) -> bool:
    """Whether ours has fewer loads and a lower p95 than each of the others."""
    return all(found["ours"].beats(found[other]) for other in others)


def table(found: dict[str, Outcome]) -> Iterator[str]:
    for policy, one in found.items():
        yield (
            f"  {policy:<24}{one.p50_s:>9.2f}{one.p95_s:>9.2f}{one.p99_s:>10.2f}"
            f"{one.loads:>8}{one.evictions:>11}{one.warmest:>10.0%}"
        )


def together(found: Sequence[dict[str, Outcome]], policy: str) -> tuple[int, float]:
    """Over several traces: all loads, and the median of the p95s, since the p95 of one trace is a matter of luck."""
    mine = [one[policy] for one in found]
    return sum(one.loads for one in mine), median(one.p95_s for one in mine)


def summary(name: str, seeds: Sequence[int], count: int) -> str:
    """How often ours is ahead of so many seeds, and both figures over all of them beside the best of the four."""
    found = [outcomes(name, seed, count) for seed in seeds]
    wins = sum(is_ahead(one) for one in found)
    strict = sum(is_ahead(one, [STRICT]) for one in found)
    loads, p95_s = together(found, "ours")
    least = min(together(found, other)[0] for other in FOUR)
    soonest_s = min(together(found, other)[1] for other in FOUR)
    return f"  {name:<16}{wins:>14}{strict:>28}{loads:>8}{least:>9}{p95_s:>10.2f}{soonest_s:>12.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.routing", description="Compare ways to choose a node, simulated.")
    parser.add_argument("--seed", type=int, default=1, help="of the tables")
    parser.add_argument("--requests", type=int, default=3000, help="in each table; two thirds for further seeds")
    parser.add_argument("--seeds", type=int, default=20, help="further seeds, of which it is counted how often we lead")
    asked = parser.parse_args(arguments)
    columns = f"{'p50 s':>9}{'p95 s':>9}{'p99 s':>10}{'loads':>8}{'evictions':>11}{'warmest':>10}"
    print(f"{'time to the first token':<26}{columns}")
    for name in SHAPES:
        found = outcomes(name, asked.seed, asked.requests)
        verdict = "fewer loads and a lower p95" if is_ahead(found) else "NOT fewer loads and a lower p95"
        print(f"{name}, seed {asked.seed}: ours has {verdict} than each of the four")
        print("\n".join(table(found)), flush=True)
    if asked.seeds:
        seeds = range(asked.seed + 1, asked.seed + 1 + asked.seeds)
        count = asked.requests * 2 // 3
        strict = f"than {STRICT}"
        print(
            f"\n{asked.seeds} further seeds with {count} requests each: how often ours has fewer loads and a lower p95;"
        )
        print("all loads, and the median p95 in seconds, each beside the best that any of the four has")
        print(f"  {'':<16}{'than all four':>14}{strict:>28}{'loads':>8}{'of four':>9}{'p95':>10}{'of four':>12}")
        for name in SHAPES:
            print(summary(name, seeds, count), flush=True)


if __name__ == "__main__":
    main()

"""Two models, room for one, a random mix of requests: swaps are few, and little time is lost against the best order.

The best order is worked out afterwards, by somebody who knew every arrival beforehand: the shortest time in which one
slot could have served them all, with loads that take as long as they took here.
"""

from __future__ import annotations

import asyncio
import random
import time
from statistics import mean

from tests.support.counts import count, tell
from tests.support.node import Answer, ask, client, echo, running

MIB = 1024**2
REQUESTS = count(suite=60, prove=400)
GAP_S = 0.15  # between two arrivals, on average: a little less than an answer takes
TOKENS, TOKENS_PER_S = 10, 50
ANSWER_S = TOKENS / TOKENS_PER_S
LOAD_S = 0.5
THROUGHPUT_RATIO_MIN = 0.7
Arrival = tuple[float, str]


def arrivals(seed: int) -> list[Arrival]:
    chance = random.Random(seed)
    at, found = 0.0, []
    for _ in range(REQUESTS):
        at += chance.expovariate(1 / GAP_S)
        found.append((at, chance.choice(("red", "blue"))))
    return found


def best_s(trace: list[Arrival], answer_s: float, swap_s: float) -> float:
    """The least time to serve them all: for each (reds served, blues served, model in memory) when that is earliest.

    Arriving there earlier is never worse, and in one model's line first come, first served is as good as any order.
    """
    times = {model: [at for at, name in trace if name == model] for model in ("red", "blue")}
    reach: dict[tuple[int, int, str], float] = {(0, 0, ""): 0.0}
    for reds in range(len(times["red"]) + 1):
        for blues in range(len(times["blue"]) + 1):
            for held in ("", "red", "blue"):
                now = reach.get((reds, blues, held))
                if now is None:
                    continue
                for model, done in (("red", reds), ("blue", blues)):
                    if done == len(times[model]):
                        continue
                    begin = max(now if held == model else now + swap_s, times[model][done])
                    state = (reds + (model == "red"), blues + (model == "blue"), model)
                    reach[state] = min(reach.get(state, float("inf")), begin + answer_s)
    return min(reach.get((len(times["red"]), len(times["blue"]), held), float("inf")) for held in ("red", "blue"))


def test_the_best_order_serves_one_model_after_the_other() -> None:
    trace = [(0.0, "red"), (0.0, "blue")] * 3

    assert best_s(trace, answer_s=1.0, swap_s=5.0) == 2 * 5.0 + 6 * 1.0
    assert best_s([(0.0, "red"), (100.0, "blue")], answer_s=1.0, swap_s=5.0) == 101.0


async def test_swaps_are_few_and_cost_little() -> None:
    script = {
        "footprint_bytes": 600 * MIB, "slots": 1, "load_s": LOAD_S,
        "reply_tokens": TOKENS, "tokens_per_s": TOKENS_PER_S,
    }  # fmt: skip
    config = echo(red=script, blue=script)
    config["memory"] |= {"ram_limit_bytes": 1024 * MIB, "headroom_bytes": 64 * MIB}
    trace = arrivals(seed=7)
    async with running(config) as server, client() as session:

        async def one(at: float, model: str) -> Answer:
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            return await ask(session, server, model)

        began = time.monotonic()
        answers = await asyncio.gather(*(one(at, model) for at, model in trace))
        took_s = time.monotonic() - began
        events = server.log_events()

    swaps_s = [event["took_s"] for event in events if event["event"] == "model.loaded"]
    best = best_s(trace, ANSWER_S, mean(swaps_s))
    tell(f"{len(swaps_s)} loads, {took_s:.1f} s for {REQUESTS} requests; the best order takes {best:.1f} s")
    assert [answer.status for answer in answers] == [200] * REQUESTS
    assert len(swaps_s) <= REQUESTS / 6, "a swap serves several requests"
    assert best / took_s >= THROUGHPUT_RATIO_MIN

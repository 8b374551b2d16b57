"""Real memory under a budget: models of many sizes, some larger than they say, asked for at random.

Workers hold what they hold for real, each under a hard limit of its own (RLIMIT_DATA). Together they never hold more
than the budget, nobody is killed for memory, and every request is answered or refused with the numbers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

import psutil

from tests.support.counts import count, tell
from tests.support.node import Answer, ask, client, echo, fetch, running

MIB = 1024**2
LIMIT_MIB, HEADROOM_MIB = 640, 64
WORKER_LIMIT_MIB = 420
DURATION_S = count(suite=12, prove=3600)
CLIENTS = 6
LOOK_S = 0.1
SCRIPT = {"reply_tokens": 5, "tokens_per_s": 200, "slots": 2}
PROGRAM = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({WORKER_LIMIT_MIB * MIB}, {WORKER_LIMIT_MIB * MIB}))
from modelyard.cli.main import main
sys.exit(main())
"""
# MiB it says it needs, and MiB it takes: one takes less, one a little more than the process itself explains.
SIZES = {
    "small": (60, 30), "middle": (150, 110), "large": (260, 220), "widest": (380, 300), "shy": (120, 90),
    "never": (900, 10),
}  # fmt: skip


def models() -> dict[str, dict[str, Any]]:
    return {
        name: {**SCRIPT, "footprint_bytes": says * MIB, "allocate_bytes": takes * MIB}
        for name, (says, takes) in SIZES.items()
    }


async def test_together_they_never_hold_more_than_the_budget() -> None:
    config = echo(**models())
    config["memory"] |= {"ram_limit_bytes": LIMIT_MIB * MIB, "headroom_bytes": HEADROOM_MIB * MIB}
    config["residency"] = {"queue_s": 60}
    chance, answers, held_max, reserved_max = random.Random(5), list[Answer](), 0, 0
    async with running(config, program=("-c", PROGRAM)) as server, client() as session:
        end = time.monotonic() + DURATION_S

        async def asking() -> None:
            while time.monotonic() < end:
                answers.append(await ask(session, server, chance.choice(sorted(SIZES)), stream=chance.random() < 0.5))

        askers = [asyncio.create_task(asking()) for _ in range(CLIENTS)]
        while not all(one.done() for one in askers):
            held = 0
            for worker in server.workers():
                try:
                    memory = worker.memory_info()
                    held += memory.rss - memory.shared
                except psutil.Error:
                    continue
            (ram,) = (await fetch(session, server, "/health/memory"))["devices"]
            held_max, reserved_max = max(held_max, held), max(reserved_max, ram["reserved_bytes"])
            assert ram["reserved_bytes"] <= ram["budget_bytes"]
            await asyncio.sleep(LOOK_S)
        await asyncio.gather(*askers)
        events = Counter(event["event"] for event in server.log_events())

    codes = Counter(one.error["code"] if one.error else one.finish or "served" for one in answers)
    tell(
        f"{len(answers)} requests, {events['model.loaded']} loads, {codes}; "
        f"held {held_max / MIB:.0f}, reserved {reserved_max / MIB:.0f} of {LIMIT_MIB - HEADROOM_MIB} MiB"
    )
    assert events["model.loaded"] > 5
    assert events["model.crashed"] == events["model.load_failed"] == 0
    assert set(codes) == {"served", "stop", "insufficient_memory"}
    assert held_max <= (LIMIT_MIB - HEADROOM_MIB) * MIB

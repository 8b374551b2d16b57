"""Made-up traffic for the routing simulator: which models there are, which nodes, and who asks for what and when.

Everything comes from a seed: the same seed gives the same traffic on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

GB = 10**9
SIZES_GB = (2.0, 4.5, 5.0, 8.5, 9.0, 13.0, 18.0, 20.0)
NODES = (  # memory, speed of a disk, tokens a second of a model of 1 GB, requests at a time, whether it tells its room
    (16.0, 0.5, 250.0, 2, False),
    (24.0, 1.0, 500.0, 4, True),
    (24.0, 1.5, 700.0, 4, False),
    (48.0, 1.0, 600.0, 4, True),
    (48.0, 2.0, 900.0, 8, False),
    (80.0, 2.0, 1200.0, 8, True),
)
PROMPT_TOKENS_MAX = 16_000
SESSION_TURNS = 5  # on average


@dataclass(frozen=True, slots=True)
class Machine:
    """One node as it was bought."""

    name: str
    memory_gb: float
    load_gb_per_s: float
    tokens_gb_per_s: float  # tokens a second, times the model's size
    slots: int  # per model
    tells_room: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    at: float
    model: str
    session: str
    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Trace:
    """Traffic, and the nodes it meets."""

    name: str
    machines: tuple[Machine, ...]
    sizes_gb: dict[str, float]
    asks: tuple[Ask, ...]
    outages: tuple[tuple[str, float, float], ...] = ()  # node, from, to


@dataclass(frozen=True, slots=True)
class Shape:
    """What one kind of traffic is made of."""

    models: int
    zipf: float
    per_s: float  # sessions begun a second, on average
    hot: float = 0.0  # part of the sessions that are about the first model
    burst: float = 1.0  # how much more comes during a burst
    has_outage: bool = False


SHAPES = {
    "steady": Shape(models=12, zipf=1.0, per_s=0.25),
    "bursty": Shape(models=12, zipf=1.0, per_s=0.12, burst=8.0),
    "many models": Shape(models=40, zipf=0.9, per_s=0.15),
    "one hot model": Shape(models=12, zipf=0.8, per_s=0.3, hot=0.6),
    "a node fails": Shape(models=12, zipf=1.0, per_s=0.2, has_outage=True),
}
BURST_S, CALM_S = 40.0, 300.0


def make_trace(name: str, seed: int, count: int) -> Trace:
    """So many requests of that shape."""
    shape, rng = SHAPES[name], random.Random(f"{name} {seed}")
    machines = tuple(Machine(f"node{number}", *figures) for number, figures in enumerate(NODES))
    sizes = {f"model{number}": rng.choice(SIZES_GB) for number in range(shape.models)}
    if shape.hot:
        sizes["model0"] = 8.5
    weights = [1 / (rank + 1) ** shape.zipf for rank in range(shape.models)]
    chosen = _models(rng, list(sizes), weights, shape.hot)
    asks: list[Ask] = []
    for number, began_at in enumerate(_arrivals(rng, shape)):
        if len(asks) >= count and began_at > sorted(ask.at for ask in asks)[count - 1]:
            break
        asks += _session(rng, f"session{number}", chosen(), began_at)
    asks.sort(key=lambda ask: ask.at)
    asks = asks[:count]
    end = asks[-1].at
    outages = ((machines[rng.randrange(3, 6)].name, end * 0.4, end * 0.4 + 300.0),) if shape.has_outage else ()
    return Trace(name, machines, sizes, tuple(asks), outages)


def _models(rng: random.Random, names: list[str], weights: list[float], hot: float) -> Callable[[], str]:
    def chosen() -> str:
        return names[0] if rng.random() < hot else rng.choices(names, weights)[0]

    return chosen


def _arrivals(rng: random.Random, shape: Shape) -> Iterator[float]:
    now, changes_at, is_burst = 0.0, rng.expovariate(1 / CALM_S), False
    while True:
        now += rng.expovariate(shape.per_s * (shape.burst if is_burst else 1.0))
        if now > changes_at and shape.burst > 1:
            is_burst = not is_burst
            changes_at = now + rng.expovariate(1 / (BURST_S if is_burst else CALM_S))
        yield now


def _session(rng: random.Random, name: str, model: str, at: float) -> Iterator[Ask]:
    """A conversation: each prompt holds all that was said before."""
    prompt = round(rng.lognormvariate(6.0, 1.0))
    while prompt < PROMPT_TOKENS_MAX:
        answer = 1 + round(rng.lognormvariate(5.2, 0.8))
        yield Ask(at, model, name, prompt, answer)
        if rng.random() < 1 / SESSION_TURNS:
            return
        prompt += answer + round(rng.lognormvariate(4.0, 1.0))
        at += 5 + rng.expovariate(1 / 30)

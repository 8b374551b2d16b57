"""Who should leave when memory is short. Pure: asked speculatively and often, so it neither logs nor remembers.

Promises: the set it names suffices, or it names none; nothing is named that is not needed; equal questions get
equal answers. It knows nothing of leases or pins: whoever asks offers only models that may leave.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LOAD_S_MIN = 0.001  # even a model that loads at once costs something to bring back
BUSY_COST_S = 60.0  # each lease that must first end weighs as much as this many seconds of loading


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may leave, what it would give back, and what it costs to bring back."""

    model: str
    bytes: Mapping[str, int]
    cost: float


def cost_of_return(load_s: float, idle_s: float, leases: int = 0) -> float:
    """What sending a model away may cost: its load time, the less the longer nobody asked for it.

    >>> cost_of_return(10, idle_s=99) < cost_of_return(1, idle_s=0) < cost_of_return(1, idle_s=0, leases=1)
    True
    """
    assert idle_s >= 0, "a model cannot have been idle for a negative time"
    return max(load_s, LOAD_S_MIN) / (1 + idle_s) + BUSY_COST_S * leases


def victims(short: Mapping[str, int], candidates: Iterable[Candidate]) -> tuple[str, ...] | None:
    """The cheapest set we find that gives back `short` bytes on every device; None if all together do not.

    (1) Cheapest first until it suffices, (2) without those that proved unnecessary, (3) unless one alone is cheaper.
    """
    useful = [one for one in candidates if not short.keys().isdisjoint(one.bytes)]
    if not _suffices(useful, short):
        return None
    useful.sort(key=_by_cost)
    chosen: list[Candidate] = []
    for candidate in useful:  # (1)
        chosen.append(candidate)
        if _suffices(chosen, short):
            break
    if len(chosen) > 1:
        for candidate in reversed(chosen.copy()):  # (2)
            rest = [one for one in chosen if one is not candidate]
            if _suffices(rest, short):
                chosen = rest
    alone = next((one for one in useful if _suffices([one], short)), None)
    if alone is not None and alone.cost < sum(one.cost for one in chosen):  # (3)
        chosen = [alone]
    return tuple(one.model for one in chosen)


def relief(short: Mapping[str, int], candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Like `victims`, but when nothing suffices, everybody who helps: for a device that others have filled."""
    enough = victims(short, candidates)
    if enough is not None:
        return enough
    return tuple(sorted(one.model for one in candidates if any(one.bytes.get(device, 0) > 0 for device in short)))


def _by_cost(one: Candidate) -> tuple[float, str]:
    return one.cost, one.model


def _suffices(chosen: Sequence[Candidate], short: Mapping[str, int]) -> bool:
    for device, count in short.items():
        missing = count
        for one in chosen:
            missing -= one.bytes.get(device, 0)
        if missing > 0:
            return False
    return True

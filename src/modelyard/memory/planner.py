"""Whether a model fits, and what must leave first. Pure arithmetic over one ledger per device.

Promises: a plan that is carried out never takes a device over its budget, foreign use included; a refusal carries the
numbers. It knows nothing of time, queues or processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from modelyard.types.memory import RAM, Footprint, ProcessMemory

from .eviction import Candidate, victims

Bytes = Mapping[str, int]  # per device


@dataclass(frozen=True, slots=True)
class Ledger:
    """What one device has, and what of it models may use."""

    device: str
    total_bytes: int
    headroom_bytes: int = 0
    foreign_bytes: int = 0  # held by others than our workers
    budget_bytes: int = field(init=False)  # what models may have
    room_bytes: int = field(init=False)  # of the budget, what others leave; below zero if they hold more than that

    def __post_init__(self) -> None:
        budget = max(0, self.total_bytes - self.headroom_bytes)
        object.__setattr__(self, "budget_bytes", budget)
        object.__setattr__(self, "room_bytes", budget - self.foreign_bytes)


@dataclass(frozen=True, slots=True)
class Plan:
    """It fits once these have left; at once if there are none."""

    evict: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoFit:
    """It does not fit, and where the most is missing."""

    device: str
    needed_bytes: int
    budget_bytes: int
    free_bytes: int  # of the budget, after all that may leave has left
    foreign_bytes: int
    never: bool  # not even on an empty machine


def plan(need: Bytes, held: Bytes, ledgers: Mapping[str, Ledger], candidates: Sequence[Candidate] = ()) -> Plan | NoFit:
    """What must leave so that `need` fits beside `held`, which includes what the candidates hold."""
    chosen = evictions(need, held, ledgers, candidates)
    if chosen is not None:
        return Plan(chosen)
    kept = add(held, *({device: -count for device, count in one.bytes.items()} for one in candidates))
    return _no_fit(need, kept, ledgers)


def evictions(
    need: Bytes, held: Bytes, ledgers: Mapping[str, Ledger], candidates: Sequence[Candidate]
) -> tuple[str, ...] | None:
    """Who must leave; None if that would not help."""
    missing = shortage(need, held, ledgers)
    return victims(missing, candidates) if missing else ()


def shortage(need: Bytes, held: Bytes, ledgers: Mapping[str, Ledger]) -> dict[str, int]:
    """The bytes missing per device. A device nobody reads has nothing to give.

    >>> shortage({"gpu0": 6}, {"gpu0": 3}, {"gpu0": Ledger("gpu0", total_bytes=10, headroom_bytes=2)})
    {'gpu0': 1}
    """
    missing: dict[str, int] = {}
    for device, count in need.items():
        ledger = ledgers.get(device)
        over = count + held.get(device, 0) - (ledger.room_bytes if ledger is not None else 0)
        if over > 0 < count:
            missing[device] = over
    return missing


def overcommit(held: Bytes, ledgers: Mapping[str, Ledger]) -> dict[str, int]:
    """The bytes per device by which what is held, foreign use included, is over the budget."""
    over: dict[str, int] = {}
    for device, ledger in ledgers.items():
        count = held.get(device, 0)
        if 0 < count > ledger.room_bytes:
            over[device] = count - ledger.room_bytes
    return over


def never_fits(need: Bytes, ledgers: Mapping[str, Ledger]) -> NoFit | None:
    """Why it could not even fit on an empty machine; None if it could."""
    for device, count in need.items():
        ledger = ledgers.get(device)
        if count > (ledger.budget_bytes if ledger is not None else 0):
            return _no_fit(need, {}, ledgers)
    return None


def add(*parts: Bytes) -> dict[str, int]:
    """Sum per device.

    >>> add({"ram": 1}, {"ram": 2, "gpu0": 3})
    {'ram': 3, 'gpu0': 3}
    """
    total: dict[str, int] = {}
    for part in parts:
        for device, count in part.items():
            total[device] = total.get(device, 0) + count
    return total


def foreign_bytes(used: int, known: int, unknown_max: int, last: int) -> int:
    """What others hold, of `used` bytes, when our workers hold `known` and up to `unknown_max` more.

    While a worker loads or leaves nobody can tell how much of the use is its own. The estimate then stays what it was,
    as far as that is possible at all.

    >>> foreign_bytes(used=10, known=4, unknown_max=0, last=0), foreign_bytes(used=10, known=4, unknown_max=5, last=2)
    (6, 2)
    """
    highest = max(0, used - known)
    lowest = max(0, highest - unknown_max)
    return min(max(last, lowest), highest)


def in_use(memory: ProcessMemory) -> dict[str, int]:
    """What a device's reader counts as used by a process. File-backed RAM is not: it is there for the taking."""
    return {RAM: memory.anonymous_bytes, **memory.gpu_bytes}


def corrected(predicted: Footprint, memory: ProcessMemory) -> dict[str, int]:
    """What to reserve for a worker that is up: no longer the band, but what was seen.

    RAM is taken page by page as it is needed, so a measurement may raise the prediction and never lower it. A GPU's
    buffers are allocated up front, so there the measurement stands.
    """
    held = dict(predicted.bytes)
    for device, count in in_use(memory).items():
        if device == RAM:
            held[RAM] = max(held.get(RAM, 0), count)
        elif count > 0:
            held[device] = count
    return held


def raised(held: Bytes, measured: Bytes | None) -> dict[str, int]:
    """A reservation, raised to what the worker has grown to since."""
    now = dict(held)
    for device, count in (measured or {}).items():
        now[device] = max(now.get(device, 0), count)
    return now


def _budget(device: str, ledgers: Mapping[str, Ledger]) -> int:
    return ledgers[device].budget_bytes if device in ledgers else 0


def _foreign(device: str, ledgers: Mapping[str, Ledger]) -> int:
    return ledgers[device].foreign_bytes if device in ledgers else 0


def _free(device: str, held: Bytes, ledgers: Mapping[str, Ledger]) -> int:
    return (ledgers[device].room_bytes if device in ledgers else 0) - held.get(device, 0)


def _no_fit(need: Bytes, kept: Bytes, ledgers: Mapping[str, Ledger]) -> NoFit:
    device = max(sorted(need), key=lambda name: need[name] - _free(name, kept, ledgers))
    budget = _budget(device, ledgers)
    return NoFit(
        device=device,
        needed_bytes=need[device],
        budget_bytes=budget,
        free_bytes=max(0, _free(device, kept, ledgers)),
        foreign_bytes=_foreign(device, ledgers),
        never=any(count > _budget(name, ledgers) for name, count in need.items()),
    )

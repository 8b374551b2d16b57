"""Whether a model would fit this moment, and what would have to happen first. Pure; advisory, since the next event may
change it. The decision itself is made in room.py, when somebody asks for the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from modelyard.memory.eviction import Candidate, cost_of_return, victims
from modelyard.memory.planner import Ledger, add, never_fits, shortage
from modelyard.types.model import ModelSpec
from modelyard.types.status import Residency

from .state import Record

Fit = Literal["resident", "now", "after_evictions", "after_answers", "blocked", "never"]


@dataclass(frozen=True, slots=True)
class Outlook:
    """How a load would go. `leave`: who would have to leave; `short_bytes`: what is missing where nothing helps."""

    fit: Fit
    leave: tuple[str, ...] = ()
    device: str = ""
    short_bytes: int = 0


def outlook(
    spec: ModelSpec, records: Mapping[str, Record], ledgers: Mapping[str, Ledger], pinned: frozenset[str], now: float
) -> Outlook:
    """(1) There already. (2) Over the budget of an empty machine. (3) Room enough. (4) Idle models leave.

    (5) Busy ones finish first. (6) Pinned models and other programs are in the way.
    """
    own = records.get(spec.name)
    if own is not None and own.is_staying and own.spec.serves(spec):  # (1)
        return Outlook("resident")
    need = spec.footprint.reserved_bytes
    hopeless = never_fits(need, ledgers)
    if hopeless is not None:  # (2)
        return Outlook("never", (), hopeless.device, hopeless.needed_bytes - hopeless.budget_bytes)
    others = {name: one for name, one in records.items() if name != spec.name}
    missing = shortage(need, add(*(one.held for one in others.values())), ledgers)
    if not missing:  # (3)
        return Outlook("now")
    leaving = [one for one in others.values() if one.state is Residency.LEAVING]
    missing = shortage(need, add(*(one.held for one in others.values() if one not in leaving)), ledgers)
    if not missing:
        return Outlook("after_evictions")
    movable = [one for one in others.values() if one not in leaving and one.spec.name not in pinned]
    idle = [one for one in movable if one.is_open and not one.leases]
    steps: tuple[tuple[Fit, list[Record]], ...] = (("after_evictions", idle), ("after_answers", movable))  # (4), (5)
    for fit, candidates in steps:
        chosen = victims(missing, [_candidate(one, now) for one in candidates])
        if chosen is not None:
            return Outlook(fit, chosen)
    kept = add(*(one.held for one in others.values() if one not in leaving and one not in movable))
    device, short = max(shortage(need, kept, ledgers).items(), key=lambda item: item[1])  # (6)
    return Outlook("blocked", (), device, short)


def _candidate(record: Record, now: float) -> Candidate:
    idle_s = 0.0 if record.leases else max(0.0, now - record.idle_since)
    return Candidate(record.spec.name, record.held, cost_of_return(record.load_s, idle_s, leases=record.leases))

"""Whose turn it is among equals: smooth weighted round robin, and what a slow starter may have of the requests. Pure.

Promises: each gets its weight's part of the turns it takes part in, without bursts, whatever set takes part each time;
bounded. It does not know what makes candidates equal: ranking.py does.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GROUPS_MAX = 1000
RAMP_REQUESTS_MAX = 2.0  # a slow starter may save up; with 1 it loses what it is owed while it waits for its turn


@dataclass(slots=True, eq=False)
class _Group:
    credit: dict[str, float] = field(default_factory=dict)  # requests each is owed; they add up to about 0
    ramp: dict[str, float] = field(default_factory=dict)  # requests a candidate in slow start may still have


class Turns:
    """Whose turn it is among equals, per group: smooth weighted round robin. Forgets the groups unused for longest."""

    __slots__ = ("_groups", "_groups_max")

    def __init__(self, groups_max: int = GROUPS_MAX) -> None:
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        self._groups_max = groups_max

    def __len__(self) -> int:
        return len(self._groups)

    def keep_only(self, group: str, names: Sequence[str]) -> None:
        """Forget what others of this group were owed."""
        found = self._group(group)
        for owed in (found.credit, found.ramp):
            for gone in owed.keys() - set(names):
                del owed[gone]

    def next(self, group: str, weights: Mapping[str, float]) -> str:
        """Who has the turn; each gets its weight's part of the turns it takes part in, without bursts.

        Credit counts requests, not weights, so an edited weight is not held up by what was owed under the old one.
        """
        credit, total = self._group(group).credit, sum(weights.values())
        for name, weight in weights.items():
            # New groups start at different members: else the first request for each of fifty models goes to one node.
            start = zlib.crc32(f"{group}\0{name}".encode()) * 1e-13
            credit[name] = credit.get(name, start) + weight / total
        chosen = max(weights, key=lambda name: credit[name])
        credit[chosen] -= 1.0
        return chosen

    def may_ramp(self, group: str, name: str, part: float) -> bool:
        """Whether a candidate in slow start may have this request, if no more than `part` of all are for it."""
        ramp = self._group(group).ramp
        ramp[name] = min(RAMP_REQUESTS_MAX, ramp.get(name, 0.0) + part)
        return ramp[name] >= 1.0

    def ramped(self, group: str, name: str) -> None:
        """It got the request."""
        ramp = self._group(group).ramp
        if name in ramp:
            ramp[name] -= 1.0

    def _group(self, group: str) -> _Group:
        found = self._groups.setdefault(group, _Group())
        self._groups.move_to_end(group)
        if len(self._groups) > self._groups_max:
            self._groups.popitem(last=False)
        return found

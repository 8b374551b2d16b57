"""How many second attempts there may be: a share of all requests, and always a few. Pure; `now` is monotonic seconds.

So that a fleet that fails is not asked twice as often for it. A balance, as Finagle and Linkerd keep it: every request
pays in a part of an attempt, every second attempt costs a whole one, and a fleet that nobody asks for a while gets a
few back. While requests come there are never more second attempts than that part of all requests, and the few.
"""

from __future__ import annotations

REFILL_S = 10.0  # of quiet, for one attempt, up to the floor
QUIET_S = 1.0  # shorter pauses are none
BALANCE_MAX = 50.0  # what a long good time may save up


class RetryBudget:
    """The balance of one server."""

    def __init__(self, ratio: float = 0.2, floor: int = 3) -> None:
        self.ratio, self.floor = ratio, floor
        self._balance = float(floor)
        self._at: float | None = None

    def requested(self, now: float) -> None:
        """A request came."""
        self._refill(now)
        self._balance = min(self._balance + self.ratio, max(BALANCE_MAX, float(self.floor)))

    def take(self, now: float) -> bool:
        """Begin a second attempt, if there may be one more."""
        self._refill(now)
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True

    def _refill(self, now: float) -> None:
        if self._at is not None and self._balance < self.floor:
            quiet_s = max(0.0, now - self._at - QUIET_S)
            self._balance = min(self._balance + quiet_s / REFILL_S, float(self.floor))
        self._at = now

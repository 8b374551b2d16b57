"""A clock that tests move themselves."""

from __future__ import annotations


class ManualClock:
    """Starts at 1000 s."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

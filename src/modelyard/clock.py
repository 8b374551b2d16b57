"""Time as a value that is handed in: the protocol, and the system's clock.

Durations and deadlines use `monotonic`; only records for people use `wall`.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time. Tests hand in one that they move themselves."""

    def monotonic(self) -> float:
        """Seconds that never jump and mean nothing by themselves."""
        ...

    def wall(self) -> float:
        """Seconds since 1970 in UTC; may jump."""
        ...


class SystemClock:
    """The clock of this machine."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

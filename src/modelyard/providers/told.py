"""Numbers that a server tells of its own work, and how large an honest one can be. What is beyond is no answer."""

from __future__ import annotations

from typing import Annotated

import msgspec

TOKENS_MAX = 1 << 24  # no context holds more
WORK_S_MAX = 86_400.0

Tokens = Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)]


def seconds_told(value: float | None, unit_s: float) -> float | None:
    """A time of the server's own clock in seconds; None for what is missing or cannot be.

    >>> seconds_told(250.0, 0.001), seconds_told(-1.0, 0.001), seconds_told(1e300, 0.001)
    (0.25, None, None)
    """
    return value * unit_s if value is not None and 0 < value * unit_s <= WORK_S_MAX else None

"""An invariant that does not hold. Its name stays the same however the world came to it."""

from __future__ import annotations


class Violation(AssertionError):
    """An invariant does not hold."""

    def __init__(self, name: str, detail: object = "") -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name


def need(condition: object, name: str, detail: object = "") -> None:
    """Let `name` be violated unless `condition` holds."""
    if not condition:
        raise Violation(name, detail)

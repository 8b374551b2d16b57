"""How far a pull is: one line that changes for whoever watches, a line now and then for whoever reads it later."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from modelyard.cli.session import Session
from modelyard.errors import N_

WINDOW_S = 8.0
PLAIN_EVERY_S = 10.0


class Rate:
    """Bytes a second over the last moments.

    >>> rate = Rate()
    >>> rate.add(0, 0.0); rate.add(100, 2.0); rate.per_s
    50.0
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, count: int, at: float) -> None:
        """So many bytes are here at that time. Fewer than before: it began anew."""
        if self._seen and count < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((at, count))
        while at - self._seen[0][0] > WINDOW_S and len(self._seen) > 2:
            self._seen.popleft()

    @property
    def per_s(self) -> float:
        """0 as long as nobody can know."""
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0


class ProgressLine:
    """A context manager: nothing of the changing line is left when it ends."""

    def __init__(self, session: Session) -> None:
        self._terminal = session.terminal
        self._rate, self._digest, self._said, self._said_at = Rate(), "", "", float("-inf")

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *failure: object) -> None:
        self._terminal.clear_status()

    def show(self, step: Mapping[str, Any], now: float | None = None) -> None:
        """One step of a pull."""
        now = time.monotonic() if now is None else now
        status, total = str(step.get("status") or ""), step.get("total")
        if status == "success":
            return
        told = self._terminal.told(status)
        text = self._far(told, str(step.get("digest") or status), total, int(step.get("completed") or 0), now) if (
            isinstance(total, int) and total
        ) else told  # fmt: skip
        if self._terminal.is_watched:
            self._terminal.status(text)
        elif status != self._said or now - self._said_at >= PLAIN_EVERY_S:
            self._said, self._said_at = status, now
            self._terminal.note(text)

    def _far(self, status: str, digest: str, total: int, completed: int, now: float) -> str:
        if digest != self._digest:
            self._digest, self._rate = digest, Rate()
        self._rate.add(completed, now)
        per_s = self._rate.per_s
        text = self._terminal._(
            N_("{status}: {percent} % of {total}"), status=status, percent=100 * completed // total,
            total=self._terminal.size(total),
        )  # fmt: skip
        if per_s <= 0 or completed >= total:
            return text
        rest = N_("{rate}/s, about {eta}")
        eta = self._terminal.duration((total - completed) / per_s)
        return f"{text}, {self._terminal._(rest, rate=self._terminal.size(int(per_s)), eta=eta)}"

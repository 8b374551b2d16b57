"""How far a load is, and how long it may still take. Tells of it now and then; decides nothing.

Engines report no progress: the share is the memory that a worker holds of what it is predicted to need.
"""

from __future__ import annotations

from modelyard.clock import Clock
from modelyard.events import EventBus

from .lease import Hosted

TOLD_AFTER_S = 0.5  # a shorter load is told by its beginning and its end
TOLD_SHARE = 0.1  # told again when it is so much further,
TOLD_S = 2.0  # or so much later and any further
SHARE_MIN = 0.05  # of a load that has hardly begun nothing can be concluded


class ProgressTeller:
    """Notes how far one load is, and publishes `model.load_progress`, so that a follower is not flooded."""

    def __init__(self, hosted: Hosted, clock: Clock, events: EventBus) -> None:
        self._hosted, self._clock, self._events = hosted, clock, events
        self._told = ("", 0.0)
        self._told_at = 0.0

    def __call__(self, phase: str, share: float) -> None:
        hosted, now = self._hosted, self._clock.monotonic()
        share = max(share, hosted.progress[1])  # memory may shrink for a moment; a load does not go back
        hosted.progress = (phase, share)
        told_phase, told_share = self._told
        is_later = now - self._told_at >= TOLD_S and share > told_share
        if now - hosted.began_at < TOLD_AFTER_S or phase == "ready":
            return
        if phase == told_phase and share - told_share < TOLD_SHARE and not is_later:
            return
        self._told, self._told_at = hosted.progress, now
        eta_s = remaining_s(hosted.spec.load_s_expected, now - hosted.began_at, share)
        self._events.publish(
            "model.load_progress",
            self._clock.wall(),
            model=hosted.spec.name,
            engine=hosted.model.engine,
            epoch=hosted.epoch,
            phase=phase,
            progress=round(share, 3),
            eta_s=round(eta_s, 1),
        )


def remaining_s(expected_s: float, elapsed_s: float, share: float) -> float:
    """How long a load may still take: what earlier loads took says it, or its own pace if that is slower.

    >>> remaining_s(10, 4, 0.0), remaining_s(10, 4, 0.2), remaining_s(10, 30, 0.75), remaining_s(10, 12, 1.0)
    (6, 16.0, 10.0, 0)
    """
    by_history_s = max(0, expected_s - elapsed_s)
    by_pace_s = elapsed_s * (1 - share) / share if SHARE_MIN <= share < 1 else 0
    return max(by_history_s, by_pace_s) if share < 1 else 0

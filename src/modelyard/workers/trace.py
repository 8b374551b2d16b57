"""What one worker was seen to hold, and what the system counted meanwhile: the evidence for how it ended.

Measures when it is asked to, on any thread. The counts of two looks are kept: a kill that is counted while its victim
still shows memory is older than the last look, and not older than the one before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil

from modelyard.diagnosis import Evidence, Verdict, diagnose
from modelyard.memory.cgroups import memory_limits, oom_kills
from modelyard.types.memory import ProcessMemory

from .process import ExitStatus


@dataclass(frozen=True, slots=True)
class Pressure:
    """How main memory stands, within the limits of the machine and its groups."""

    free_bytes: int
    limit_bytes: int
    oom_kills: int


def pressure() -> Pressure:
    """Look now. Costs a few reads of small files."""
    machine, limits = psutil.virtual_memory(), memory_limits()
    return Pressure(
        min([machine.available, *(limit.free_bytes for limit in limits)]),
        min([machine.total, *(limit.max_bytes for limit in limits)]),
        oom_kills(),
    )


class Trace:
    """One worker's memory over its life."""

    def __init__(
        self,
        measure: Callable[[], ProcessMemory],
        *,
        predicted_bytes: int = 0,
        tried: tuple[str, ...] = (),
        look: Callable[[], Pressure] = pressure,
    ) -> None:
        self._measure, self._look = measure, look
        self._predicted_bytes, self._tried = predicted_bytes, tried
        self._first = self._before = self._last = look()
        self.held_bytes = 0  # in main memory, the most there was; mapped files can be dropped and do not count

    @property
    def free_bytes(self) -> int:
        """What was free when it was started."""
        return self._first.free_bytes

    def memory(self) -> ProcessMemory:
        """Measure it now."""
        seen, held = self._look(), self._measure()
        if held.anonymous_bytes:
            self._before, self._last = self._last, seen
            self.held_bytes = max(self.held_bytes, held.anonymous_bytes)
        return held

    def verdict(self, end: ExitStatus, lines: tuple[str, ...], stalled_s: float | None = None) -> Verdict:
        """Why it ended, or what can be said of it while it stalls. Ask at once: later counts may be about others."""
        return diagnose(
            Evidence(
                lines=lines,
                exit_code=end.code,
                signal=end.signal,
                oom_kills=self._look().oom_kills - self._before.oom_kills,
                predicted_bytes=self._predicted_bytes,
                held_bytes=self.held_bytes,
                free_bytes=self._first.free_bytes,
                free_last_bytes=self._last.free_bytes,
                limit_bytes=self._first.limit_bytes,
                stalled_s=stalled_s,
                tried=self._tried,
            )
        )

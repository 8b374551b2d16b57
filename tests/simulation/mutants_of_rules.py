"""Bugs in the rules: kinds, groups, priorities, ladders, roles, recycling. The simulation must find every one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from modelyard.residency import messages as say
from modelyard.residency import room
from modelyard.residency.scheduler import Scheduler
from modelyard.residency.state import Record, ResidencyLimits


class KindsTogether(Scheduler):
    """The other kind is asked to leave, and not seen gone, before the load."""

    def __init__(self, limits: ResidencyLimits) -> None:
        super().__init__(replace(limits, policy="fit") if limits.policy == "exclusive" else limits)


class LadderSkipped(Scheduler):
    """A load that broke for memory is tried again in the same way, for ever."""

    def _goes_on(self, record: Record) -> bool:
        return record.spec.name in self.queue.lines


class UrgentClosedOut(Scheduler):
    """A model loaded for an urgent request is closed to that request by an older one."""

    def _propose(self) -> list[float]:
        with _patched("_is_ahead", lambda *_: False):
            return super()._propose()


@contextmanager
def _patched(name: str, instead: Callable[..., object]) -> Iterator[None]:
    had = getattr(room.Round, name)
    setattr(room.Round, name, instead)
    try:
        yield
    finally:
        setattr(room.Round, name, had)


class GroupsForgotten(Scheduler):
    """As many of a group as fit are brought in."""

    def __init__(self, limits: ResidencyLimits) -> None:
        super().__init__(replace(limits, groups={}))


class UnknownBesideOthers(Scheduler):
    """A model of unknown size is loaded as soon as it seems to fit."""

    def _propose(self) -> list[float]:
        with _patched("_in_the_way", lambda *_: ()), _patched("_is_clear", _is_absent):
            return super()._propose()


def _is_absent(round_: room.Round, model: str, _way: object) -> bool:
    return model not in round_.records


class LadderFromBelow(Scheduler):
    """The smallest way is tried first."""

    def _requested(self, event: say.Requested) -> bool:
        rungs = event.spec.rungs
        if rungs:
            event = replace(event, spec=replace(rungs[-1], rungs=()))
        return super()._requested(event)


class ContextIgnored(Scheduler):
    """Whatever is in memory serves, however small its context."""

    def _requested(self, event: say.Requested) -> bool:
        record = self.records.get(event.spec.name)
        if record is not None and record.has_room(self._arrivals + 1):
            event = replace(event, spec=record.spec)
        return super()._requested(event)


class RolesForgotten(Scheduler):
    """Who lets go of a model takes it from everybody."""

    def _unload_asked(self, model: str, *, force: bool, role: str = "") -> bool:
        return super()._unload_asked(model, force=force)


class RecyclingForgotten(Scheduler):
    """A model that should be replaced is used on while it is busy."""

    def _end_what_is_over(self) -> None:
        for record in self.records.values():
            if record.recycle_by is not None and record.leases:
                record.recycle_by = max(record.recycle_by, self._now)
        busy = {name: one.recycle_by for name, one in self.records.items() if one.leases}
        for name in busy:
            self.records[name].recycle_by = None
        super()._end_what_is_over()
        for name, recycle_by in busy.items():
            self.records[name].recycle_by = recycle_by


class OldWordsBelieved(Scheduler):
    """What is said of a model counts, whichever of its loads it was said of."""

    def _of_epoch(self, model: str, epoch: int) -> Record | None:
        return self.records.get(model)


class RecycledUnderUse(Scheduler):
    """A model that leaks is replaced at once."""

    def _recycle(self, record: Record, why: str) -> None:
        self._order_out(record, "recycle", force=True)


OF_RULES = (
    KindsTogether, LadderSkipped, UrgentClosedOut, GroupsForgotten, UnknownBesideOthers, LadderFromBelow,
    ContextIgnored, RolesForgotten, RecyclingForgotten, OldWordsBelieved, RecycledUnderUse,
)  # fmt: skip

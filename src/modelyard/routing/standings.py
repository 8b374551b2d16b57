"""How it stands with every copy of a model at this moment, for the ranking: what is known here and of the nodes.

Reads the fleet and changes nothing in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from modelyard.clock import Clock
from modelyard.errors import N_, said
from modelyard.types.fleet import Health
from modelyard.types.model import Model

from .fleet import Fleet
from .node import FleetNode
from .ranking import Standing, Usable

RETRY_AFTER_S = 5.0  # told where nobody knows when a node comes back
RETRY_AFTER_S_MIN = 1.0


class Here(Protocol):
    """How it stands with one model on this machine: residency's glance."""

    @property
    def is_resident(self) -> bool: ...

    @property
    def in_flight(self) -> int: ...

    @property
    def slots(self) -> int: ...

    @property
    def load_s(self) -> float: ...


class Standings:
    """Looks from copies to nodes."""

    def __init__(self, fleet: Fleet, here: Callable[[Model], Here], clock: Clock) -> None:
        """`here` tells how soon this machine could answer for one of its own models."""
        self._fleet, self._here, self._clock = fleet, here, clock

    def of(self, models: Sequence[Model], favoured: str | None) -> list[Standing]:
        """All that is known of these copies at this moment."""
        now = self._clock.monotonic()
        spared = self._spared(models, now)
        return [
            self._standing(model, now, place=place, is_favoured=model.node == favoured, is_spared=model.name in spared)
            for place, model in enumerate(models)
        ]

    def _standing(self, model: Model, now: float, *, place: int, is_favoured: bool, is_spared: bool) -> Standing:
        if not model.node:
            here = self._here(model)
            return Standing(
                model.name, "", is_resident=here.is_resident, load_s=here.load_s, in_flight=here.in_flight,
                slots=here.slots, is_favoured=is_favoured, place=place,
            )  # fmt: skip
        node = self._fleet.nodes.get(model.node)
        if node is None:
            return Standing(model.name, model.node, usable=Usable.NO, reason_not=N_("it is not configured any more"))
        usable, reason = (Usable.LAST, N_("spared")) if is_spared else self._usable(node, model, now)
        return Standing(
            model.name, node.name, weight=node.rules.weight, usable=usable, reason_not=reason, kind=model.kind,
            is_resident=node.is_resident(model), is_told=node.tells_residents,
            load_s=node.load_s(model), has_room=node.has_room(model),
            in_flight=node.in_flight[model.name],
            slots=node.rules.slots, queued_tokens=node.queued_tokens[model.name],
            tokens_per_s=node.tokens_per_s.get(model.name), error_ratio=node.error_ratio, is_favoured=is_favoured,
            share=node.health.share(now, model.name), place=place,
        )  # fmt: skip

    def next_chance_s(self, models: Iterable[Model]) -> float:
        """When the first of these may be asked again, in seconds from now."""
        now, waits = self._clock.monotonic(), []
        for model in models:
            node = self._fleet.nodes.get(model.node)
            if node is not None and not node.is_draining:
                cooled_at = self._fleet.cooldowns.until(node.name, model.name, now)
                tried_at = now if node.health.is_in_rotation(now) else node.health.next_trial_at()
                waits.append(max(cooled_at, tried_at) - now)
        return max(min(waits, default=RETRY_AFTER_S), RETRY_AFTER_S_MIN)

    def _spared(self, models: Sequence[Model], now: float) -> frozenset[str]:
        """Cooling down alone keeps at most half of several copies out; of the rest, those that are well otherwise are
        asked, last. A node that named its own time, or is out by its health, is never spared.
        """
        group, out = [], []
        for model in models:
            node = self._fleet.nodes.get(model.node)
            group.append((model.node, model.name))
            if node is not None and not node.is_draining and not node.health.is_in_rotation(now):
                out.append(group[-1])
        return self._fleet.cooldowns.spared(group, out, now)

    def _usable(self, node: FleetNode, model: Model, now: float) -> tuple[Usable, str]:
        """(1) Told to rest. (2) Cooling down, or its one trial is under way. (3) One request finds out what nothing
        else can: whoever comes last would never be asked while others are well. (4) Out. (5) As its health says.
        """
        health, cooldowns = node.health, self._fleet.cooldowns
        if node.is_draining:  # (1)
            return Usable.NO, N_("draining")
        cooling_s = cooldowns.until(node.name, model.name, now) - now
        if cooling_s > 0:  # (2)
            return (
                Usable.NO,
                said(
                    "cooling down for {cooling_s} s after {failure}",
                    cooling_s=math.ceil(cooling_s),
                    failure=cooldowns.reason(node.name, model.name),
                ),
            )
        if not cooldowns.may_try(node.name, model.name, now):
            return Usable.NO, N_("one request finds out whether it is well again")
        if health.wants_try(now):  # (3)
            return Usable.YES, ""
        if health.state in (Health.OUT, Health.MISCONFIGURED):  # (4)
            return (Usable.TRIAL if health.may_try(now) else Usable.NO), health.reason
        if health.state is Health.DOUBTFUL:  # (5)
            return Usable.LAST, health.reason
        return (Usable.YES if health.is_in_rotation(now) else Usable.NO), health.reason

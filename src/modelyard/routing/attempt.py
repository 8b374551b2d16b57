"""One request at one node: what its beginning and its end say of the node. Told to the fleet, which owns that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from modelyard.providers.ticket import Ticket
from modelyard.types.model import Model

from .failures import failure_of
from .node import FleetNode

if TYPE_CHECKING:
    from .fleet import Fleet

FASTER_THAN_SEEN = 4.0  # so many times as fast as its answer came a node may have been: a slow reader holds it up
TOKENS_PER_CHUNK_MAX = 16


class Attempt:
    """One request at one node, from asking to its end."""

    __slots__ = (
        "_asked_at", "_began_at", "_fleet", "_is_resident", "_keep_alive_s", "_model", "_node", "_parts",
        "_ticket", "_trials",
    )  # fmt: skip

    def __init__(
        self, fleet: Fleet, node: FleetNode, model: Model, ticket: Ticket, now: float, keep_alive_s: float | None
    ) -> None:
        self._fleet, self._node, self._model, self._ticket = fleet, node, model, ticket
        self._parts = node.parts
        self._asked_at, self._keep_alive_s = now, keep_alive_s
        self._began_at: float | None = None
        self._is_resident = node.is_resident(model)
        node.asked_for(model)
        self._trials = fleet.cooldowns.begin_trial(node.name, model.name, now)
        if not node.health.is_in_rotation(now):
            node.health.tried(now)

    def began(self, now: float) -> None:
        """Its first content is there: the node can answer."""
        self._began_at = now
        self._node.waiting.discard(self._ticket)
        if self._is_of_another_way():
            return
        before = self._node.health.state
        self._node.health.answered(now, self._model.name)
        self._fleet.tell_health(self._node, before)
        if not self._is_resident:
            self._node.loaded(self._model, now - self._asked_at)

    def ended(self, error: BaseException | None, now: float) -> None:
        """It is over; `error` is what ended it early."""
        cause = (self._ticket.interrupted_by if isinstance(error, asyncio.CancelledError) else None) or error
        failure = failure_of(cause) if cause is not None else None
        node, model, cooldowns = self._node, self._model, self._fleet.cooldowns
        if self._is_of_another_way():
            for trial in self._trials:
                cooldowns.end_trial(trial, now, ok=None)
            return
        if failure is not None and cause is not None:
            node.ended(failed=True)
            self._fleet.failed(node, model, failure, cause, now, self._trials)
        elif error is None:
            node.ended(failed=False)
            cooldowns.succeeded(node.name, model.name, now)
            node.kept(model, self._keep_alive_s)
            self._learn_pace(now)
        verdict = False if failure is not None else True if self._began_at is not None else None
        for trial in self._trials:
            cooldowns.end_trial(trial, now, ok=verdict)

    def _is_of_another_way(self) -> bool:
        """Whether the node is reached in another way since, or is another: this says nothing of that."""
        return not self._fleet.is_known(self._node) or self._node.parts is not self._parts

    def _learn_pace(self, now: float) -> None:
        """What the node says of its pace counts as far as what came here bears it out: it may say anything."""
        usage = self._ticket.usage
        if usage is None or self._began_at is None:
            return
        seen_s = now - self._began_at
        took_s = max(usage.decode_s or seen_s, seen_s / FASTER_THAN_SEEN)
        tokens = min(usage.output_tokens, self._ticket.output_chunks * TOKENS_PER_CHUNK_MAX)
        if took_s > 0 and tokens > 1:
            self._node.spoke(self._model.name, tokens / took_s)

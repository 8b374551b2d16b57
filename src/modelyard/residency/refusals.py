"""Why a ticket was refused, with the numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelyard.errors import N_, InsufficientMemory, QueueFull, QueueTimeout
from modelyard.memory.planner import NoFit
from modelyard.types.model import ModelSpec
from modelyard.units import format_bytes

from .queue import Ticket

MEMORY_RETRY_S = 5.0
QUEUE_RETRY_S_MAX = 60.0

_NEVER_HINTS = (
    N_("Use a smaller context, a smaller quantisation, or a machine with more memory."),
    N_("If memory.ram_limit_bytes is set, raise it."),
)
_FOREIGN_HINTS = (
    N_("Other programs hold {foreign} of {device}: close them, or try again later."),
    N_("`modelyard ps` shows what is in use."),
)
_TRIED_HINT = N_("Smaller ways that were tried in vain: {tried}.")
_PINNED_HINTS = (
    N_("Unpin or unload a model: only pinned ones are in the way."),
    N_("Embedding models may do with a shorter idle time (embeddings.idle_ttl_s) instead of a pin."),
)


def no_room(spec: ModelSpec, answer: NoFit) -> InsufficientMemory:
    """It does not fit, in none of the ways it may be started: never, or because of others, or because of pins."""
    hints: tuple[str, ...]
    retry_after_s: float | None = MEMORY_RETRY_S
    if answer.never:
        hints, retry_after_s = _NEVER_HINTS, None
    elif answer.foreign_bytes:
        hints = _FOREIGN_HINTS
    else:
        hints = _PINNED_HINTS
    more: dict[str, Any] = {}
    if spec.rungs:
        hints, more = (*hints, _TRIED_HINT), {"tried": tried(spec.rungs)}
    return InsufficientMemory(
        hints=hints,
        retry_after_s=retry_after_s,
        model=spec.name,
        **more,
        device=answer.device,
        needed=format_bytes(answer.needed_bytes),
        budget=format_bytes(answer.budget_bytes),
        free=format_bytes(answer.free_bytes),
        foreign=format_bytes(answer.foreign_bytes),
        never=answer.never,
    )


def tried(rungs: Sequence[ModelSpec]) -> str:
    """What was given up in vain, for people: `context_length=4096; context_length=4096, kv_type=q8_0`."""
    return "; ".join(", ".join(rung.degraded) for rung in rungs)


def queue_full(waiting: int, grant_gap_s: float) -> QueueFull:
    """The queue is full; by the recent pace it is empty again in about `waiting` grants."""
    return QueueFull(waiting=waiting, retry_after_s=min(max(1.0, waiting * grant_gap_s), QUEUE_RETRY_S_MAX))


def waited_too_long(ticket: Ticket, now: float, ahead_s: float = 0.0) -> QueueTimeout:
    """The deadline came first. `ahead_s`: how long those who still wait for the model may take, by the recent pace."""
    waited_s = round(now - ticket.arrived_at, 1)
    retry_after_s = min(max(1.0, ahead_s), QUEUE_RETRY_S_MAX)
    return QueueTimeout(model=ticket.spec.name, waited_s=waited_s, retry_after_s=retry_after_s)

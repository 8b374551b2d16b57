"""How an answer is written down, whatever its dialect: frame by frame, or put together. And the note it may carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import orjson

from modelyard.providers.ticket import Ticket
from modelyard.types.chat import Chunk


class Frames(Protocol):
    """Writes the frames of one streamed answer. `note` is told in the last of them, as it is then."""

    note: bytes

    def encode(self, chunks: Sequence[Chunk]) -> bytes: ...

    def end(self) -> bytes: ...


class Collector(Protocol):
    """Puts a whole answer together."""

    def add(self, chunks: Sequence[Chunk]) -> None: ...

    def body(self, note: bytes = b"") -> bytes: ...


def note_of(ticket: Ticket) -> bytes:
    """What is to be said about this answer inside its body, as JSON; empty where all is as it was asked for."""
    if not ticket.degraded and ticket.trimmed is None:
        return b""
    note: dict[str, object] = {"model": ticket.model}
    if ticket.degraded:
        note["degraded"] = ticket.degraded
    if ticket.fallback_reason:
        note["fallback_reason"] = ticket.fallback_reason
    if ticket.trimmed is not None:
        note["trimmed"] = ticket.trimmed  # its fields are the members
    return orjson.dumps(note)

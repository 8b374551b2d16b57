"""A stream of chunks whose passing is noted on its ticket: the first token, the gaps, the finish, the usage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from modelyard.clock import Clock
from modelyard.providers.base import ChunkStream
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import Chunk, Delta, Progress, Usage


class MeteredStream:
    """A stream whose passing is noted on its ticket."""

    __slots__ = ("_chunks", "_clock", "_count_gap", "_ticket")

    def __init__(self, chunks: ChunkStream, ticket: Ticket, clock: Clock, count_gap: Callable[[float], None]) -> None:
        self._chunks = chunks
        self._ticket = ticket
        self._clock = clock
        self._count_gap = count_gap

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Chunk]:
        chunks = await self._chunks.__anext__()
        ticket = self._ticket
        content_count = 0
        for chunk in chunks:
            if type(chunk) is Delta:
                content_count += 1
                if chunk.finish is not None:
                    ticket.finish = chunk.finish
                    content_count -= 1
            elif type(chunk) is Usage:
                ticket.usage = chunk
            elif type(chunk) is Progress and chunk.total > 0:
                ticket.prompt_ratio = chunk.done / chunk.total
        if content_count:
            now = self._clock.monotonic()
            if ticket.answered_at is None:
                ticket.first_token_at = now
                ticket.phase = "generating"
            else:
                self._count_gap(now - ticket.answered_at)
            ticket.answered_at = now
            ticket.output_chunks += content_count
        return chunks

"""An answer that broke off in its middle, continued by another node: only where it is switched on, and marked as such.

The other node gets the conversation with the beginning of the answer as the assistant's last turn, and goes on from
there. So it must be one that can continue a turn, and the answer plain text: no tools, no schema, one choice. What it
says may not be what the first would have said; that is why this is off by default and why the reply tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

from modelyard.errors import YardError
from modelyard.providers.base import ChunkStream
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import Chunk, Delta, InferenceRequest, Message, Usage

from .failures import failure_of

MARK = "continued_on"
TEXT_CHARS_MAX = 1_000_000  # of the beginning that is kept in case it must be sent on

# Asks another node for the rest; None if there is none that could, or none that may be asked.
MoveOn = Callable[[InferenceRequest, YardError], Awaitable[tuple[ChunkStream, AsyncExitStack] | None]]


def is_continuable(request: InferenceRequest) -> bool:
    """Whether the answer to a request is such that another node could continue it."""
    is_plain = not request.tools and request.response_format is None and "logprobs" not in request.options
    return request.is_chat and request.choices == 1 and is_plain


class Continuing:
    """A stream that outlives the node it began on. A context: leaving it ends whatever attempt is under way."""

    def __init__(
        self, request: InferenceRequest, ticket: Ticket, stream: ChunkStream, own: AsyncExitStack, move_on: MoveOn
    ) -> None:
        self._request, self._ticket, self._move_on = request, ticket, move_on
        self._stream, self._own = stream, own
        self._text: list[str] = []
        self._chars = self._pieces_before = self._pieces = 0

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._own.__aexit__(kind, error, trace)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Chunk]:
        while True:
            try:
                return self._noted(await self._stream.__anext__())
            except YardError as error:
                cause = error
            except asyncio.CancelledError:
                interrupted = self._ticket.interrupted_by
                if interrupted is None or failure_of(interrupted) is None or not self._ticket.reprieve():
                    raise
                cause = interrupted
            await self._go_on_elsewhere(cause)

    async def _go_on_elsewhere(self, cause: YardError) -> None:
        """Raises the cause if nobody goes on."""
        text = "".join(self._text)
        if failure_of(cause) is None or not text or self._chars > TEXT_CHARS_MAX:
            raise cause
        await self._own.__aexit__(type(cause), cause, cause.__traceback__)
        self._own = AsyncExitStack()
        begun = Message("assistant", text)
        found = await self._move_on(replace(self._request, messages=(*self._request.messages, begun)), cause)
        if found is None:
            raise cause
        self._stream, self._own = found
        self._pieces_before += self._pieces
        self._pieces = 0
        self._ticket.degraded += (f"{MARK}={self._ticket.provider}",)

    def _noted(self, chunks: list[Chunk]) -> list[Chunk]:
        for chunk in chunks:
            if isinstance(chunk, Delta):
                self._pieces += bool(chunk.text)
                self._chars += len(chunk.text)
                if self._chars <= TEXT_CHARS_MAX:
                    self._text.append(chunk.text)
            elif isinstance(chunk, Usage) and self._pieces_before:
                # Of the first part nobody told the usage: a piece is a token, nearly always. Its text was read again.
                chunk.input_tokens = max(0, chunk.input_tokens - self._pieces_before)
                chunk.output_tokens += self._pieces_before
        return chunks

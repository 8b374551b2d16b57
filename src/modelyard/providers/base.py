"""The one seam to whatever can answer a request: this node's workers, another node, an OpenAI or Ollama server."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from modelyard.types.chat import Chunk, InferenceRequest
from modelyard.types.model import Model

from .ticket import Ticket


class ChunkStream(Protocol):
    """An answer under way. Iterating gives lists: the chunks that arrived together.

    It ends after every choice has finished, or raises: the end of the iteration is never an invented one.
    """

    def __aiter__(self) -> ChunkStream: ...

    async def __anext__(self) -> list[Chunk]: ...


class Provider(Protocol):
    """Whoever can answer. The context lasts as long as the right to use the model does."""

    name: str

    def answer(
        self, model: Model, request: InferenceRequest, ticket: Ticket
    ) -> AbstractAsyncContextManager[ChunkStream]: ...

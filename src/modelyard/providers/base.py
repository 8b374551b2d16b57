"""The seams to whatever can answer a request: this node's workers, another node, an OpenAI or Ollama server.

A `Provider` answers. A `NodeControl` tells what another node has, and whether it still can answer; what only Ollama
nodes can do beyond that (load, unload, pull, delete, copy) is `NodeModels`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from modelyard.types.chat import Chunk, InferenceRequest
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, RerankAnswer, RerankRequest
from modelyard.types.fleet import NodeLook
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


class Embedder(Protocol):
    """Whoever can embed texts, and order them."""

    async def embed(self, model: Model, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer: ...

    async def rerank(self, model: Model, request: RerankRequest, ticket: Ticket) -> RerankAnswer: ...


class NodeProvider(Provider, Embedder, Protocol):
    """Whoever can do both: this machine's workers, and every kind of node."""


class NodeControl(Protocol):
    """The eye on one node. Nothing here wakes a model, and `probe` asks only one that is in memory."""

    async def look(self) -> NodeLook:
        """What it has and holds. Raises an `UpstreamError` that says what is wrong with it."""
        ...

    async def probe(self, model: Model) -> None:
        """Have one token made. Raises what is wrong."""
        ...


class NodeModels(Protocol):
    """What can be done to the models of a node, by the names they have there."""

    async def load(self, node_model: str, keep_alive: str | float | None = None) -> None: ...

    async def unload(self, node_model: str) -> None: ...

    async def show(self, node_model: str, *, verbose: bool = False) -> Mapping[str, object]: ...

    def pull(self, node_model: str) -> AsyncIterator[Mapping[str, object]]:
        """Progress as the node tells it, ending with `{"status": "success"}` or an error."""
        ...

    async def delete(self, node_model: str) -> None: ...

    async def copy(self, node_model: str, to: str) -> None: ...

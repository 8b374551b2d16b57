"""Answers embeddings from the cache where it can, and asks for the rest.

All vectors of one answer come from one identity of the model. Where a name leads to copies that may differ, a request
is answered from the cache only as a whole. What a node tells no token counts of is kept only where there was one input,
since usage has to be true. Models without a digest of their files (cloud APIs) are not cached: they may change unseen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from modelyard.providers.ticket import Ticket
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, Vector
from modelyard.types.model import Candidates, Model

from .figures import Figures
from .vector_cache import Kept, Key, VectorCache
from .vectors import check_vectors

CACHED = "cache"  # why nobody was asked
Ask = Callable[[Candidates, EmbedRequest, Ticket], Awaitable[EmbedAnswer]]


class CachedVectors:
    """The way of every request for vectors."""

    def __init__(self, cache: VectorCache, figures: Figures, ask: Ask) -> None:
        self.cache, self._figures, self._ask = cache, figures, ask

    async def embed(self, candidates: Candidates, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        """One vector per input."""
        identities = {identity_of(model): model for model in candidates.models}
        if not self.cache.bytes_max or "" in identities:
            return await self._asked(candidates, request, ticket)
        found: dict[str, list[Kept | None]] = {}
        if request.keep_alive_s is None:  # who says how long the model stays wants it asked
            for identity, model in identities.items():
                keys = self.cache.keys(ticket.caller_id, identity, request)
                found[identity] = kept = [self.cache.find(key) for key in keys]
                whole = [one for one in kept if one is not None]
                if len(whole) == len(keys):
                    self._count(ticket.model, len(whole), 0)
                    return _from_cache(whole, model, ticket)
        kept = found[next(iter(identities))] if len(identities) == 1 and found else [None] * len(request.inputs)
        rest = replace(
            request, inputs=tuple(given for given, one in zip(request.inputs, kept, strict=True) if one is None)
        )
        self._count(ticket.model, len(request.inputs) - len(rest.inputs), len(rest.inputs))
        answer = await self._asked(candidates, rest, ticket)
        self._keep(candidates, rest, answer, ticket)
        return _joined(kept, answer)

    async def _asked(self, candidates: Candidates, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        answer = await self._ask(candidates, request, ticket)
        check_vectors(request, answer, ticket)
        return answer

    def _keep(self, candidates: Candidates, request: EmbedRequest, answer: EmbedAnswer, ticket: Ticket) -> None:
        """By the identity of who answered, which the ticket knows. What a smaller way to start it gave is not kept."""
        model = next((one for one in candidates.models if one.name == ticket.model), candidates.models[0])
        counts = answer.counts or ((answer.input_tokens,) if len(request.inputs) == 1 else ())
        if not counts or ticket.degraded:
            return
        identity = identity_of(model)
        keys: list[Key] = self.cache.keys(ticket.caller_id, identity, request)
        for key, vector, tokens in zip(keys, answer.vectors, counts, strict=True):
            self.cache.keep(key, identity, vector, tokens)

    def _count(self, model: str, hits: int, misses: int) -> None:
        self.cache.hits += hits
        self.cache.misses += misses
        self._figures.vectors_found(model.partition("@")[0], hits, misses)


def identity_of(model: Model) -> str:
    """What changes when the model's files do; empty if nobody tells."""
    if not model.node:
        return model.identity
    return f"{model.name}\0{model.digest}" if model.digest else ""


def _from_cache(kept: list[Kept], model: Model, ticket: Ticket) -> EmbedAnswer:
    ticket.provider, ticket.why = model.node or "local", CACHED
    counts = tuple(one.tokens for one in kept)
    return EmbedAnswer(tuple(one.vector for one in kept), sum(counts), counts)


def _joined(kept: list[Kept | None], answer: EmbedAnswer) -> EmbedAnswer:
    """In the order of the inputs."""
    fresh = iter(answer.vectors)
    vectors: list[Vector] = [next(fresh) if one is None else one.vector for one in kept]
    return EmbedAnswer(tuple(vectors), answer.input_tokens + sum(one.tokens for one in kept if one is not None))

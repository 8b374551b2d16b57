"""What the data plane tells about requests to whoever counts them; and nobody, for a server that has no metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from modelyard.providers.ticket import Ticket


class Figures(Protocol):
    """Whoever counts."""

    def finished(self, ticket: Ticket, code: str, took_s: float, first_token_s: float | None) -> None:
        """A request ended, whatever became of it."""
        ...

    def fell_back(self, model: str, to: str, reason: str) -> None:
        """Another model answers than the one asked for."""
        ...

    def vectors_found(self, model: str, hits: int, misses: int) -> None:
        """So many inputs were in the cache of vectors, and so many were not."""
        ...

    def gaps_of(self, model: str) -> Callable[[float], None]:
        """A function that counts one gap between pieces of a model's answer. Called for each: it must cost nothing."""
        ...


class NoFigures:
    """Counts nothing."""

    def finished(self, ticket: Ticket, code: str, took_s: float, first_token_s: float | None) -> None:
        """Nobody asks."""

    def fell_back(self, model: str, to: str, reason: str) -> None:
        """Nobody asks."""

    def vectors_found(self, model: str, hits: int, misses: int) -> None:
        """Nobody asks."""

    def gaps_of(self, model: str) -> Callable[[float], None]:
        """Nobody asks."""
        return lambda _gap_s: None

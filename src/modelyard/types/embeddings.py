"""Texts in, vectors out, in our own words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """What a caller wants embedded."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]  # texts, or texts as token numbers
    dimensions: int | None = None
    truncate: bool = True  # an input longer than the context is cut instead of refused, where the node can
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class EmbedAnswer:
    """One vector per input, in the order of the inputs."""

    vectors: tuple[list[float], ...]
    input_tokens: int

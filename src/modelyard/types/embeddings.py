"""Texts in, vectors or scores out, in our own words."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

Input = str | tuple[int, ...]  # a text, or a text as token numbers
Vector = Sequence[float]  # a list where a node wrote its numbers as text, an array of 32-bit floats from our workers
UNIT_SLACK = 1e-3  # how far the length of a normalised vector may be from one


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """What a caller wants embedded."""

    model: str
    inputs: tuple[Input, ...]
    dimensions: int | None = None
    truncate: bool = True  # an input longer than the context is cut instead of refused, where the node can
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class EmbedAnswer:
    """One vector per input, in the order of the inputs."""

    vectors: tuple[Vector, ...]
    input_tokens: int
    counts: tuple[int, ...] = ()  # tokens of each input; empty where whoever answered told only their sum


@dataclass(frozen=True, slots=True)
class RerankRequest:
    """Documents to be ordered by how well they answer a query."""

    model: str
    query: str
    documents: tuple[str, ...]
    keep_alive_s: float | None = None


@dataclass(frozen=True, slots=True)
class RerankAnswer:
    """One score per document, in the order of the documents; a higher one answers better."""

    scores: tuple[float, ...]
    input_tokens: int


def shortened(vector: Vector, dimensions: int) -> Vector:
    """The first numbers of a vector. If the whole had length one, so has the part: cosines go on being products.

    >>> list(shortened([0.6, 0.0, 0.8], 2)), list(shortened([3.0, 4.0, 12.0], 2))
    ([1.0, 0.0], [3.0, 4.0])
    """
    part = vector[:dimensions]
    if abs(math.hypot(*vector) - 1.0) > UNIT_SLACK:
        return part
    length = math.hypot(*part)
    if not length:
        return part
    scaled = [number / length for number in part]
    return array("f", scaled) if isinstance(vector, array) else scaled

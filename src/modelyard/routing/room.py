"""Whether a model would fit at a node without anybody leaving, and when it could be there. Pure.

A look is seconds old, so what was sent there since counts as well. Most nodes do not tell how much memory is free: then
what they were seen to hold at once is what they can hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LOAD_S_LEAST = 2.0  # of the smallest model
GROWTH = 1.1  # in memory a model is larger than its file


@dataclass(frozen=True, slots=True)
class NodeMemory:
    """What is known of a node's memory."""

    resident_bytes: int  # at the last look
    most_bytes: int = 0  # it ever held at once
    free_bytes: int | None = None  # at the last look, if it tells
    coming_bytes: tuple[int, ...] = ()  # sizes of models it was sent requests for since, and had not in memory


def has_room(size_bytes: int, memory: NodeMemory) -> bool | None:
    """Whether a model of that size fits beside the others; None if nobody can know.

    >>> has_room(4, NodeMemory(resident_bytes=10, most_bytes=20)), has_room(12, NodeMemory(10, most_bytes=20))
    (True, None)
    """
    need = round(size_bytes * GROWTH) + sum(round(one * GROWTH) for one in memory.coming_bytes)
    if memory.free_bytes is not None:
        return need <= memory.free_bytes
    is_empty = not memory.resident_bytes and not memory.coming_bytes
    return True if is_empty or memory.resident_bytes + need <= memory.most_bytes else None


def load_seconds(size_bytes: int, bytes_per_s: float, coming_bytes: Sequence[int] = ()) -> float:
    """Until a load that begins now would be done: a node loads one model after the other."""
    ahead = sum(LOAD_S_LEAST + one / bytes_per_s for one in coming_bytes)
    return ahead + LOAD_S_LEAST + size_bytes / bytes_per_s

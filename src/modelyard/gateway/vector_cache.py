"""Vectors of inputs that were embedded before, bounded in bytes; the one not used for longest makes room.

An input is the same if its characters, or its token numbers, are the same: models see spaces, case and forms of
Unicode, so nothing is folded. Keys are digests under a secret of this process, over the caller among the rest: no
caller is ever answered, or answered sooner, for what another asked. Owned by the event loop.
"""

from __future__ import annotations

import secrets
from array import array
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b

from modelyard.types.embeddings import EmbedRequest, Input, Vector

ENTRY_BYTES = 400  # of a vector beside its numbers: key, places in tables, counts
KEY_BYTES = 32

Key = bytes


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """How full it is, and how much it helped since the start."""

    bytes: int
    bytes_max: int
    entries: int
    hits: int
    misses: int


@dataclass(frozen=True, slots=True)
class Kept:
    """One vector, and the tokens its input had."""

    model: str  # identity of the model that made it
    vector: Vector
    tokens: int
    bytes: int


class VectorCache:
    """The vectors of one node."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.bytes = self.hits = self.misses = 0
        self._secret = secrets.token_bytes(32)
        self._kept: OrderedDict[Key, Kept] = OrderedDict()

    @property
    def status(self) -> CacheStatus:
        return CacheStatus(self.bytes, self.bytes_max, len(self._kept), self.hits, self.misses)

    def keys(self, caller: str, model: str, request: EmbedRequest) -> list[Key]:
        """Of each input. `model` is an identity that changes with the model's files."""
        about = f"{caller}\0{model}\0{request.dimensions}\0{request.truncate}\0".encode(errors="surrogatepass")
        common = blake2b(about, digest_size=KEY_BYTES, key=self._secret)
        keys = []
        for given in request.inputs:
            of_one = common.copy()
            of_one.update(_written(given))
            keys.append(of_one.digest())
        return keys

    def find(self, key: Key) -> Kept | None:
        """The vector, which counts as used now."""
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def keep(self, key: Key, model: str, vector: Vector, tokens: int) -> None:
        """Keep one, if it fits at all."""
        compact = vector if isinstance(vector, array) else array("d", vector)  # 64 bits lose nothing of what was told
        size = len(key) + compact.itemsize * len(compact) + ENTRY_BYTES
        if size > self.bytes_max:
            return
        self._drop(key)
        self._kept[key] = Kept(model, compact, tokens, size)
        self.bytes += size
        self._shrink()

    def resize(self, bytes_max: int) -> None:
        """Hold no more than this from now on."""
        self.bytes_max = bytes_max
        self._shrink()

    def retain(self, models: Collection[str]) -> None:
        """Forget what models made that are no longer there, or whose files changed."""
        for key in [key for key, kept in self._kept.items() if kept.model not in models]:
            self._drop(key)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self.bytes = 0

    def _drop(self, key: Key) -> None:
        if (old := self._kept.pop(key, None)) is not None:
            self.bytes -= old.bytes

    def _shrink(self) -> None:
        while self.bytes > self.bytes_max:
            _key, old = self._kept.popitem(last=False)
            self.bytes -= old.bytes


def _written(given: Input) -> bytes:
    """An input as bytes; a text is never the same as token numbers."""
    if isinstance(given, str):
        return b"t" + given.encode(errors="surrogatepass")
    return b"n" + array("q", given).tobytes()

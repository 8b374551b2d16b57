"""Which node had a session, or a prompt that begins like this one, last: it may still have read it. Pure, bounded.

Promises: a key tells nothing of what it was made from and is never the same for two tenants; of keys those unused for
longest are forgotten first. A hint and no more: whether a node is asked is decided in ranking.py.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

KEY_BYTES = 16


def affinity_key(tenant: str, model: str, session: str, prompt_beginning: str) -> str:
    """What names this session, or prompts that begin alike, with this model for this tenant alone; empty if there is
    neither. What one model has read is worth nothing to another.

    A session counts more than a beginning. Lengths are part of what is hashed, so no text of one can pose as another.

    >>> affinity_key("a", "m", "", "You are") == affinity_key("b", "m", "", "You are")
    False
    >>> affinity_key("a", "m", "", "")
    ''
    """
    if not session and not prompt_beginning:
        return ""
    kind, text = (b"session", session) if session else (b"prompt", prompt_beginning)
    hashed = blake2b(digest_size=KEY_BYTES, person=b"affinity")
    for part in (tenant.encode(errors="surrogatepass"), model.encode(), kind, text.encode(errors="surrogatepass")):
        hashed.update(len(part).to_bytes(8, "big") + part)
    return hashed.hexdigest()


class Affinities:
    """Node per key, for `ttl_s` after the last use. Its owner tells the time, which never goes back."""

    __slots__ = ("_count_max", "_kept", "_ttl_s")

    def __init__(self, ttl_s: float = 600, count_max: int = 10_000) -> None:
        self._ttl_s, self._count_max = ttl_s, count_max
        self._kept: OrderedDict[str, tuple[str, float]] = OrderedDict()  # key -> node, last use; oldest use first

    def __len__(self) -> int:
        return len(self._kept)

    def node_for(self, key: str, now: float) -> str | None:
        """The node that had it last; None if nobody had it lately. "" is this machine."""
        found = self._kept.get(key)
        if found is None:
            return None
        node, used_at = found
        if now - used_at >= self._ttl_s:
            del self._kept[key]
            return None
        return node

    def remember(self, key: str, node: str, now: float) -> None:
        """It went there now. An empty key stands for nothing and is not kept."""
        if not key:
            return
        self._kept[key] = (node, now)
        self._kept.move_to_end(key)
        while self._kept:
            oldest, (_node, used_at) = next(iter(self._kept.items()))
            if len(self._kept) <= self._count_max and now - used_at < self._ttl_s:
                break
            del self._kept[oldest]

    def forget_node(self, node: str) -> None:
        """It has nothing of what it read any more."""
        for key in [key for key, (kept, _) in self._kept.items() if kept == node]:
            del self._kept[key]

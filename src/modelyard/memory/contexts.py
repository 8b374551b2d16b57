"""Contexts come in a few sizes, so that a wish for a little more or less does not mean another load. Pure."""

from __future__ import annotations

STEP_TOKENS = 1024


def bucket(wanted: int | None, default: int, trained: int | None) -> int:
    """The context to load for a wish: the default if that suffices, else the next power of two times 1024.

    >>> bucket(None, 4096, 32768), bucket(2000, 4096, 32768), bucket(5000, 4096, 32768), bucket(10**9, 4096, 32768)
    (4096, 4096, 8192, 32768)
    """
    if wanted is None or wanted <= default:
        return default
    tokens = STEP_TOKENS
    while tokens < wanted and (trained is None or tokens < trained):
        tokens *= 2
    return max(default, min(tokens, trained or tokens))


def sizes(default: int, trained: int | None, count_max: int = 6) -> tuple[int, ...]:
    """The default and what is above it, up to what the model was trained for: what `show` prints.

    >>> sizes(4096, 32768), sizes(2048, 2048)
    ((4096, 8192, 16384, 32768), (2048,))
    """
    found = [default]
    while trained and found[-1] < trained and len(found) < count_max:
        found.append(bucket(found[-1] + 1, default, trained))
    if trained and found[-1] < trained:
        found[-1] = trained
    return tuple(found)

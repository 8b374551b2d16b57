"""How many columns a text takes in a terminal. Pure."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_JOINER = "\u200d"
_SKIN = range(0x1F3FB, 0x1F400)  # colours of skin, put on the emoji before
_JAMO = range(0x1160, 0x1200)  # vowels and final consonants, put into the syllable before


def width(text: str) -> int:
    """Columns; wide characters count twice, marks that are put on others not at all.

    >>> width("abc"), width("模型"), width("e\\u0301"), width("👩\\u200d💻"), width("👍🏽")
    (3, 4, 1, 2, 2)
    """
    if text.isascii():
        return len(text)
    total, before = 0, ""
    for sign in text:
        total += char_width(sign, before)
        before = sign
    return total


@lru_cache(maxsize=4096)
def char_width(sign: str, before: str = "") -> int:
    """Columns that one character adds to the one before it."""
    kind = unicodedata.category(sign)
    if kind in ("Mn", "Me") or (kind == "Cf" and sign != "\u00ad") or ord(sign) in _JAMO:
        return 0
    if before and (ord(sign) in _SKIN or (before == _JOINER and kind == "So")):
        return 0
    return 2 if unicodedata.east_asian_width(sign) in "WF" else 1


def padded(text: str, columns: int, align: str = "left") -> str:
    """The text with spaces up to so many columns; as it is, if it takes more.

    >>> padded("模型", 6) + "|", padded("8", 3, "right"), padded("a", 3, "center")
    ('模型  |', '  8', ' a ')
    """
    room = max(0, columns - width(text))
    before = {"right": room, "center": room // 2}.get(align, 0)
    return " " * before + text + " " * (room - before)


def cut(text: str, columns: int) -> str:
    """No wider than the window.

    >>> cut("abcdef", 4), cut("模型模型", 5), cut("ab", 4)
    ('abc…', '模型…', 'ab')
    """
    if width(text) <= columns:
        return text
    kept = ""
    for sign in text:
        if width(kept + sign) > columns - 1:
            break
        kept += sign
    return kept + "…"

"""How many columns a text takes in a terminal. Pure."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_JOINER, _EMOJI_STYLE = "\u200d", "\ufe0f"


def width(text: str) -> int:
    """Columns; wide characters count twice, marks that are put on others not at all.

    >>> width("abc"), width("模型"), width("e\\u0301"), width("👩\\u200d💻")
    (3, 4, 1, 2)
    """
    if text.isascii():
        return len(text)
    total, is_joined = 0, False
    for sign in text:
        total += 0 if is_joined else char_width(sign)
        is_joined = sign == _JOINER
    return total


@lru_cache(maxsize=4096)
def char_width(sign: str) -> int:
    """Columns of one character by itself."""
    if sign in (_JOINER, _EMOJI_STYLE) or unicodedata.combining(sign) or unicodedata.category(sign) in ("Mn", "Me"):
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

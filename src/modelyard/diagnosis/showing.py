"""Foreign text as a caller may see it: one line, printable, short, without paths. Pure."""

from __future__ import annotations

import re

TEXT_CHARS_MAX = 300
_PATH = re.compile(r"(?:/[\w.@+-]+){2,}")


def shown(text: str) -> str:
    """One line of it.

    >>> shown("cannot open /srv/models/a.gguf: no such file")
    'cannot open ...: no such file'
    """
    line = "".join(sign if sign.isprintable() else " " for sign in text[:TEXT_CHARS_MAX])
    return _PATH.sub("...", line).strip()

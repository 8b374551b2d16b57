"""Names in braces that stand for values in a configured command. `{{name}}` stays `{name}`; other braces are text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_PLACEHOLDER = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")


def placeholders(texts: Iterable[str]) -> frozenset[str]:
    """The names used.

    >>> sorted(placeholders(["--port={port}", "{{port}}", '{"a": 1}', "{socket}"]))
    ['port', 'socket']
    """
    return frozenset(match[2] for text in texts for match in _PLACEHOLDER.finditer(text) if match[2])


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with its values in place; all in one pass, so that a value is never read for names.

    >>> filled("--a={a} {{a}}", {"a": "{b}", "b": "no"})
    '--a={b} {a}'
    """
    return _PLACEHOLDER.sub(lambda match: "{" + match[1] + "}" if match[1] else values[match[2]], text)

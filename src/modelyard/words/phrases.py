"""English texts said again in another language: what comes as plain text, over the wire or inside of another message.

An API's machine fields are English, and so is what one error quotes of another. Whoever shows such a text to a person
finds its template here by what stands between the values, the longest match first, and the values in turn. What no
catalogue knows stays as it is.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

LITERAL_CHARS_MIN = 8  # a template with less of its own would match anything
TEXT_CHARS_MAX = 2000
DEPTH_MAX = 6
# Fields whose values are words of ours. Names of models, paths and numbers are said as they are.
WORDED = frozenset({
    "problem", "reason", "reasons", "what", "capability", "exit", "about", "fault", "told", "of", "why", "detail",
})  # fmt: skip
_FIELD = re.compile(r"\{(\w+)[^{}]*\}")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A template with values, taken apart."""

    literals: tuple[str, ...]  # one more than there are fields
    fields: tuple[str, ...]
    translation: tuple[str, ...]  # literals and names of fields in turn

    def read(self, text: str) -> dict[str, str] | None:
        """The values in a text of this template, or None if it is of another."""
        first, last = self.literals[0], self.literals[-1]
        if not text.startswith(first) or not text.endswith(last) or len(text) < len(first) + len(last):
            return None
        if not self.fields:
            return {}
        values, at, end = [], len(first), len(text) - len(last)
        for literal in self.literals[1:-1]:
            found = text.find(literal, at + 1, end)
            if found < 0:
                return None
            values.append(text[at:found])
            at = found + len(literal)
        values.append(text[at:end])
        return dict(zip(self.fields, values, strict=True))

    def say(self, values: dict[str, str]) -> str:
        """The translation with these values."""
        return "".join(values[piece] if place % 2 else piece for place, piece in enumerate(self.translation))


def in_language(text: str, path: Path, depth: int = 0) -> str:
    """An English text in the language of a compiled catalogue.

    A value that is itself a known text is translated too, to a bounded depth.
    """
    exact, phrases = _catalogue(path)
    if text in exact:
        return exact[text]
    if depth >= DEPTH_MAX or len(text) > TEXT_CHARS_MAX:
        return text
    for phrase in phrases:
        values = phrase.read(text)
        if values is not None:
            worded = {name: in_language(values[name], path, depth + 1) for name in WORDED & values.keys()}
            return phrase.say(values | worded)
    return _in_parts(text, path, depth + 1)


def _in_parts(text: str, path: Path, depth: int) -> str:
    """A list, a text with another in brackets behind it, or a text behind a name."""
    parts = text.split("; ")
    if len(parts) > 1:
        return "；".join(in_language(part, path, depth) for part in parts)
    before, bracket, inside = text.removesuffix(")").rpartition(" (")
    if before and bracket and text.endswith(")"):
        whole = f"{in_language(before, path, depth)}（{in_language(inside, path, depth)}）"
        if whole != f"{before}（{inside}）":
            return whole
    name, colon, rest = text.partition(": ")
    told = in_language(rest, path, depth)
    return f"{name}：{told}" if colon and told != rest else text


@lru_cache(maxsize=4)
def _catalogue(path: Path) -> tuple[dict[str, str], list[Phrase]]:
    """What a catalogue has without values, and its phrases, those with the most words of their own first."""
    exact, phrases = {}, []
    for text, translation in _entries(path.read_bytes()) if path.exists() else ():
        if not _FIELD.search(text):
            exact[text] = translation
            continue
        pieces = _pieces(text)
        literals = pieces[::2]
        if sum(map(len, literals)) >= LITERAL_CHARS_MIN and "" not in literals[1:-1]:
            phrases.append(Phrase(literals, pieces[1::2], _pieces(translation)))
    phrases.sort(key=lambda phrase: -sum(map(len, phrase.literals)))
    return exact, phrases


def _pieces(template: str) -> tuple[str, ...]:
    """Literals and names of fields in turn, a literal first and last.

    >>> _pieces("{{{name}}} is {what}")
    ('{', 'name', '} is ', 'what', '')
    """
    pieces = _FIELD.split(template)
    return tuple(
        piece if place % 2 else piece.replace("{{", "{").replace("}}", "}") for place, piece in enumerate(pieces)
    )


def _entries(data: bytes) -> list[tuple[str, str]]:
    """The texts of a compiled catalogue; gettext's own reader keeps them to itself."""
    _magic, _version, count, texts_at, translations_at = struct.unpack_from("<5I", data)
    found = []
    for number in range(1, count):  # the first is the header
        pair = []
        for table_at in (texts_at, translations_at):
            size, at = struct.unpack_from("<2I", data, table_at + 8 * number)
            pair.append(data[at : at + size].decode().split("\0")[0])
        found.append((pair[0], pair[1]))
    return found

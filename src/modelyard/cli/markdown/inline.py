"""The marks inside a line, from text that comes in pieces: bold, emphasis, code, struck out, links. Pure.

What is decided depends on the text alone and never on where it was cut. A mark waits for its other end for at most
`HOLD_CHARS_MAX` characters of the same line; then it is shown as it was written. So nothing is ever lost, and a hostile
line costs a bounded look ahead for each character.
"""

from __future__ import annotations

import re
from typing import NamedTuple

HOLD_CHARS_MAX = 400
RUN_MAX = 16  # more marks in a row than this mean none of ours
DEPTH_MAX = 4  # marks inside marks
TRIES_MAX = 16  # marks of the same kind that are looked at for the other end of one
BOLD, DIM, EMPHASIS, UNDERLINE, STRUCK, CODE = "1", "2", "3", "4", "9", "36"

_SPECIAL = re.compile(r"[`*_~\[\\]")
_LINK = re.compile(r"\[([^\[\]\n]*)\]\(([^()\s]*)\)")
_LINK_BEGUN = re.compile(r"\[[^\[\]\n]*(?:\](?:\([^()\s]*)?)?\Z")
_STYLES = {("*", 1): EMPHASIS, ("_", 1): EMPHASIS, ("*", 2): BOLD, ("_", 2): BOLD, ("~", 2): STRUCK}
_PUNCTUATION = frozenset("\\`*_{}[]()#+-.!|~>")


class Piece(NamedTuple):
    """Text, and how it looks: SGR codes joined by semicolons."""

    text: str
    style: str = ""


class _Found(NamedTuple):
    pieces: list[Piece]
    end: int


class Inline:
    """One line's marks. `feed` gives what is certain; `end` the rest."""

    def __init__(self, style: str = "", depth: int = 0) -> None:
        self._style, self._depth = style, depth
        self._pending = ""
        self._last = " "  # the character before what is pending

    def feed(self, text: str) -> list[Piece]:
        self._pending += text
        return self._take(is_end=False)

    def end(self) -> list[Piece]:
        return self._take(is_end=True)

    def _take(self, *, is_end: bool) -> list[Piece]:
        pending, pieces, at = self._pending, [], 0
        while at < len(pending):
            mark = _SPECIAL.search(pending, at)
            stop = mark.start() if mark else len(pending)
            if stop > at:
                pieces.append(Piece(pending[at:stop], self._style))
                at, self._last = stop, pending[stop - 1]
                continue
            found = self._span(pending, at, is_end=is_end)
            if found is None:
                break
            pieces += found.pieces
            at, self._last = found.end, pending[found.end - 1]
        self._pending = pending[at:]
        return pieces

    def _span(self, text: str, at: int, *, is_end: bool) -> _Found | None:
        """What begins here; None: more text has to come first."""
        sign = text[at]
        if sign == "\\":
            if at + 1 == len(text) and not is_end:
                return None
            is_escape = text[at + 1 : at + 2] in _PUNCTUATION and at + 1 < len(text)
            return self._literal(text, at + is_escape, at + 1 + is_escape)
        if sign == "[":
            return self._link(text, at, is_end=is_end)
        run = _run(text, at)
        if run == RUN_MAX:
            return self._literal(text, at, at + run)
        if at + run == len(text) and not is_end:
            return None
        return self._between(text, at, run, is_end=is_end)

    def _literal(self, text: str, start: int, end: int) -> _Found:
        return _Found([Piece(text[start:end], self._style)], end)

    def _link(self, text: str, at: int, *, is_end: bool) -> _Found | None:
        window = text[at : at + HOLD_CHARS_MAX]
        if link := _LINK.match(window):
            name, url = link.groups()
            pieces = [Piece(name or url, _and(self._style, UNDERLINE))]
            if name and name != url:
                pieces.append(Piece(f" ({url})", _and(self._style, DIM)))
            return _Found(pieces, at + link.end())
        may_come = len(window) < HOLD_CHARS_MAX and _LINK_BEGUN.match(window) is not None
        return None if may_come and not is_end else self._literal(text, at, at + 1)

    def _between(self, text: str, at: int, run: int, *, is_end: bool) -> _Found | None:
        """From a mark to its other end."""
        sign, begin = text[at], at + run
        style = CODE if sign == "`" else _STYLES.get((sign, run))
        opens = sign == "`" or not text[begin : begin + 1].isspace()
        if sign == "_" and self._last.isalnum():
            opens = False
        if style is None or not opens or self._depth >= DEPTH_MAX or begin >= len(text):
            return self._literal(text, at, begin)
        window = text[begin : begin + HOLD_CHARS_MAX]
        close = _closing(window, sign, run, is_end=is_end or len(window) == HOLD_CHARS_MAX)
        if close is None:
            return None
        if close < 0:
            return self._literal(text, at, begin)
        inner, both, end = window[:close], _and(self._style, style), begin + close + run
        if sign == "`":
            return _Found([Piece(inner, both)], end)
        nested = Inline(both, self._depth + 1)
        return _Found(nested.feed(inner) + nested.end(), end)


def _run(text: str, at: int) -> int:
    """How often the same character stands here, up to a limit."""
    end = at
    while end < len(text) and end - at < RUN_MAX and text[end] == text[at]:
        end += 1
    return end - at


def _closing(text: str, sign: str, run: int, *, is_end: bool) -> int | None:
    """Where the other end is; -1: there is none; None: it may still come."""
    at, tries = text.find(sign), 0
    while at >= 0:
        if tries == TRIES_MAX:
            return -1
        tries += 1
        found = _run(text, at)
        if at + found == len(text) and not is_end:
            return None  # the run may go on
        after = text[at + found : at + found + 1]
        fits = found == run and (sign == "`" or (at > 0 and not text[at - 1].isspace()))
        if fits and not (sign == "_" and after.isalnum()):
            return at
        at = text.find(sign, at + found)
    return -1 if is_end else None


def _and(style: str, more: str) -> str:
    return f"{style};{more}" if style else more

"""From the tokens of one answer to what a caller may see: whole signs, cut at stop strings, thinking and calls apart.

Pure, and knows no tokenizer: whoever uses it hands in a way to decode. What may still become part of a sign, a stop
string or a mark is withheld until it is decided.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

BROKEN = "\ufffd"  # what bytes that are no whole sign decode to
WINDOW_TOKENS = 12  # decoded again with each new token, since how a token reads depends on those before it
BROKEN_TOKENS_MAX = 8  # a sign has at most four bytes: after more tokens than this it will never be whole
THINK, THOUGHT = "<think>", "</think>"
CALL, CALLED = "<tool_call>", "</tool_call>"

Kind = Literal["text", "reasoning", "call"]


class TokenText:
    """Tokens to text, token by token; the sum of the pieces is the text of all."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._told = ""  # what was told of the window's text
        self._pending = 0

    def add(self, tokens: Iterable[int]) -> str:
        """The text these tokens complete."""
        return "".join([self._added(token) for token in tokens])

    def end(self) -> str:
        """What was withheld, without a sign that was never finished."""
        return self._decode(self._window)[len(self._told) :].rstrip(BROKEN)

    def _added(self, token: int) -> str:
        self._window.append(token)
        self._pending += 1
        text = self._decode(self._window)
        if text.endswith(BROKEN):
            if self._pending <= BROKEN_TOKENS_MAX:
                return ""
            text = text[:-1]
        new = text[len(self._told) :]
        self._told = text
        if len(self._window) > WINDOW_TOKENS and not text.endswith(BROKEN):
            del self._window[: -self._pending]
            self._told = self._decode(self._window)
        self._pending = 0
        return new


def undecided(text: str, marks: Iterable[str]) -> int:
    """How many of the last characters may become one of these marks.

    >>> undecided("the end<to", ["<tool_call>", "</think>"]), undecided("a < b", ["<think>"])
    (3, 0)
    """
    longest = 0
    for mark in marks:
        for length in range(min(len(mark) - 1, len(text)), longest, -1):
            if text.endswith(mark[:length]):
                longest = length
                break
    return longest


class StopCutter:
    """Ends a text exactly before the stop string that is complete first, wherever pieces begin and end."""

    def __init__(self, stops: Iterable[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.is_cut = False

    def add(self, text: str) -> str:
        """What can be told; nothing more once it is cut."""
        if not self._stops or self.is_cut:
            return "" if self.is_cut else text
        held = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := held.find(stop)) >= 0]
        if found:
            self.is_cut, self._held = True, ""
            return held[: min(found)[1]]
        keep = undecided(held, self._stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def end(self) -> str:
        held, self._held = self._held, ""
        return held


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer. Of a call, `name` and `text` are what is called and with what, as JSON."""

    kind: Kind
    text: str
    name: str = ""


@dataclass(slots=True)
class Splitter:
    """Tells thinking and tool calls from text, by the marks that models put around them.

    `functions` are those that may be called; what names another, or is no JSON, stays text.
    """

    is_thinking: bool = False  # from the first token: the prompt has opened it
    may_think: bool = False
    functions: frozenset[str] = frozenset()
    calls: int = field(default=0, init=False)
    _state: Kind = field(default="text", init=False)
    _held: str = field(default="", init=False)
    _has_text: bool = field(default=False, init=False)
    _skips_space: bool = field(default=False, init=False)  # between marks and what follows them

    def __post_init__(self) -> None:
        self._state = "reasoning" if self.is_thinking else "text"

    def add(self, text: str) -> list[Piece]:
        """What these characters decide."""
        if not self.may_think and not self.functions:
            return [Piece("text", text)] if text else []
        self._held += text
        self._skip_space()
        pieces: list[Piece] = []
        while (step := self._step()) is not None:
            pieces += step
        return [piece for piece in pieces if piece.text]

    def end(self) -> list[Piece]:
        """What was withheld: it has become nothing."""
        held, self._held = self._held, ""
        if self._state == "call":
            return [Piece("text", CALL + held)]
        if self._state == "text" and self.calls and not held.strip():
            return []
        return [Piece(self._state, held)] if held else []

    def _step(self) -> list[Piece] | None:
        """One change of state, or None when all is decided."""
        match self._state:
            case "call":
                return self._in_call()
            case "reasoning":
                return self._until(THOUGHT, "text")
            case "text":
                return self._in_text()

    def _in_call(self) -> list[Piece] | None:
        written, mark, rest = self._held.partition(CALLED)
        if not mark:
            return None
        self._state, self._held = "text", rest
        call = self._call(written)
        if call is None:
            self._has_text = True
            return [Piece("text", CALL + written + CALLED)]
        self.calls += 1
        return [call]

    def _in_text(self) -> list[Piece] | None:
        may_open = self.may_think and not self._has_text
        if may_open and self._held.lstrip().startswith(THINK):
            self._state, self._held = "reasoning", self._held.lstrip()[len(THINK) :]
            self._skips_space = True
            self._skip_space()
            return []
        if self.functions and CALL in self._held:
            before, _mark, self._held = self._held.partition(CALL)
            self._state = "call"
            return [Piece("text", before.rstrip())]
        marks = ((THINK,) if may_open else ()) + ((CALL,) if self.functions else ())
        return self._tell("text", marks)

    def _until(self, mark: str, then: Kind) -> list[Piece] | None:
        if mark in self._held:
            before, _mark, rest = self._held.partition(mark)
            kind, self._state, self._held = self._state, then, rest
            self._has_text = self._skips_space = True  # thinking comes first, or not at all
            self._skip_space()
            return [Piece(kind, before.rstrip())]
        return self._tell(self._state, (mark,))

    def _tell(self, kind: Kind, marks: tuple[str, ...]) -> list[Piece] | None:
        """All that is decided; white space may be what stands before a mark."""
        decided = self._held[: len(self._held) - undecided(self._held, marks)]
        shown = decided.rstrip()
        if not shown:
            return None
        self._held = self._held[len(shown) :]
        self._has_text = self._has_text or kind == "text"
        return [Piece(kind, shown)]

    def _skip_space(self) -> None:
        if self._skips_space:
            self._held = self._held.lstrip()
            self._skips_space = not self._held

    def _call(self, written: str) -> Piece | None:
        try:
            call = json.loads(written)
        except ValueError:
            return None
        if not isinstance(call, dict) or call.get("name") not in self.functions:
            return None
        arguments = call.get("arguments", call.get("parameters", {}))
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        return Piece("call", text, str(call["name"]))

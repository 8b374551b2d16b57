"""Words into lines no wider than the window; what has been written stays as it is. Pure.

Words are not cut unless they are wider than a line. Between characters that take two columns a line may end anywhere,
as it does in Chinese; but none begins with a closing mark, or ends with an opening one.
"""

from __future__ import annotations

from modelyard.cli.markdown.inline import Piece
from modelyard.cli.widths import char_width, width

WIDTH_MIN = 10
NOTHING = Piece("")
_CLOSING = frozenset("，。、！？；：）」』】》〉…”’%,.!?;:)]}")
_OPENING = frozenset("（「『【《〈“‘")


class Wrapping:
    """One paragraph, heading or item. `first` begins its first line, `hang` every further one."""

    def __init__(self, columns: int, first: Piece = NOTHING, hang: Piece = NOTHING, has_colour: bool = True) -> None:
        self._columns = max(WIDTH_MIN, columns)
        self._hang, self._hang_width = styled(hang, has_colour), width(hang.text)
        self._has_colour = has_colour
        self._out = [styled(first, has_colour)]
        self._column = width(first.text)
        self._last = ""
        self._spaces = 0
        self._word: list[Piece] = []
        self._word_width = 0

    def add(self, pieces: list[Piece]) -> str:
        """Text to write now; the last word waits for its end."""
        for text, style in pieces:
            for sign in text:
                self._sign(sign, style)
        return self._written()

    def end(self) -> str:
        """The last word, and the line's end."""
        self._flush()
        self._out.append("\n")
        return self._written()

    def _written(self) -> str:
        text = "".join(self._out)
        self._out = []
        return text

    def _sign(self, sign: str, style: str) -> None:
        if sign in " \t":
            self._flush()
            self._spaces += 1
            self._last = ""
            return
        columns = char_width(sign, self._last)
        if columns == 2 and sign not in _CLOSING and self._last not in _OPENING:
            self._flush()
        if self._word_width + columns > self._columns - self._hang_width:
            self._flush()  # a word wider than a line
        if self._word and self._word[-1].style == style:
            self._word[-1] = Piece(self._word[-1].text + sign, style)
        else:
            self._word.append(Piece(sign, style))
        self._word_width += columns
        self._last = sign

    def _flush(self) -> None:
        if not self._word:
            return
        if self._column + self._spaces + self._word_width > self._columns and self._column > self._hang_width:
            self._out.append("\n" + self._hang)
            self._column = self._hang_width
        else:
            self._out.append(" " * self._spaces)
            self._column += self._spaces
        self._out += [styled(piece, self._has_colour) for piece in self._word]
        self._column += self._word_width
        self._word, self._word_width, self._spaces = [], 0, 0


def styled(piece: Piece, has_colour: bool = True) -> str:
    """The text with its colours, which end with it."""
    return f"\x1b[{piece.style}m{piece.text}\x1b[0m" if piece.style and has_colour else piece.text

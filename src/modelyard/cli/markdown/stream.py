"""An answer in Markdown, as it comes, for a terminal: pieces of text in, text with colours out. Pure.

Append-only: the cursor never moves back, so what is on the screen can be scrolled, copied and piped. The result depends
on the text alone, not on how it was cut into pieces. Lines stay lines: a model that begins a new one means it. Between
fences nothing is changed or wrapped. A table waits until its last row is known, up to `TABLE_CHARS_MAX`; one that is
larger is shown as it was written.
"""

from __future__ import annotations

import re

from modelyard.cli.markdown.inline import BOLD, DIM, UNDERLINE, Inline, Piece
from modelyard.cli.markdown.tables import is_rule, table
from modelyard.cli.markdown.wrapping import WIDTH_MIN, Wrapping, styled

TABLE_CHARS_MAX = 20_000
INDENT_MAX = 12  # deeper lists are shown no deeper
QUOTE_DEPTH_MAX = 8
TAB = " " * 4

# A line's beginning is held while it may still become one of these. What is held is bounded, and every pattern below
# is decided within it: where a text is cut makes no difference, and a line without an end is not gathered.
_MAY_BE = re.compile(r"[ \t]{0,12}(?:#{1,6}|[-*+_][-*_ ]{0,40}|\d{1,9}[.)]?|`{1,2}|~{1,2}|>[> ]{0,16})?\Z")
_FENCE = re.compile(r"[ \t]{0,12}(`{3,16}(?=[^`]*\Z)|~{3,16})[^\n]{0,120}\Z")
_ROW = re.compile(r"[ \t]{0,12}\|")
_HEADING = re.compile(r"(#{1,6})[ \t]+")
_ITEM = re.compile(r"([ \t]{0,12})([-*+]|\d{1,9}[.)])[ \t]+")
_QUOTE = re.compile(rf"(?:> ?){{1,{QUOTE_DEPTH_MAX}}}")
_RULE = re.compile(r" {0,3}(?:(?:- *){3,}|(?:\* *){3,}|(?:_ *){3,})\Z")


def code_blocks(text: str) -> list[str]:
    """The text of each fenced block of a whole answer.

    >>> code_blocks("a\\n```sh\\nls\\n```\\nb")
    ['ls\\n']
    """
    answer = Markdown(80, has_colour=False)
    answer.feed(text if text.endswith("\n") else f"{text}\n")
    return answer.blocks


class Markdown:
    """One answer. `feed` each piece, then `end`."""

    def __init__(self, columns: int, *, has_colour: bool = True) -> None:
        self._columns, self._has_colour = columns, has_colour
        self._held = ""  # the beginning of a line whose kind is not known yet
        self._line: tuple[Inline, Wrapping] | None = None  # a line that is being written
        self._skips_spaces = False  # between the line's mark and its text
        self._fence = ""  # the mark that ends it
        self._is_mid_code = False
        self._rows: list[str] = []  # of a table
        self._rows_chars = 0
        self._blocks: list[list[str]] = []
        self._out: list[str] = []

    @property
    def blocks(self) -> list[str]:
        """The text of each fenced block so far, for whoever wants to copy one."""
        return ["".join(block) for block in self._blocks]

    def resize(self, columns: int) -> None:
        """The window has this width now; lines that have begun keep theirs."""
        self._columns = columns

    def feed(self, text: str) -> str:
        """What can be written now."""
        for part in re.split(r"(\n)", text):
            if part == "\n":
                self._end_line()
            elif part:
                self._more(part)
        return self._written()

    def end(self) -> str:
        """The rest, and the end of the last line."""
        if self._held or self._line is not None or self._is_mid_code:
            self._end_line()
        self._end_table()
        return self._written()

    def _written(self) -> str:
        text = "".join(self._out)
        self._out = []
        return text

    def _more(self, part: str) -> None:
        if self._line is not None:
            self._inline(part)
        elif self._is_mid_code:
            self._code(part)
        else:
            self._held += part
            if not self._may_change():
                self._begin(is_whole=False)

    def _may_change(self) -> bool:
        """Whether more text may make another kind of line of what is held."""
        if self._fence:
            return len(self._held) < len(self._fence) + INDENT_MAX and not self._held.strip(f" \t{self._fence[0]}")
        if _ROW.match(self._held):
            return len(self._held) < TABLE_CHARS_MAX
        return bool(_MAY_BE.match(self._held) or _FENCE.match(self._held))

    def _end_line(self) -> None:
        if self._line is None and not self._is_mid_code:
            self._begin(is_whole=True)
        if self._line is not None:
            inline, wrapping = self._line
            self._out.append(wrapping.add(inline.end()) + wrapping.end())
            self._line = None
        elif self._is_mid_code:
            self._code("\n")
            self._is_mid_code = False

    def _begin(self, *, is_whole: bool) -> None:
        """The held text has a kind. Lines that are of one piece are done here, with their end."""
        text, self._held = self._held, ""
        if self._fence:
            self._in_fence(text, is_whole=is_whole)
            return
        if is_whole and _ROW.match(text):
            self._row(text)
            return
        self._end_table()
        if is_whole and (fence := _FENCE.match(text)):
            self._fence = fence[1]
            self._blocks.append([])
            self._dim_line(text)
        elif is_whole and _RULE.match(text):
            self._dim_line("─" * min(self._columns, 40))
        elif is_whole and not text.strip():
            self._out.append("\n")
        else:
            self._text_line(text)

    def _text_line(self, text: str) -> None:
        """A heading, an item, a quote or a paragraph."""
        style, first, hang = "", "", ""
        room = max(self._columns, WIDTH_MIN) // 2  # no more of a line is indented
        self._skips_spaces = True
        if heading := _HEADING.match(text):
            style, text = (f"{BOLD};{UNDERLINE}" if len(heading[1]) == 1 else BOLD), text[heading.end() :]
        elif item := _ITEM.match(text):
            mark = "• " if item[2] in "-*+" else f"{item[2]} "
            first = _indent(item[1], room - len(mark)) + mark
            hang, text = " " * min(len(first), room), text[item.end() :]
        elif quote := _QUOTE.match(text):
            self._skips_spaces = False
            first = hang = "│ " * min(quote[0].count(">"), room // 2)
            text = text[quote.end() :]
        else:
            first = hang = _indent(text, room)
        look = "" if self._skips_spaces else DIM
        wrapping = Wrapping(self._columns, Piece(first, look), Piece(hang, look), self._has_colour)
        self._line = (Inline(style), wrapping)
        self._inline(text)

    def _inline(self, text: str) -> None:
        assert self._line is not None, "a line is being written"
        inline, wrapping = self._line
        if self._skips_spaces:
            text = text.lstrip(" \t")
            self._skips_spaces = not text
        self._out.append(wrapping.add(inline.feed(text)))

    def _dim_line(self, text: str) -> None:
        self._out.append(styled(Piece(text, DIM), self._has_colour) + "\n")

    # Fences.

    def _in_fence(self, text: str, *, is_whole: bool) -> None:
        is_end = is_whole and text.strip(" \t").startswith(self._fence) and not text.strip(f" \t{self._fence[0]}")
        if is_end:
            self._fence = ""
            self._dim_line(text)
        else:
            self._is_mid_code = True
            self._code(text)

    def _code(self, text: str) -> None:
        self._out.append(text)
        self._blocks[-1].append(text)

    # Tables.

    def _row(self, text: str) -> None:
        self._rows.append(text)
        self._rows_chars += len(text)
        is_table = len(self._rows) != 2 or is_rule(text)
        if not is_table or self._rows_chars > TABLE_CHARS_MAX:
            self._raw_rows()

    def _end_table(self) -> None:
        drawn = table(self._rows, self._columns, self._has_colour) if len(self._rows) >= 2 else None
        if drawn is None:
            self._raw_rows()
        else:
            self._out.append(drawn)
            self._rows, self._rows_chars = [], 0

    def _raw_rows(self) -> None:
        """Not a table after all, or too large a one: as it was written."""
        self._out += [f"{row}\n" for row in self._rows]
        self._rows, self._rows_chars = [], 0


def _indent(text: str, room: int) -> str:
    """The spaces a text begins with, as far as they are shown."""
    spaces = text[: len(text) - len(text.lstrip(" \t"))][:INDENT_MAX]
    return spaces.replace("\t", TAB)[: max(0, min(INDENT_MAX, room))]

"""An answer in Markdown, as it comes, for a terminal: pieces of text in, text with colours out. Pure.

Append-only: the cursor never moves back, so what is on the screen can be scrolled, copied and piped. The result depends
on the text alone, not on how it was cut into pieces. Lines stay lines: a model that begins a new one means it. Between
fences nothing is changed or wrapped. A table waits until its last row is known, up to `TABLE_CHARS_MAX`.
"""

from __future__ import annotations

import re

from modelyard.cli.markdown.inline import BOLD, DIM, UNDERLINE, Inline, Piece
from modelyard.cli.markdown.tables import is_rule, table
from modelyard.cli.markdown.wrapping import Wrapping, styled

TABLE_CHARS_MAX = 20_000
INDENT_MAX = 12  # deeper lists are shown no deeper

# A line's beginning is held while it may still become one of these.
_MAY_BE = re.compile(r" {0,12}(?:#{1,6}|[-*+_](?:[-*_ ]{0,40})|\d{1,9}[.)]?|`{1,3}|~{1,3}|>|\|[^\n]*)?\Z")
_FENCE = re.compile(r"( {0,12})(`{3,}|~{3,})([^`\n]*)\Z")
_FENCE_BEGUN = re.compile(r" {0,12}(?:`{3,}[^`\n]*|~{3,}[^\n]*)\Z")
_HEADING = re.compile(r"(#{1,6})[ \t]+")
_ITEM = re.compile(r"( {0,12})([-*+]|\d{1,9}[.)])[ \t]+")
_QUOTE = re.compile(r"(?:> ?)+")
_RULE = re.compile(r" {0,3}(?:(?:- *){3,}|(?:\* *){3,}|(?:_ *){3,})\Z")


class Markdown:
    """One answer. `feed` each piece, then `end`."""

    def __init__(self, columns: int, *, has_colour: bool = True) -> None:
        self._columns, self._has_colour = columns, has_colour
        self._held = ""  # the beginning of a line whose kind is not known yet
        self._line: tuple[Inline, Wrapping] | None = None  # a line that is being written
        self._fence = ""  # the mark that ends it
        self._is_mid_code = False
        self._rows: list[str] = []  # of a table
        self._rows_chars = 0
        self.blocks: list[str] = []  # the text of each fenced block so far, for whoever wants to copy one
        self._out: list[str] = []

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
            return len(self._held) < len(self._fence) + 12 and not self._held.strip(f" {self._fence[0]}")
        if self._held.lstrip().startswith("|"):
            return len(self._held) < TABLE_CHARS_MAX
        return bool(_MAY_BE.match(self._held) or _FENCE_BEGUN.match(self._held))

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
        if text.lstrip().startswith("|") and is_whole:
            self._row(text)
            return
        self._end_table()
        if is_whole and (fence := _FENCE.match(text)):
            self._fence = fence[2]
            self.blocks.append("")
            self._dim_line(text)
        elif is_whole and _RULE.match(text):
            self._dim_line("─" * min(self._columns, 40))
        elif is_whole and not text.strip():
            self._out.append("\n")
        else:
            self._text_line(text)

    def _text_line(self, text: str) -> None:
        """A heading, an item, a quote or a paragraph."""
        style, first, hang_width = "", "", 0
        hang = ""
        if heading := _HEADING.match(text):
            style, text = (f"{BOLD};{UNDERLINE}" if len(heading[1]) == 1 else BOLD), text[heading.end() :]
        elif item := _ITEM.match(text):
            mark = "•" if item[2] in "-*+" else item[2]
            hang_width = len(item[1]) + len(mark) + 1
            first, hang, text = f"{item[1]}{mark} ", " " * hang_width, text[item.end() :]
        elif quote := _QUOTE.match(text):
            depth = quote[0].count(">")
            hang_width = 2 * depth
            first = hang = styled(Piece("│ " * depth, DIM), self._has_colour)
            text = text[quote.end() :]
        else:
            indent = text[: len(text) - len(text.lstrip(" "))][:INDENT_MAX]
            first, hang, hang_width, text = indent, indent, len(indent), text.lstrip(" ")
        wrapping = Wrapping(self._columns, first, hang, hang_width, self._has_colour)
        self._line = (Inline(style), wrapping)
        self._inline(text)

    def _inline(self, text: str) -> None:
        assert self._line is not None, "a line is being written"
        inline, wrapping = self._line
        self._out.append(wrapping.add(inline.feed(text)))

    def _dim_line(self, text: str) -> None:
        self._out.append(styled(Piece(text, DIM), self._has_colour) + "\n")

    # Fences.

    def _in_fence(self, text: str, *, is_whole: bool) -> None:
        is_end = is_whole and text.strip(" ").startswith(self._fence) and not text.strip(f" {self._fence[0]}")
        if is_end:
            self._fence = ""
            self._dim_line(text)
        else:
            self._is_mid_code = True
            self._code(text)

    def _code(self, text: str) -> None:
        self._out.append(text)
        self.blocks[-1] += text

    # Tables.

    def _row(self, text: str) -> None:
        self._rows.append(text)
        self._rows_chars += len(text)
        is_table = len(self._rows) < 2 or is_rule(self._rows[1])
        if not is_table or self._rows_chars > TABLE_CHARS_MAX:
            self._raw_rows()

    def _end_table(self) -> None:
        if len(self._rows) >= 2:
            self._out.append(table(self._rows, self._columns, self._has_colour))
            self._rows, self._rows_chars = [], 0
        else:
            self._raw_rows()

    def _raw_rows(self) -> None:
        """Not a table after all, or too large a one: as it was written."""
        self._out += [f"{row}\n" for row in self._rows]
        self._rows, self._rows_chars = [], 0

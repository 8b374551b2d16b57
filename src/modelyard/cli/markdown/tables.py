"""A table whose lines have all come: aligned columns, or, where the window is too narrow, one cell a line. Pure."""

from __future__ import annotations

import re

from modelyard.cli.markdown.inline import BOLD, DIM, Inline, Piece
from modelyard.cli.markdown.wrapping import styled
from modelyard.cli.widths import width

_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*")
_CELL_END = re.compile(r"(?<!\\)\|")
GAP = "  "
Cell = list[Piece]


def is_rule(line: str) -> bool:
    """Whether a line is the one between a table's head and its body.

    >>> is_rule("|---|:-:|"), is_rule("| a | b |")
    (True, False)
    """
    return "-" in line and _RULE.fullmatch(line) is not None


def table(lines: list[str], columns: int, has_colour: bool = True) -> str:
    """The lines of a table, its rule the second of them, as text for a window of so many columns."""
    aligns = [_align(cell) for cell in _cells(lines[1])]
    rows = [
        [_inline(cell, BOLD if not number else "") for cell in _cells(line)]
        for number, line in enumerate(lines)
        if number != 1
    ]
    count = len(aligns)
    rows = [(row + [[] for _cell in range(count)])[:count] for row in rows]
    widths = [max(_width(row[index]) for row in rows) for index in range(count)]
    if sum(widths) + len(GAP) * (count - 1) > columns:
        return _records(rows, has_colour)
    texts = [_line(row, widths, aligns, has_colour) for row in rows]
    texts.insert(1, styled(Piece(GAP.join("─" * one for one in widths), DIM), has_colour))
    return "".join(f"{text}\n" for text in texts)


def _records(rows: list[list[Cell]], has_colour: bool) -> str:
    head, *body = rows
    lines: list[str] = []
    for row in body:
        for name, cell in zip(head, row, strict=True):
            lines.append(f"{_shown(name, has_colour)}: {_shown(cell, has_colour)}")
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def _cells(line: str) -> list[str]:
    text = line.strip().removeprefix("|")
    if text.endswith("|") and not text.endswith("\\|"):
        text = text[:-1]
    return [cell.strip().replace("\\|", "|") for cell in _CELL_END.split(text)]


def _align(rule: str) -> str:
    if rule.startswith(":") and rule.endswith(":") and len(rule) > 1:
        return "center"
    return "right" if rule.endswith(":") else "left"


def _inline(text: str, style: str) -> Cell:
    inline = Inline(style)
    return inline.feed(text) + inline.end()


def _width(cell: Cell) -> int:
    return width("".join(piece.text for piece in cell))


def _shown(cell: Cell, has_colour: bool) -> str:
    return "".join(styled(piece, has_colour) for piece in cell)


def _line(row: list[Cell], widths: list[int], aligns: list[str], has_colour: bool) -> str:
    cells: list[str] = []
    for cell, columns, align in zip(row, widths, aligns, strict=True):
        room = columns - _width(cell)
        before = {"right": room, "center": room // 2}.get(align, 0)
        cells.append(" " * before + _shown(cell, has_colour) + " " * (room - before))
    return GAP.join(cells).rstrip()

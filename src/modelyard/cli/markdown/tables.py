"""A table whose lines have all come: aligned columns, or, where the window is too narrow, one cell a line. Pure."""

from __future__ import annotations

import re

from modelyard.cli.markdown.inline import BOLD, DIM, Inline, Piece
from modelyard.cli.markdown.wrapping import Wrapping, styled
from modelyard.cli.widths import width

_RULE_CELL = re.compile(r":?-+:?")
_CELL_END = re.compile(r"(?<!\\)\|")
GAP = "  "
CELLS_MAX = 4_000  # a table of more, or of more text when it is told cell by cell, is not drawn
RECORDS_CHARS_MAX = 100_000
Cell = list[Piece]


def is_rule(line: str) -> bool:
    """Whether a line is the one between a table's head and its body.

    >>> is_rule("|---|:-:|"), is_rule("| a | b |")
    (True, False)
    """
    return all(_RULE_CELL.fullmatch(cell) for cell in _cells(line))


def table(lines: list[str], columns: int, has_colour: bool = True) -> str | None:
    """The lines of a table, its rule the second of them, as text for a window of so many columns.

    None: it is too large to be drawn. Cells that the head has no name for are shown too.
    """
    cells = [_cells(line) for line in lines]
    count = max(len(row) for row in cells)
    if count * len(cells) > CELLS_MAX:
        return None
    head, rule, *body = ([*row, *[""] * (count - len(row))] for row in cells)
    aligns = [_align(cell) for cell in rule]
    rows = [[_inline(cell, BOLD) for cell in head], *([_inline(cell, "") for cell in row] for row in body)]
    widths = [max(_width(row[index]) for row in rows) for index in range(count)]
    if sum(widths) + len(GAP) * (count - 1) > columns:
        is_small = sum(map(len, head)) * len(body) <= RECORDS_CHARS_MAX
        return _records(rows, columns, has_colour) if is_small else None
    texts = [_line(row, widths, aligns, has_colour) for row in rows]
    texts.insert(1, styled(Piece(GAP.join("─" * one for one in widths), DIM), has_colour))
    return "".join(f"{text}\n" for text in texts)


def _records(rows: list[list[Cell]], columns: int, has_colour: bool) -> str:
    head, *body = rows
    blocks: list[str] = []
    for row in body or [[[] for _name in head]]:
        lines: list[str] = []
        for name, cell in zip(head, row, strict=True):
            wrapping = Wrapping(columns, hang=Piece("  "), has_colour=has_colour)
            label = [*name, Piece(": ")] if name else []
            lines.append(wrapping.add([*label, *cell]) + wrapping.end())
        blocks.append("".join(lines))
    return "\n".join(blocks)


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

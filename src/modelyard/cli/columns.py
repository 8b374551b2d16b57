"""Several texts beside one another, each wrapped in a column of its own. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.cli.markdown.inline import Piece
from modelyard.cli.markdown.wrapping import Wrapping
from modelyard.cli.terminal import plain
from modelyard.cli.widths import cut, padded

COLUMN_WIDTH_MIN = 30
GAP = " │ "


def side_by_side(names: Sequence[str], texts: Sequence[str], columns: int) -> str:
    """The names above, the texts below them, in a window of so many columns."""
    room = max(COLUMN_WIDTH_MIN, columns // len(names)) - len(GAP)
    blocks = [_wrapped(text, room) for text in texts]
    rows = [[cut(plain(name), room) for name in names], ["─" * room] * len(names)]
    for number in range(max(len(block) for block in blocks)):
        rows.append([block[number] if number < len(block) else "" for block in blocks])
    return "".join(GAP.join(padded(cell, room) for cell in row).rstrip() + "\n" for row in rows)


def _wrapped(text: str, room: int) -> list[str]:
    lines: list[str] = []
    for line in plain(text).split("\n"):
        wrapping = Wrapping(room)
        lines += (wrapping.add([Piece(line)]) + wrapping.end()).rstrip("\n").split("\n")
    return lines

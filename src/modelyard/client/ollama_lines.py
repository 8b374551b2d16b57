"""Lines of a streamed answer from bytes cut at any place, and what a pull tells of itself, put right. Pure.

Lines end at LF only: a text may hold U+2028 and its like. Progress of a pull is told by servers that leave numbers out,
send zeros, and count backwards when a part is fetched again; what leaves here never does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LINE_BYTES_MAX = 8 * 1024**2  # the last line of a long generation may hold its whole context


class LineTooLong(ValueError):
    """More bytes than any line of an answer has, and still no end."""


class Lines:
    """Takes pieces, gives whole lines. Blank ones are left out: some servers send them to keep a connection open."""

    def __init__(self, bytes_max: int = LINE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._rest = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The lines that end in this piece.

        >>> lines = Lines()
        >>> [list(lines.feed(piece)) for piece in (b'{"a"', b': 1}\\n\\r\\n{}', b"\\n")]
        [[], [b'{"a": 1}'], [b'{}']]
        """
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            self._keep(piece[start:end])
            start = end + 1
            if line := self._taken():
                yield line
        self._keep(piece[start:])

    def end(self) -> bytes:
        """What came after the last line's end: a line too, if a server leaves the last end out."""
        return self._taken()

    def _keep(self, part: bytes) -> None:
        self._rest += part
        if len(self._rest) > self._bytes_max:
            raise LineTooLong

    def _taken(self) -> bytes:
        line = bytes(self._rest).strip()
        self._rest.clear()
        return line


class Progress:
    """What one pull has told so far. `total` and `completed` are left out where nobody knows them."""

    def __init__(self) -> None:
        self._totals: dict[str, int] = {}
        self._completed: dict[str, int] = {}

    def put_right(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """The same with numbers that make sense: 0 <= `completed` <= `total`, `total` > 0, and nothing shrinks.

        >>> progress = Progress()
        >>> progress.put_right({"status": "pulling", "total": 0, "completed": 5})
        {'status': 'pulling', 'completed': 5}
        >>> progress.put_right({"status": "pulling", "total": 9, "completed": 2})
        {'status': 'pulling', 'total': 9, 'completed': 5}
        """
        right = {name: value for name, value in told.items() if name not in ("total", "completed")}
        right["status"] = str(told.get("status") or "")
        part = str(told.get("digest") or right["status"])
        total = max(_count(told.get("total")), self._totals.get(part, 0))
        completed = max(_count(told.get("completed")), self._completed.get(part, 0))
        if total:
            total = max(total, completed)
            right["total"] = self._totals[part] = total
        if total or completed:
            right["completed"] = self._completed[part] = completed
        return right


def _count(value: object) -> int:
    """A number of bytes; 0 for whatever is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
        return 0
    return int(value)

"""Server-sent events from bytes, cut at any place. Pure; knows nothing about what an event means.

Lines end at LF or CRLF only: a text may hold U+2028 and its like, which `str.splitlines` would take for an end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

EVENT_BYTES_MAX = 16 * 1024**2


class EventTooLarge(ValueError):
    """More bytes than any event of ours has, and still no end."""


class Events:
    """Takes bytes as they come, and gives the data of each event that is complete, and `b""` for each comment."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._held_bytes = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Raises `EventTooLarge`."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in (line.removesuffix(b"\r") for line in lines):
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
                self._held_bytes += len(line)
            elif line.startswith(b":"):
                yield b""
            elif not line and self._data:
                whole = b"\n".join(self._data)
                self._data, self._held_bytes = [], 0
                yield whole
        if self._held_bytes + len(self._rest) > EVENT_BYTES_MAX:
            raise EventTooLarge


def event_data(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each event, and `b""` for each comment, so that a caller sees signs of life.

    >>> list(event_data([b": hi\\n", b"\\ndata: a\\r\\nda", b"ta: b\\n\\ndata: lost"]))
    [b'', b'a\\nb']
    """
    events = Events()
    for piece in pieces:
        yield from events.feed(piece)

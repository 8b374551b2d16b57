"""Server-sent events from bytes, cut at any place. Pure; knows nothing about what an event means.

Lines end at LF or CRLF only: a text may hold U+2028 and its like, which `str.splitlines` would take for an end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

EVENT_BYTES_MAX = 16 * 1024**2


class EventTooLarge(ValueError):
    """More bytes than any event of ours has, and still no end."""


def event_data(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The data of each event, and `b""` for each comment, so that a caller sees signs of life.

    >>> list(event_data([b": hi\\n", b"\\ndata: a\\r\\nda", b"ta: b\\n\\ndata: lost"]))
    [b'', b'a\\nb']
    """
    rest = b""
    data: list[bytes] = []
    held_bytes = 0
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in (line.removesuffix(b"\r") for line in lines):
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
                held_bytes += len(line)
            elif line.startswith(b":"):
                yield b""
            elif not line and data:
                yield b"\n".join(data)
                data, held_bytes = [], 0
        if held_bytes + len(rest) > EVENT_BYTES_MAX:
            raise EventTooLarge

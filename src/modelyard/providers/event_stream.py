"""Splits a `text/event-stream` into the data of its events, wherever the bytes were cut on the way.

Lines may end in LF or CRLF. Comments and unknown fields are skipped. Knows nothing about what the data means.
"""

from __future__ import annotations

FRAME_BYTES_MAX = 4 * 1024 * 1024
EDGE_BYTES = 3  # of the four that end an event


class FrameTooLarge(ValueError):
    """One event is longer than any honest one."""


class EventSplitter:
    """Feed bytes as they arrive; get the data of every event that is complete."""

    __slots__ = ("_edge", "_frame_bytes_max", "_pieces", "_tail_bytes")

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._pieces: list[bytes] = []  # of the event that is not complete yet: joined once, however many there are
        self._tail_bytes = 0
        self._edge = b""  # the last bytes of them: the end of an event may be cut in two
        self._frame_bytes_max = frame_bytes_max

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that this piece completes, in order."""
        if not self._pieces and data.find(b"\n") == len(data) - 2 and data.endswith(b"\n\n") and b"\r" not in data:
            return [found] if (found := _data_of(data[:-2])) else []  # one event of one line: nearly always
        if b"\n\n" not in data and b"\n\n" not in (self._edge + data).replace(b"\r\n", b"\n"):
            self._keep(data)
            return []
        if self._pieces:
            data = b"".join([*self._pieces, data])
        if b"\r" in data:  # never part of JSON as sent: only line ends
            data = data.replace(b"\r\n", b"\n")
        *events, tail = data.split(b"\n\n")
        self._pieces, self._tail_bytes, self._edge = [], 0, b""
        self._keep(tail)
        return [found for event in events if (found := _data_of(event))]

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
        self._tail_bytes += len(piece)
        self._edge = (self._edge + piece)[-EDGE_BYTES:]
        if self._tail_bytes > self._frame_bytes_max:
            raise FrameTooLarge(f"an event is longer than {self._frame_bytes_max} bytes")

    @property
    def is_between_events(self) -> bool:
        """False when the stream was cut inside an event."""
        return all(piece.isspace() for piece in self._pieces)


def _data_of(event: bytes) -> bytes:
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    parts: list[bytes] = []
    for line in event.split(b"\n"):
        name, _colon, value = line.partition(b":")
        if name in (b"data", b"error"):  # older llama.cpp names the field of a failure `error`
            parts.append(value.removeprefix(b" "))
    return b"\n".join(parts)

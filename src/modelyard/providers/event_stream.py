"""Splits a `text/event-stream` into the data of its events, wherever the bytes were cut on the way.

Lines may end in LF or CRLF. Comments and unknown fields are skipped. Knows nothing about what the data means.
"""

from __future__ import annotations

FRAME_BYTES_MAX = 4 * 1024 * 1024


class FrameTooLarge(ValueError):
    """One event is longer than any honest one."""


class EventSplitter:
    """Feed bytes as they arrive; get the data of every event that is complete."""

    __slots__ = ("_frame_bytes_max", "_tail")

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._tail = b""
        self._frame_bytes_max = frame_bytes_max

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that this piece completes, in order."""
        if not self._tail and data.find(b"\n") == len(data) - 2 and data.endswith(b"\n\n") and b"\r" not in data:
            return [found] if (found := _data_of(data[:-2])) else []  # one event of one line: nearly always
        if self._tail:
            data = self._tail + data
        if b"\r" in data:  # never part of JSON as sent: only line ends
            data = data.replace(b"\r\n", b"\n")
        *events, self._tail = data.split(b"\n\n")
        if len(self._tail) > self._frame_bytes_max:
            raise FrameTooLarge(f"an event is longer than {self._frame_bytes_max} bytes")
        return [found for event in events if (found := _data_of(event))]

    @property
    def is_between_events(self) -> bool:
        """False when the stream was cut inside an event."""
        return not self._tail.strip()


def _data_of(event: bytes) -> bytes:
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    parts: list[bytes] = []
    for line in event.split(b"\n"):
        name, _colon, value = line.partition(b":")
        if name in (b"data", b"error"):  # older llama.cpp names the field of a failure `error`
            parts.append(value.removeprefix(b" "))
    return b"\n".join(parts)

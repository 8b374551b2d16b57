from __future__ import annotations

import sys
from types import FrameType

import pytest

from modelyard.providers.event_stream import EventSplitter, FrameTooLarge

STREAM = b': ping\n\ndata: {"a":1}\n\nevent: x\ndata: one\ndata: two\n\ndata:tight\n\n\n\ndata: [DONE]\n\n'
EVENTS = [b'{"a":1}', b"one\ntwo", b"tight", b"[DONE]"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_events_are_the_same_however_the_bytes_were_cut(line_end: bytes) -> None:
    stream = STREAM.replace(b"\n", line_end)

    for cut in range(len(stream) + 1):
        splitter = EventSplitter()
        assert splitter.feed(stream[:cut]) + splitter.feed(stream[cut:]) == EVENTS
        assert splitter.is_between_events


def test_events_arrive_byte_by_byte() -> None:
    splitter = EventSplitter()

    found = [event for at in range(len(STREAM)) for event in splitter.feed(STREAM[at : at + 1])]

    assert found == EVENTS


def test_an_event_in_many_pieces_is_put_together_once() -> None:
    event = b"data: " + b"\n".join([b"a" * 62] * 2000) + b"\n\n"
    splitter, joined = EventSplitter(), 0

    def see(_frame: FrameType, kind: str, function: object) -> None:
        nonlocal joined
        joined += kind == "c_call" and getattr(function, "__name__", "") == "join"

    sys.setprofile(see)
    try:
        for at in range(0, len(event), 64):
            splitter.feed(event[at : at + 64])
    finally:
        sys.setprofile(None)

    assert joined <= 2  # of the pieces, and of the lines


def test_an_event_without_an_end_is_refused_once_it_is_too_long() -> None:
    splitter = EventSplitter(frame_bytes_max=100)

    splitter.feed(b"data: " + b"a" * 80)

    with pytest.raises(FrameTooLarge):
        splitter.feed(b"a" * 80)


def test_a_cut_inside_an_event_is_noticed() -> None:
    splitter = EventSplitter()

    splitter.feed(b"data: half")

    assert not splitter.is_between_events

"""Events survive being cut at any byte."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.client import event_lines
from modelyard.client.event_lines import EventTooLarge, event_data

WIRE = b': hi\n\ndata: {"a": "\xe2\x80\xa8"}\n\nevent: x\r\ndata: 1\r\ndata: 2\r\n\r\ndata:[DONE]\n\n'
EVENTS = [b"", b'{"a": "\xe2\x80\xa8"}', b"1\n2", b"[DONE]"]


@given(st.sets(st.integers(0, len(WIRE))))
def test_events_do_not_depend_on_where_the_bytes_are_cut(cuts: set[int]) -> None:
    places = [0, *sorted(cuts), len(WIRE)]
    pieces = [WIRE[start:end] for start, end in itertools.pairwise(places)]

    assert list(event_data(pieces)) == EVENTS


def test_an_event_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_lines, "EVENT_BYTES_MAX", 100)

    with pytest.raises(EventTooLarge):
        list(event_data([b"data: " + b"x" * 50] * 3))

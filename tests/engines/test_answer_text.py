"""Tokens to text, stop strings, thinking and tool calls: the same whatever pieces a text comes in."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.engines.answer_text import Piece, Splitter, StopCutter, TokenText

WEATHER = frozenset(("weather",))
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Taipei"}}\n</tool_call>'


def decode(tokens: list[int]) -> str:
    """One token is one byte."""
    return bytes(tokens).decode(errors="replace")


def split(text: str, *, size: int, **how: object) -> list[Piece]:
    """The pieces, those of one kind in a row joined."""
    splitter = Splitter(**how)  # type: ignore[arg-type]
    found: list[Piece] = []
    for at in range(0, len(text), size):
        found += splitter.add(text[at : at + size])
    found += splitter.end()
    joined: list[Piece] = []
    for piece in found:
        before = joined.pop().text if joined and joined[-1].kind == piece.kind != "call" else ""
        joined.append(Piece(piece.kind, before + piece.text, piece.name))
    return joined


def told(tokens: Iterable[int]) -> list[str]:
    text = TokenText(decode)
    return [*(text.add([token]) for token in tokens), text.end()]


@given(st.text(max_size=60))
def test_the_pieces_are_the_whole_text(text: str) -> None:
    pieces = told(text.replace("\ufffd", "").encode(errors="ignore"))

    assert "".join(pieces) == text.encode(errors="ignore").decode().replace("\ufffd", "")
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_sign_is_withheld_until_it_is_whole() -> None:
    assert told("a€".encode()) == ["a", "", "", "€", ""]


def test_a_sign_that_is_never_finished_is_left_out_at_the_end() -> None:
    assert "".join(told("né".encode()[:-1])) == "n"


@given(st.binary(max_size=80))
def test_bytes_that_are_no_text_withhold_nothing_for_ever(noise: bytes) -> None:
    assert "".join(told([*noise, *b" the end"])).endswith(" the end")


@given(st.text("abST", max_size=40), st.lists(st.text("abST", min_size=1, max_size=4), max_size=3), st.integers(1, 5))
def test_a_text_ends_before_the_stop_string_that_is_complete_first(text: str, stops: list[str], size: int) -> None:
    cutter = StopCutter(stops)
    shown = ""
    for at in range(0, len(text), size):
        shown += cutter.add(text[at : at + size])
    shown += cutter.end()

    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert shown == (text[: min(ends)[1]] if ends else text)
    assert cutter.is_cut == bool(ends)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
class TestSplitting:
    """In pieces of any size."""

    def test_text_stays_text(self, size: int) -> None:
        text = "a < b and <b>bold</b>\n\n end \n"

        assert split(text, size=size, may_think=True, functions=WEATHER) == [Piece("text", text)]

    def test_thinking_is_told_from_text(self, size: int) -> None:
        found = split("<think>\nHm, well.\n</think>\n\nYes.", size=size, may_think=True)

        assert found == [Piece("reasoning", "Hm, well."), Piece("text", "Yes.")]

    def test_thinking_that_the_prompt_opened_needs_no_mark(self, size: int) -> None:
        found = split("Hm.\n</think>\n\nYes.", size=size, may_think=True, is_thinking=True)

        assert found == [Piece("reasoning", "Hm."), Piece("text", "Yes.")]

    def test_a_mark_in_the_middle_of_an_answer_is_text(self, size: int) -> None:
        text = "It writes <think> and then </think>."

        assert split(text, size=size, may_think=True) == [Piece("text", text)]

    def test_calls_are_told_from_text(self, size: int) -> None:
        found = split(f"Let me see.\n{CALL}\n{CALL}", size=size, functions=WEATHER)

        call = Piece("call", '{"city": "Taipei"}', "weather")
        assert found == [Piece("text", "Let me see."), call, call]

    @pytest.mark.parametrize(
        "text",
        [
            CALL.replace("weather", "rm"),
            '<tool_call>{"name": "weather", </tool_call>',
            '<tool_call>{"name": "weather"',
            "<tool_call>[]</tool_call>",
        ],
    )
    def test_what_calls_nothing_that_was_offered_stays_text(self, size: int, text: str) -> None:
        assert split(text, size=size, functions=WEATHER) == [Piece("text", text)]

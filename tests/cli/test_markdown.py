"""Answers drawn for a terminal: nothing is lost, nothing moves the cursor, and cuts make no difference."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.cli.markdown.inline import HOLD_CHARS_MAX, Inline
from modelyard.cli.markdown.stream import TABLE_CHARS_MAX, Markdown
from modelyard.cli.markdown.tables import CELLS_MAX
from modelyard.cli.widths import width

SGR = re.compile(r"\x1b\[[\d;]*m")
MARKUP = st.text(alphabet="ab 模型，é#*_`~>|-:[]()\\1.\n", max_size=300)
MARKS = (
    "",
    "# ",
    "### ",
    "- ",
    "* ",
    "+ ",
    "1. ",
    "12) ",
    "> ",
    ">",
    "```",
    "~~~",
    "|",
    "|-",
    " ",
    "    ",
    "\t",
    "  ",
    "---",
    "**",
)
WORDS = st.text(alphabet="ab 模，é*_`|>-#1.\t", max_size=12)
LINES = st.builds(lambda marks, words: "".join(marks) + words, st.lists(st.sampled_from(MARKS), max_size=5), WORDS)
ANSWERS = st.lists(LINES, max_size=12).map("\n".join)


def drawn(text: str, columns: int = 60) -> str:
    markdown = Markdown(columns)
    return markdown.feed(text) + markdown.end()


def bare(text: str) -> str:
    return SGR.sub("", text)


@given(MARKUP | ANSWERS, st.lists(st.integers(1, 12), min_size=1, max_size=60))
@settings(deadline=None, max_examples=500)
def test_where_an_answer_is_cut_makes_no_difference(text: str, cuts: list[int]) -> None:
    markdown, out, at, turn = Markdown(30), "", 0, 0
    while at < len(text):
        step = cuts[turn % len(cuts)]
        out += markdown.feed(text[at : at + step])
        at, turn = at + step, turn + 1

    assert out + markdown.end() == drawn(text, 30)


@pytest.mark.parametrize("pieces", [
    [">>", " deep"], ["> ", "> deep"], ["# ", "  title"], ["1. ", "  one"], [" " * 13, "  far in"],
    [" " * 13, "- no item"], [" " * 13, "| a |\n"], ["~~~ a", "`b\n"], ["\t", "- item"], ["-\t", " item"],
])  # fmt: skip
def test_a_mark_that_is_cut_off_from_its_text_is_the_same_mark(pieces: list[str]) -> None:
    markdown = Markdown(60)

    assert "".join(map(markdown.feed, pieces)) + markdown.end() == drawn("".join(pieces))


@given(MARKUP | ANSWERS)
@settings(deadline=None, max_examples=300)
def test_no_letter_is_lost(text: str) -> None:
    letters = [sign for sign in text if sign.isalnum()]
    shown = [sign for sign in bare(drawn(text)) if sign.isalnum()]

    if "|" not in text and "](" not in text:
        assert shown == letters
    elif "](" not in text:  # a narrow table repeats its head, which may put letters between others
        assert not Counter(letters) - Counter(shown)


@pytest.mark.parametrize("columns", [20, 60])
def test_cells_without_a_name_are_shown_too(columns: int) -> None:
    words = bare(drawn("| a |\n|---|\n| b | " + "long " * 5 + "|\n", columns)).split()

    assert [word for word in words if word.isalpha()][-6:] == ["b", *["long"] * 5]


@given(MARKUP | ANSWERS, st.integers(20, 80))
@settings(deadline=None, max_examples=300)
def test_no_line_is_wider_than_the_window_but_code_and_tables(text: str, columns: int) -> None:
    if "`" in text or "~" in text:
        return
    text = text.replace("|", "")

    assert all(width(line) <= columns for line in bare(drawn(text, columns)).split("\n"))


@given(MARKUP)
@settings(deadline=None, max_examples=200)
def test_only_colours_are_sent_to_the_terminal_and_they_end(text: str) -> None:
    out = drawn(text)

    assert "\x1b" not in bare(out)
    assert out.count("\x1b[0m") == len(SGR.findall(out)) / 2


@pytest.mark.parametrize(("text", "shown"), [
    ("**bold** and *leaning*", "\x1b[1mbold\x1b[0m and \x1b[3mleaning\x1b[0m\n"),
    ("`a*b*c`", "\x1b[36ma*b*c\x1b[0m\n"),
    ("~~gone~~", "\x1b[9mgone\x1b[0m\n"),
    ("2 * 3 * 4", "2 * 3 * 4\n"),
    ("snake_case_name", "snake_case_name\n"),
    (r"\*not\*", "*not*\n"),
    ("**never closed", "**never closed\n"),
    ("[docs](http://a.b)", "\x1b[4mdocs\x1b[0m \x1b[2m(http://a.b)\x1b[0m\n"),
    ("[1] and (2)", "[1] and (2)\n"),
    ("# Title", "\x1b[1;4mTitle\x1b[0m\n"),
    ("#hashtag", "#hashtag\n"),
    ("- a\n- b", "• a\n• b\n"),
    ("10. ten", "10. ten\n"),
    ("> said", "\x1b[2m│ \x1b[0msaid\n"),
    ("one\ntwo", "one\ntwo\n"),
    ("a\n\nb", "a\n\nb\n"),
])  # fmt: skip
def test_marks_are_drawn_and_look_alikes_stay(text: str, shown: str) -> None:
    assert drawn(text) == shown


def test_code_is_neither_changed_nor_wrapped_and_can_be_copied() -> None:
    code = 'def f():  # *not* marked\n    return "x" * 200 + "' + "y" * 100 + '"\n'
    markdown = Markdown(30)

    out = markdown.feed(f"Look:\n```python\n{code}```\nDone") + markdown.end()

    assert code in out
    assert markdown.blocks == [code]
    assert bare(out).endswith("```\nDone\n")


def test_code_comes_as_it_is_written_and_not_line_by_line() -> None:
    markdown = Markdown(60)
    markdown.feed("```\n")

    assert markdown.feed("x = 1 + ") == "x = 1 + "


def test_a_word_is_shown_as_soon_as_it_has_ended() -> None:
    markdown = Markdown(60)

    assert markdown.feed("Hello wor") == "Hello"
    assert markdown.feed("ld and") == " world"


def test_columns_of_a_table_line_up_in_wide_characters_too() -> None:
    out = bare(drawn("| 模型 | 大小 |\n|:--|--:|\n| llama3.1:8b | 4.9 GB |\n| 通義千問 | 20 GB |\n"))

    lines = [line for line in out.split("\n") if line]
    assert [line.rstrip()[-2:] for line in lines[2:]] == ["GB", "GB"]
    assert {width(line) for line in lines} == {width(lines[0])}


def test_a_table_too_wide_for_the_window_is_told_cell_by_cell() -> None:
    out = bare(drawn("| name | what it says |\n|---|---|\n| a | " + "long words " * 5 + "|\n", 30))

    assert out.startswith("name: a\nwhat it says: long words")


def test_lines_that_only_look_like_a_table_stay_as_they_are() -> None:
    assert drawn("| a | b\n| c | d\n") == "| a | b\n| c | d\n"


def test_a_table_without_an_end_is_shown_raw_at_last() -> None:
    row = "| a | b |\n"
    count = TABLE_CHARS_MAX // len(row) * 2

    assert drawn("| x | y |\n|---|---|\n" + row * count).count(row) == count


def test_chinese_is_broken_between_characters_and_no_line_begins_with_a_full_stop() -> None:
    lines = bare(drawn("模型可以載入記憶體。" * 6, 22)).strip().split("\n")

    assert all(width(line) <= 22 for line in lines)
    assert not any(line.startswith("。") for line in lines)


@pytest.mark.parametrize("hostile", [
    "```" + "x" * 50_000, "~~~" + "`" * 50_000, ">" * 50_000, "> " * 25_000, " " * 50_000, "-" * 50_000, "1" * 50_000,
    "#" * 50_000, "\t" * 50_000, "**" + "x" * 50_000, "[" + "x" * 50_000, "`" + "x" * 50_000, "x" * 50_000,
    "```\n" + "`" * 50_000, "```\n" + " " * 50_000, "[](" * 17_000, "\\" * 50_000,
])  # fmt: skip
def test_a_line_without_an_end_is_not_gathered(hostile: str) -> None:
    markdown = Markdown(80)
    waiting = 0
    for at in range(0, len(hostile), 50):
        markdown.feed(hostile[at : at + 50])
        inline, wrapping = markdown._line or (None, None)
        waiting = max(waiting, len(markdown._held), len(inline._pending) if inline else 0)
        assert wrapping is None or wrapping._word_width <= 80

    assert waiting <= HOLD_CHARS_MAX + 100


@pytest.mark.parametrize("hostile", [
    ">" * 4000 + " " + "w " * 4000,
    "|a\n|" + "-|" * 4000 + "\n" + "|\n" * 4000,
    "|" + "head" * 2000 + "\n|-\n" + "|x\n" * 3000,
    "- " * 4000 + "\n" + "- x\n" * 4000,
])  # fmt: skip
def test_little_text_does_not_become_much(hostile: str) -> None:
    assert len(drawn(hostile, 40)) < 10 * len(hostile)


def test_a_table_of_too_many_cells_is_shown_as_it_was_written() -> None:
    text = "|a\n|" + "-|" * 200 + "\n" + "|x\n" * (CELLS_MAX // 200)

    assert drawn(text) == text


@pytest.mark.parametrize(
    ("sign", "columns"), [("👍🏽", 2), ("👩\u200d⚕\ufe0f", 2), ("각", 2), ("a\u200bb", 2), ("🇹🇼", 2)]
)
def test_signs_that_are_put_together_take_the_room_of_one(sign: str, columns: int) -> None:
    assert width(sign) == columns
    first, rule, second = bare(drawn(f"|{sign}|b|\n|-|-|\n|ab|c|\n")).splitlines()
    assert width(first) == width(rule) == width(second)


def test_an_emoji_made_of_several_is_never_broken() -> None:
    family = "👨\u200d👩\u200d👧"

    lines = bare(drawn(family * 30, 20)).strip().split("\n")

    assert len(lines) == 3
    assert set("".join(lines).split(family)) == {""}
    assert all(line.startswith("👨") for line in lines)


def test_no_line_ends_with_an_opening_mark() -> None:
    lines = bare(drawn("文「" * 20, 20)).strip().split("\n")

    assert not any(line.endswith("「") for line in lines[:-1])


@pytest.mark.parametrize("hostile", ["`" * 20_000, "*a " * 20_000, "[" * 20_000, "x" * 1_000_000, "**`" * 20_000])
def test_hostile_lines_cost_a_bounded_look_ahead(hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    span = Inline._span

    def counting(self: Inline, text: str, at: int, *, is_end: bool) -> object:
        looked.append(min(len(text) - at, HOLD_CHARS_MAX))
        return span(self, text, at, is_end=is_end)

    monkeypatch.setattr(Inline, "_span", counting)
    markdown = Markdown(80)
    out = "".join(markdown.feed(hostile[at : at + 7]) for at in range(0, min(len(hostile), 50_000), 7)) + markdown.end()

    assert out
    assert len(looked) <= 4 * len(hostile)

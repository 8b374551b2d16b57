"""What an answer looks like at a real terminal, in each environment, and what a pipe gets of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from modelyard.cli.answering import stream_answer
from modelyard.cli.markdown.stream import Markdown, code_blocks
from modelyard.cli.session import Session
from modelyard.cli.terminal import Terminal
from modelyard.cli.widths import width
from modelyard.testing import FakeOpenAI, Script
from modelyard.types.chat import Message
from tests.cli.conftest import EMPTY, run, typed_terminal
from tests.cli.fake_node import served

SGR = re.compile(r"\x1b\[[\d;]*m")
MARKED = ("# Ti", "tle\n", "**bo", "ld** and\n", "```py\nx = 1\n```\n", "| a | b |\n|---|---|\n| 模型 | 2 |\n")
BOLD, RESET = "\x1b[1m", "\x1b[0m"


@contextmanager
def node(script: Script) -> Iterator[FakeOpenAI]:
    with served(FakeOpenAI(["m"])) as fake:
        fake.play(script)
        yield fake


def seen(*words: str, columns: int = 60, code: int = 0, environment: Mapping[str, str] = EMPTY) -> str:
    """All that a command writes to a terminal."""
    with typed_terminal(*words, columns=columns, environment=environment) as terminal:
        assert terminal.exit_code() == code, terminal.seen
        return terminal.seen


def lines(text: str) -> list[str]:
    """What stays on the screen: no colours, and no line that another took the place of."""
    return [SGR.sub("", line).rpartition("\x1b[K")[2] for line in text.replace("\r\n", "\n").split("\n")]


@pytest.mark.parametrize(("environment", "is_coloured"), [
    ({}, True),
    ({"NO_COLOR": "1", "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}, False),
    ({"NO_COLOR": ""}, False),
    ({"CLICOLOR": "0"}, False),
    ({"CLICOLOR": "0", "FORCE_COLOR": "1"}, True),
    ({"TERM": "dumb"}, False),
    ({"TTY_COMPATIBLE": "0"}, False),
    ({"TTY_INTERACTIVE": "0"}, False),
    ({"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "0"}, True),
])  # fmt: skip
def test_who_wants_no_colours_gets_none(environment: dict[str, str], is_coloured: bool) -> None:
    with node(Script(tokens=MARKED)) as fake:
        out = seen("list", "--url", fake.url, environment=environment)

    assert bool(SGR.search(out)) == is_coloured
    assert "NAME" in out


@pytest.mark.parametrize(("environment", "is_coloured"), [
    ({}, False), ({"FORCE_COLOR": "1"}, True), ({"TTY_COMPATIBLE": "1"}, True),
    ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False), ({"FORCE_COLOR": "0"}, False),
])  # fmt: skip
def test_a_pipe_gets_colours_only_if_they_are_asked_for(
    environment: dict[str, str], is_coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with node(Script()) as fake:
        out = run("list", "--url", fake.url).stdout

    assert bool(SGR.search(out)) == is_coloured


def test_a_pipe_gets_what_the_model_said_and_nothing_of_what_it_thought() -> None:
    with node(Script(tokens=MARKED, thinking="Hm.")) as fake:
        result = run("ask", "-m", "m", "--url", fake.url, "hi")

    assert result.stdout == "".join(MARKED)
    assert result.stderr == ""


def test_a_person_gets_it_drawn() -> None:
    with node(Script(tokens=MARKED)) as fake:
        out = seen("ask", "-m", "m", "--url", fake.url, "hi")

    assert f"{BOLD}bold{RESET} and" in out
    assert lines(out)[-9:] == ["Title", "bold and", "```py", "x = 1", "```", "a     b", "────  ─", "模型  2", ""]


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TTY_INTERACTIVE": "0"}])
def test_without_colours_an_answer_stays_as_it_is(environment: dict[str, str]) -> None:
    with node(Script(tokens=MARKED)) as fake:
        out = seen("ask", "-m", "m", "--url", fake.url, "hi", environment=environment)

    assert SGR.sub("", out).replace("\r\n", "\n").endswith("".join(MARKED))
    if "NO_COLOR" not in environment:
        assert "\x1b" not in out  # no line that changes either


@pytest.mark.parametrize(("columns", "told"), [(20, ""), (90, "25")])
def test_no_line_of_a_text_is_wider_than_the_window(columns: int, told: str) -> None:
    text = "- " + "some words and 一些中文字 " * 9
    environment = {"COLUMNS": told} if told else {}
    with node(Script(tokens=tuple(text))) as fake:
        out = seen("ask", "-m", "m", "--url", fake.url, "hi", columns=columns, environment=environment)

    room = int(told or columns)
    assert max(map(width, lines(out))) in (room, room - 1)


def test_a_window_that_changes_counts_from_the_next_line_on() -> None:
    markdown = Markdown(60)

    wide = markdown.feed("word " * 20 + "\n")
    markdown.resize(20)
    narrow = markdown.feed("word " * 20 + "\n")

    assert max(map(width, wide.split("\n"))) == 59
    assert max(map(width, narrow.split("\n"))) == 19


def test_ctrl_c_ends_the_line_and_the_colours_and_marks_the_answer() -> None:
    with (
        node(Script(tokens=("# Ti", "tle\n", "said and **half"), stall_after=3)) as fake,
        typed_terminal("ask", "-m", "m", "--url", fake.url, "hi", columns=60) as terminal,
    ):
        terminal.wait_for("said")
        terminal.type("\x03")
        assert terminal.exit_code() == 130
        out = terminal.seen

    # The terminal itself shows the key; what was held back is shown.
    assert lines(out.replace("^C", ""))[-3:-1] == [" and **half", "(the answer is incomplete)"]
    assert RESET in out
    assert "Traceback" not in out


@pytest.mark.parametrize(("thinking", "words", "shown"), [
    ("Hm, well.", (), ["Thinking: Hm, well.", "", "Yes."]),
    ("Hm, well.\n", (), ["Thinking: Hm, well.", "", "Yes."]),
    ("Hm, well.", ("--no-think",), ["Yes."]),
])  # fmt: skip
def test_what_a_model_thinks_stands_dim_before_its_answer(
    thinking: str, words: tuple[str, ...], shown: list[str]
) -> None:
    with node(Script(tokens=("Yes.",), thinking=thinking)) as fake:
        out = seen("ask", "-m", "m", "--url", fake.url, *words, "hi")

    assert lines(out)[-len(shown) - 1 :] == [*shown, ""]
    assert ("\x1b[2mHm, well." in out) == (not words)


def test_nothing_an_answer_or_a_thought_holds_acts_on_the_terminal() -> None:
    hostile = "a\x1b[2Jb\x1b]0;t\x07c\x9b5mA\rd\x08"
    with node(Script(tokens=(*hostile, "\n```\n", *hostile, "\n"), thinking=hostile)) as fake:
        out = seen("ask", "-m", "m", "--url", fake.url, "hi")

    rest = SGR.sub("", out).replace("\r\x1b[K", "").replace("\r\n", "\n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", rest)
    assert rest.count("[2J") == 3


def test_blocks_of_code_can_be_copied_without_colours_too() -> None:
    assert code_blocks("So:\n```py\nx = 1\n```\nand\n~~~\ny\n") == ["x = 1\n", "y\n"]
    session = Session(Terminal("en", {"NO_COLOR": "1"}), {})
    with node(Script(tokens=MARKED)) as fake, session.client(fake.url) as client:
        answer = stream_answer(session, client, "m", [Message("user", "hi")], {})

    assert (answer.text, code_blocks(answer.text)) == ("".join(MARKED), ["x = 1\n"])

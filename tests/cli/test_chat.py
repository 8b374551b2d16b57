"""A conversation, from a pipe and at a terminal."""

from __future__ import annotations

import os

import pytest

from tests.cli.conftest import run, typed_terminal
from tests.client.yard_server import DEADLINE_S, MODELS, YardServer

pytestmark = pytest.mark.usefixtures("server")


def messages(server: YardServer) -> object:
    return server.seen[-1][2]["messages"]


def test_each_line_is_a_question_and_turns_are_kept(server: YardServer) -> None:
    result = run("chat", "good", "--system", "s", text="first\n\nsecond\n")

    assert result.stdout == "one\u2028 two 三\n" * 2
    assert messages(server) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "one\u2028 two 三"},
        {"role": "user", "content": "second"},
    ]


def test_a_conversation_can_be_forgotten(server: YardServer) -> None:
    run("chat", "good", text="first\n/clear\nsecond\n")

    assert messages(server) == [{"role": "user", "content": "second"}]


def test_the_last_question_can_be_asked_again(server: YardServer) -> None:
    run("chat", "good", text="first\n/retry\n")

    assert messages(server) == [{"role": "user", "content": "first"}]
    assert len(server.seen) == 2


def test_bye_ends_the_conversation(server: YardServer) -> None:
    result = run("chat", "good", text="/bye\nnever asked\n")

    assert result.exit_code == 0
    assert server.seen == []


def test_commands_answer_beside_the_conversation() -> None:
    result = run("chat", "good", text="/?\n/list\n/ps\n/model\n/nonsense\n")

    assert result.stdout == ""
    for words in ("/retry", "llamacpp", "forever", "Talking to good", "no command /nonsense"):
        assert words in result.stderr


def test_another_model_takes_over_if_there_is_one(server: YardServer) -> None:
    result = run("chat", "good", text="/model absent\n/model foreign\nhi\n")

    assert "no model named absent" in result.stderr
    assert "Now talking to foreign" in result.stderr
    assert server.seen[-1][2]["model"] == "foreign"


def test_a_damaged_model_is_refused_before_the_first_question(server: YardServer) -> None:
    result = run("chat", "模型", text="hi\n")

    assert result.exit_code == 1
    assert "the file is cut" in result.stderr
    assert server.seen == []


def test_a_failed_answer_from_a_pipe_shows_in_the_exit_code(
    server: YardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS[2], "id", "full")

    result = run("chat", "full", text="hi\n/bye\n")

    assert result.exit_code == 6
    assert "9.0 GiB" in result.stderr
    assert server.seen[-1][2]["model"] == "full"


def test_ctrl_c_stops_the_answer_keeps_it_and_returns_to_the_prompt(
    server: YardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS[2], "id", "slow")
    with typed_terminal("chat", "slow") as terminal:
        terminal.wait_for(">>>")
        terminal.type("count\r")
        terminal.wait_for("one")
        terminal.type("\x03")
        terminal.wait_for("(interrupted)")
        assert server.left.wait(DEADLINE_S)
        terminal.wait_for(">>>")
        server.speaking.clear()
        terminal.type("go on\r")
        terminal.wait_for("one")
        terminal.type("\x03")
        terminal.wait_for(">>>")
        terminal.type("/bye\r")

        assert terminal.exit_code() == 0
    assert messages(server) == [
        {"role": "user", "content": "count"},
        {"role": "assistant", "content": "one\u2028 "},
        {"role": "user", "content": "go on"},
    ]


def test_pasted_lines_are_one_question(server: YardServer) -> None:
    with typed_terminal("chat", "good") as terminal:
        terminal.wait_for(">>>")
        terminal.type("\x1b[200~first\nsecond\x1b[201~")
        terminal.type("\r")
        terminal.wait_for("two")
        terminal.wait_for(">>>")
        terminal.type("\x04")

        assert terminal.exit_code() == 0
    assert messages(server) == [{"role": "user", "content": "first\nsecond"}]


@pytest.mark.parametrize(("words", "kept"), [((), True), (("--no-history",), False)])
def test_history_is_private_and_can_be_off(words: tuple[str, ...], kept: bool) -> None:
    with typed_terminal("chat", "good", *words) as terminal:
        terminal.wait_for(">>>")
        terminal.type("remember me\r")
        terminal.wait_for("two")
        terminal.wait_for(">>>")
        terminal.type(" but not me\r")
        terminal.wait_for("two")
        terminal.wait_for(">>>")
        terminal.type("\x04")
        assert terminal.exit_code() == 0

    path = os.path.expanduser("~/.local/state/modelyard/chat_history")

    assert os.path.exists(path) == kept
    if kept:
        assert os.stat(path).st_mode & 0o777 == 0o600
        with open(path, encoding="utf-8") as stream:
            history = stream.read()
        assert "remember me" in history
        assert "but not me" not in history

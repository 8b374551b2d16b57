"""A conversation, from a pipe and at a terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from modelyard.testing import FakeOpenAI
from tests.cli.conftest import TypedTerminal, run, typed_terminal
from tests.cli.fake_node import served
from tests.client.yard_server import DEADLINE_S, MODELS, YardServer

pytestmark = pytest.mark.usefixtures("server")


def messages(server: YardServer) -> object:
    return server.seen[-1][2]["messages"]


def sent(server: YardServer) -> list[dict[str, str]]:
    found: list[dict[str, str]] = server.seen[-1][2]["messages"]  # type: ignore[assignment]
    return found


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


@pytest.mark.parametrize(
    ("named", "answer"), [((), "Hello from a fake.\n"), (("m",), "Hello from a fake.\n"), (("other",), "")]
)
def test_a_server_that_only_lists_its_models_is_talked_to(named: tuple[str, ...], answer: str) -> None:
    with served(FakeOpenAI(["m"])) as node:
        result = run("chat", *named, "--url", node.url, text="hi\n")

    assert result.stdout == answer
    assert (result.exit_code == 0) == bool(answer)


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


def say(terminal: TypedTerminal, *lines: str) -> None:
    """Ask, and wait until each is answered."""
    for line in lines:
        terminal.type(f"{line}\r")
        terminal.wait_for("two")
        terminal.wait_for(">>>")


def leave(terminal: TypedTerminal) -> None:
    terminal.type("\x04")
    assert terminal.exit_code() == 0


def kept() -> list[list[str]]:
    """The questions of each conversation that is kept, the newest first."""
    listed = json.loads(run("chat", "--list", "-o", "json").stdout)["conversations"]
    told = [json.loads(run("chat", "--export", one["id"], "-o", "json").stdout) for one in listed]
    return [[turn["question"] for turn in one["turns"]] for one in told]


def test_what_is_said_between_nohistory_and_history_is_written_nowhere() -> None:
    with typed_terminal("chat", "good") as terminal:
        terminal.wait_for(">>>")
        say(terminal, "open one")
        terminal.type("/set nohistory\r")
        terminal.wait_for("Set.")
        terminal.wait_for(">>>")
        say(terminal, "hidden")
        terminal.type("/set history\r")
        terminal.wait_for("Set.")
        terminal.wait_for(">>>")
        say(terminal, "open two")
        leave(terminal)

    assert kept() == [["open two"], ["open one"]]
    files = [path for path in Path.home().rglob("*") if path.is_file()]
    assert len(files) >= 2
    assert not [path for path in files if b"hidden" in path.read_bytes()]


def test_a_kept_conversation_is_gone_on_with_in_private(server: YardServer) -> None:
    with typed_terminal("chat", "good") as terminal:
        terminal.wait_for(">>>")
        say(terminal, "open")
        leave(terminal)
    with typed_terminal("chat", "-c", "--no-history") as terminal:
        terminal.wait_for("Going on with open.")
        terminal.wait_for(">>>")
        say(terminal, "hidden")
        leave(terminal)

    assert [turn["content"] for turn in sent(server) if turn["role"] == "user"] == ["open", "hidden"]
    assert kept() == [["open"]]


def test_two_chats_that_go_on_with_one_conversation_lose_nothing() -> None:
    with typed_terminal("chat", "good") as terminal:
        terminal.wait_for(">>>")
        say(terminal, "both")
        leave(terminal)
    with typed_terminal("chat", "-c") as one, typed_terminal("chat", "-c") as other:
        one.wait_for("Going on")
        one.wait_for(">>>")
        other.wait_for("Going on")
        other.wait_for(">>>")
        say(one, "one", "two")
        other.type("three\r")
        other.wait_for("this one is kept as")
        other.wait_for(">>>")
        say(other, "four")
        say(one, "five")
        leave(one)
        leave(other)

    assert kept() == [["both", "one", "two", "five"], ["both", "three", "four"]]


def test_a_conversation_that_is_deleted_meanwhile_does_not_come_back() -> None:
    with typed_terminal("chat", "good") as terminal:
        terminal.wait_for(">>>")
        say(terminal, "first")
        assert run("chat", "--delete", "all", "--yes").exit_code == 0
        terminal.type("second\r")
        terminal.wait_for("was deleted elsewhere")
        terminal.wait_for(">>>")
        say(terminal, "third")
        leave(terminal)

    assert kept() == []


def test_a_chat_that_is_killed_in_mid_answer_keeps_what_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS[2], "id", "slow")
    with typed_terminal("chat", "good") as terminal:
        terminal.wait_for(">>>")
        say(terminal, "first", "second")
        terminal.type("/model slow\r")
        terminal.wait_for("Now talking")
        terminal.wait_for(">>>")
        terminal.type("third\r")
        terminal.wait_for("one")  # and it is killed at the end of this block

    assert kept() == [["first", "second"]]


def test_conversations_that_cannot_be_read_are_said_to_be_so_and_the_chat_goes_on(server: YardServer) -> None:
    path = Path.home() / ".local" / "share" / "modelyard" / "conversations.db"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"this is no database at all, and long enough to be read")
    with typed_terminal("chat", "good") as terminal:
        terminal.wait_for("conversations.db cannot be used")
        terminal.wait_for(">>>")
        say(terminal, "hello")
        leave(terminal)

    assert sent(server) == [{"role": "user", "content": "hello"}]
    assert path.read_bytes() == b"this is no database at all, and long enough to be read"


def test_an_exported_conversation_moves_no_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS[2], "id", "code")
    with typed_terminal("chat", "code") as terminal:
        terminal.wait_for(">>>")
        say(terminal, "hi")
        leave(terminal)
    with typed_terminal("chat", "--export", "last") as terminal:
        terminal.wait_for("rm \N{REPLACEMENT CHARACTER}")
        assert terminal.exit_code() == 0
        assert "\x1b" not in terminal.before

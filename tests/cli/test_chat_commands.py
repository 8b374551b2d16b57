"""What each command of a chat does, seen in the next request or on the screen."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modelyard.cli.chat.setting import PARAMETERS
from modelyard.cli.chat.slash import ALIASES, TABLE
from tests.cli.conftest import run, typed_terminal
from tests.client.yard_server import MODELS, YardServer

pytestmark = pytest.mark.usefixtures("server")
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def body(server: YardServer) -> dict[str, object]:
    found: dict[str, object] = server.seen[-1][2]
    return found


def chat(*lines: str) -> str:
    return run("chat", "good", text="\n".join(lines) + "\n").stderr


@pytest.mark.parametrize(("line", "member", "value"), [
    ("/set parameter temperature 0.5", "temperature", 0.5),
    ("/set parameter num_predict 9", "max_tokens", 9),
    ("/set parameter stop END", "stop", "END"),
    ("/set format json", "response_format", {"type": "json_object"}),
    ("/set nothink", "reasoning_effort", "none"),
    ("/set think", "reasoning_effort", "medium"),
    ("/set system Be brief.", "messages",
     [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]),
])  # fmt: skip
def test_a_setting_counts_from_the_next_question_on(server: YardServer, line: str, member: str, value: object) -> None:
    chat(line, "hi")

    assert body(server)[member] == value


@pytest.mark.parametrize(
    "line", ["/set parameter nothing 1", "/set parameter temperature hot", "/set parameter num_ctx 9"]
)
def test_a_setting_that_cannot_be_is_said_to_be_none_and_the_chat_goes_on(server: YardServer, line: str) -> None:
    words = chat(line, "hi")

    assert "modelyard:" in words
    assert not {"temperature", "nothing", "num_ctx"} & body(server).keys()


def test_settings_are_listed(server: YardServer) -> None:
    words = chat("/set")

    assert all(name in words for name in PARAMETERS)


def test_a_turn_is_taken_back(server: YardServer) -> None:
    chat("first", "/undo", "second")

    assert body(server)["messages"] == [{"role": "user", "content": "second"}]


def test_a_picture_goes_with_the_next_question_and_only_with_it(server: YardServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    chat(f"/image {tmp_path / 'a.png'}", "what is it?")

    assert body(server)["messages"] == [{
        "role": "user",
        "content": [
            {"type": "text", "text": "what is it?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(PNG).decode()}},
        ],
    }]  # fmt: skip


@pytest.mark.parametrize("name", ["absent.png", "text.png", "."])
def test_what_is_no_picture_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.png").write_text("not a picture")

    assert "modelyard:" in chat(f"/image {tmp_path / name}")


def test_the_last_error_is_explained_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS[2], "id", "full")

    words = run("chat", "full", text="hi\n/why\n").stderr

    assert "code: insufficient_memory" in words


def test_a_path_is_no_command(server: YardServer) -> None:
    chat("/usr/lib is what?")

    assert body(server)["messages"] == [{"role": "user", "content": "/usr/lib is what?"}]


def test_a_mistyped_command_finds_its_neighbour() -> None:
    assert "did you mean /retry?" in chat("/rety")


@pytest.mark.parametrize(
    "line",
    [
        "/stats",
        "/why",
        "/next",
        "/? shortcuts",
        "/copy",
        "/export",
        "/save x",
        "/retry",
        "/undo",
        "/show system",
        "/image",
    ],
)
def test_a_command_with_nothing_to_work_on_says_so(line: str) -> None:
    assert chat(line).strip()


def test_help_and_the_documentation_name_every_command() -> None:
    words = chat("/?")
    page = (Path(__file__).parents[2] / "docs" / "terminal.md").read_text()
    documented = set(re.findall(r"^\| `(/[^` ]*)", page, re.MULTILINE))

    assert all(one.name in words for one in TABLE)
    assert documented == {one.name for one in TABLE}
    assert all(f"`{alias}`" in page for alias in ALIASES)


def test_a_conversation_is_gone_on_with(server: YardServer) -> None:
    with typed_terminal("chat", "good") as terminal:
        terminal.wait_for(">>>")
        terminal.type("first\r")
        terminal.wait_for("two")
        terminal.wait_for(">>>")
        terminal.type("\x04")
        assert terminal.exit_code() == 0
    with typed_terminal("chat", "-c") as terminal:
        terminal.wait_for("Going on with first.")
        terminal.wait_for(">>>")
        terminal.type("second\r")
        terminal.wait_for("two")
        terminal.wait_for(">>>")
        terminal.type("\x04")
        assert terminal.exit_code() == 0

    sent = body(server)["messages"]
    assert isinstance(sent, list)
    assert [turn["content"] for turn in sent if turn["role"] == "user"] == ["first", "second"]


def test_several_lines_stand_between_three_quotes(server: YardServer) -> None:
    with typed_terminal("chat", "good") as terminal:
        terminal.wait_for(">>>")
        terminal.type('"""one\r')
        terminal.wait_for("...")
        terminal.type('two"""\r')
        terminal.wait_for("two")
        terminal.wait_for(">>>")
        terminal.type("\x04")
        assert terminal.exit_code() == 0

    assert body(server)["messages"] == [{"role": "user", "content": "one\ntwo"}]


def questions(server: YardServer) -> list[list[object]]:
    """What the person says, in each request so far."""
    bodies = [told for _method, path, told in server.seen if path.endswith("/completions")]
    found = []
    for told in bodies:
        turns = told["messages"]
        assert isinstance(turns, list)
        found.append([turn["content"] for turn in turns if turn["role"] == "user"])
    return found


def with_picture(path: Path) -> list[str]:
    path.write_bytes(PNG)
    return [f"/image {path}", "what is it?"]


def test_a_question_that_failed_is_the_one_that_is_asked_again(
    server: YardServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS[2], "id", "full")
    chat("first", "/model full", "second", "/model good", "/retry", "third")

    assert questions(server) == [
        ["first"], ["first", "second"], ["first", "second"], ["first", "second", "third"],
    ]  # fmt: skip


def test_an_answer_stays_until_there_is_another(server: YardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS[2], "id", "full")
    chat("first", "/model full", "/retry", "/model good", "next")

    assert questions(server)[-1] == ["first", "next"]


def test_a_picture_is_remembered_with_its_question_but_not_forced_on_who_sees_none(
    server: YardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS[0]["modelyard"], "capabilities", ["chat", "images"])  # type: ignore[arg-type]
    monkeypatch.setitem(MODELS[2], "id", "blind")
    monkeypatch.setitem(MODELS[2], "modelyard", {"capabilities": ["chat"]})
    chat(*with_picture(tmp_path / "a.png"), "and now?", "/model blind", "and you?")

    assert [type(question) for question in questions(server)[1]] == [list, str]
    assert questions(server)[2] == ["what is it?", "and now?", "and you?"]


def test_a_picture_that_failed_does_not_stick_to_the_next_question_but_goes_with_the_same_one(
    server: YardServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODELS[2], "id", "full")
    lines = ["/model full", *with_picture(tmp_path / "a.png"), "/retry", "/model good", "hello"]
    chat(*lines)

    assert [type(asked[0]) for asked in questions(server)] == [list, list, str]


@pytest.mark.parametrize("line", [f"/{'a' * 5000}", "/* a comment */", "//", "/a\0b"])
def test_what_cannot_be_a_command_is_a_question(server: YardServer, line: str) -> None:
    chat(line)

    assert questions(server) == [[line]]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_that_are_none_are_refused(server: YardServer, value: str) -> None:
    words = chat(f"/set parameter temperature {value}", "hi")

    assert f"{value} is no value for temperature" in words
    assert questions(server) == [["hi"]]


def test_an_editor_that_is_missing_ends_no_chat(server: YardServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISUAL", "/nowhere/editor")
    words = chat("/edit", "hi")

    assert "The editor failed" in words
    assert questions(server) == [["hi"]]


def test_bytes_that_are_no_text_end_no_chat(server: YardServer) -> None:
    command = [sys.executable, "-m", "modelyard.cli", "chat", "good"]
    result = subprocess.run(command, input=b"\xff\nhi\n", capture_output=True, check=False)

    assert result.returncode == 0
    assert questions(server)[-1] == ["\N{REPLACEMENT CHARACTER}", "hi"]


def test_a_prompt_that_is_too_long_is_said_with_its_counts_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS[2], "id", "long")
    words = run("chat", "long", text="hi\n").stderr

    assert "9,000 tokens" in words
    assert "/undo" in words
    assert "/clear" in words


def test_a_chat_that_is_not_kept_can_be_exported(tmp_path: Path) -> None:
    chat("hello", f"/export {tmp_path / 'a.json'}")

    told = json.loads((tmp_path / "a.json").read_text())
    assert [turn["question"] for turn in told["turns"]] == ["hello"]
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o600


def test_nothing_is_said_to_be_copied_where_no_terminal_takes_it() -> None:
    assert "Copied" not in chat("hello", "/copy")
    assert "no terminal" in chat("hello", "/copy")


def test_a_block_of_code_goes_to_the_clipboard_without_keys_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS[2], "id", "code")
    with typed_terminal("chat", "code") as terminal:
        terminal.wait_for(">>>")
        terminal.type("hi\r")
        terminal.wait_for(">>>")
        terminal.type("/set nowordwrap\r")
        terminal.wait_for("Set.")
        terminal.wait_for(">>>")
        terminal.type("/copy 2\r")
        terminal.wait_for("\x1b]52;c;")
        terminal.wait_for("\x07")
        copied = terminal.before
        terminal.wait_for(">>>")
        terminal.type("\x04")
        assert terminal.exit_code() == 0

    assert base64.b64decode(copied).decode() == "rm \N{REPLACEMENT CHARACTER}\n"


def test_tab_completes_commands_and_what_follows_them() -> None:
    with typed_terminal("chat", "good") as terminal:
        terminal.wait_for(">>>")
        terminal.type("/mod\t")
        terminal.wait_for("el")
        terminal.type(" for\t")
        terminal.wait_for("eign")
        terminal.type("\r")
        terminal.wait_for("Now talking to foreign")
        terminal.wait_for(">>>")
        terminal.type("/set verb\t")
        terminal.wait_for("ose")
        terminal.type("\r")
        terminal.wait_for("Set.")
        terminal.wait_for(">>>")
        terminal.type("\x04")
        assert terminal.exit_code() == 0


def test_instructions_of_several_lines_stand_between_three_quotes(server: YardServer) -> None:
    with typed_terminal("chat", "good") as terminal:
        terminal.wait_for(">>>")
        terminal.type('/set system """Be\r')
        terminal.wait_for("...")
        terminal.type('brief."""\r')
        terminal.wait_for("Set.")
        terminal.wait_for(">>>")
        terminal.type("hi\r")
        terminal.wait_for("two")
        terminal.wait_for(">>>")
        terminal.type("\x04")
        assert terminal.exit_code() == 0

    assert body(server)["messages"] == [{"role": "system", "content": "Be\nbrief."}, {"role": "user", "content": "hi"}]

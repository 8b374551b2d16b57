"""What each command of a chat does, seen in the next request or on the screen."""

from __future__ import annotations

import base64
import re
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

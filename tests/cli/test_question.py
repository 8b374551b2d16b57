"""What `ask` makes of words, files, pictures, schemas and pipes; seen in the request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelyard.cli.question import INPUT_BYTES_MAX
from tests.cli.conftest import run
from tests.cli.test_chat_commands import PNG
from tests.client.yard_server import YardServer


def asked(server: YardServer) -> dict[str, object]:
    found: dict[str, object] = server.seen[-1][2]
    return found


def test_files_stand_in_fences_under_their_names(server: YardServer, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n```\ncode\n```\n")
    run("ask", "-m", "good", "-f", str(tmp_path / "a.md"), "What is it?")

    assert asked(server)["messages"] == [
        {"role": "user", "content": "What is it?\n\na.md:\n````\n# A\n```\ncode\n```\n````"}
    ]


def test_a_file_and_a_pipe_need_no_words(server: YardServer, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("A")
    run("ask", "-m", "good", "-f", str(tmp_path / "a"), "-f", "-", text="piped")

    assert asked(server)["messages"] == [{"role": "user", "content": "a:\n```\nA\n```\n\npiped"}]


def test_pictures_go_along(server: YardServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    run("ask", "-m", "foreign", "-i", str(tmp_path / "a.png"), "What?")

    messages = asked(server)["messages"]
    assert isinstance(messages, list)
    assert [part["type"] for part in messages[0]["content"]] == ["text", "image_url"]


def test_a_model_that_takes_no_pictures_is_sent_none(server: YardServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    result = run("ask", "-m", "good", "-i", str(tmp_path / "a.png"), "What?")

    assert result.exit_code == 1
    assert "images" in result.stderr
    assert server.seen == []


def test_without_a_name_a_model_that_takes_pictures_is_asked(server: YardServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    run("ask", "-i", str(tmp_path / "a.png"), "What?")

    assert asked(server)["model"] == "foreign"


@pytest.mark.parametrize(
    ("name", "content"), [("absent", None), ("binary", b"\xff\xfe"), ("huge", b"x" * (INPUT_BYTES_MAX + 1))]
)
def test_a_file_that_cannot_be_asked_about_is_named_and_nothing_is_asked(
    server: YardServer, tmp_path: Path, name: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = run("ask", "-m", "good", "-f", str(tmp_path / name), "What?")

    assert result.exit_code != 0
    assert name in result.stderr
    assert server.seen == []


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize("is_file", [True, False])
def test_a_schema_goes_along_and_an_answer_that_is_no_json_is_a_failure(
    server: YardServer, tmp_path: Path, is_file: bool
) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    told = str(tmp_path / "schema.json") if is_file else json.dumps(SCHEMA)
    result = run("ask", "-m", "good", "--schema", told, "Give me one.")

    assert asked(server)["response_format"] == {
        "type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    }  # fmt: skip
    assert result.exit_code == 1
    assert "not the JSON" in result.stderr


@pytest.mark.parametrize("told", ["{not json", "absent.json"])
def test_a_schema_that_is_none_is_refused_before_anything_is_asked(server: YardServer, told: str) -> None:
    result = run("ask", "-m", "good", "--schema", told, "Give me one.")

    assert result.exit_code != 0
    assert server.seen == []

"""Errors of every dialect in the caller's language, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from modelyard.api.admin import event_frame
from modelyard.events import Event

from .surface import Listener, build_yard, listening


@pytest.fixture(scope="module")
def node() -> Iterator[Listener]:
    with listening(build_yard()) as listener:
        yield listener


def message_of(body: dict[str, object]) -> str:
    """What each dialect has for people."""
    error = body.get("error", body)
    return str(error if isinstance(error, str) else error.get("message") or error.get("detail"))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("header", "said", "hint"),
    [
        ("zh-TW", "{path} 沒有任何東西。", "docs/api.md 列出所有路徑。"),
        ("zh-Hant;q=0.9, en;q=0.5", "{path} 沒有任何東西。", "docs/api.md 列出所有路徑。"),
        ("zh-CN", "{path} 没有任何东西。", "docs/api.md 列出所有路径。"),
        ("fr", "There is nothing at {path}.", "docs/api.md lists every path."),
    ],
)
@pytest.mark.parametrize("path", ["/v1/nothing", "/api/nothing", "/api/v1/llm/nothing", "/admin/nothing"])
def test_an_error_of_each_dialect_is_in_the_language_of_the_caller_and_its_code_is_not(
    node: Listener, path: str, header: str, said: str, hint: str
) -> None:
    reply = node.ask("GET", path, {"accept-language": header})

    assert reply.status == 404
    assert message_of(reply.json) == said.format(path=path)
    inside = reply.json["error"] if isinstance(reply.json.get("error"), dict) else reply.json
    assert isinstance(inside, dict)
    assert (inside["code"], inside["suggestions"]) == ("not_found", [hint])


def test_an_event_has_words_in_the_language_of_its_reader() -> None:
    switched = Event("model.switched", 1.0, {"switched_from": "local", "switched_to": "ollama"}, 3)

    data = event_frame(switched, "zh_CN").decode().split("data: ")[1]

    assert json.loads(data)["message"] == "模型切换: local -> ollama"
    assert json.loads(data)["event"] == "model.switched"

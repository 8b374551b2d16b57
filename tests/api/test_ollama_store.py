"""Pull, delete and copy as Ollama's clients ask for them: progress, names that are no names, and who may."""

from __future__ import annotations

from typing import Any

import pytest

from modelyard.errors import ModelNotFound, UpstreamUnreachable

from .ollama_surface import ollama_yard
from .surface import ADMIN_KEY, USER_KEY

BAD_NAMES = (
    "", "../x", "..", ".", "a/../b", "/etc/passwd", "a\\b", "a%2fb", "..%2f..%2fx", "a;b", "a#b", "a?b", "a b",
    "a\x00b", "a\nb", "C:\\x", "sha256:" + "0" * 64, "sha256-" + "0" * 64, "a@sha256:" + "0" * 64,
    "a:sha256-" + "0" * 64, "x/sha256", "http://evil/x", "file:///etc/passwd", "ollama.com/../../x", "\u2025/x",
    "\uff0e\uff0e/x", "a//b", "a/./b", "~/x", "a" * 300, "-x", "a@b@c",
)  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_nothing_that_could_be_a_path_or_a_digest_reaches_the_store(name: str) -> None:
    with ollama_yard() as yard:
        answers = [
            yard.post("/api/pull", {"model": name}),
            yard.delete("/api/delete", {"model": name}),
            yard.post("/api/copy", {"source": name, "destination": "fine"}),
            yard.post("/api/copy", {"source": "fine", "destination": name}),
        ]

        assert [answer.status_code for answer in answers] == [400] * 4
        assert all(isinstance(answer.json()["error"], str) for answer in answers)
        assert yard.store.asked == []


@pytest.mark.parametrize("node", ["../x", "a/b", "a b", "\u00e9", "x" * 65])
def test_a_node_is_a_plain_name(node: str) -> None:
    with ollama_yard() as yard:
        answer = yard.post("/api/pull", {"model": "fine", "node": node})

        assert answer.status_code == 400
        assert yard.store.asked == []


def test_a_pull_is_told_line_by_line_and_ends_with_success() -> None:
    with ollama_yard(key=ADMIN_KEY) as yard:
        yard.store.steps = (
            {"status": "pulling manifest"},
            {"status": "pulling ab", "digest": "sha256:ab", "total": 10, "completed": 3},
            {"status": "success"},
        )
        streamed = yard.post("/api/pull", {"model": "org/qwen:4b@studio"})
        whole = yard.post("/api/pull", {"name": "qwen", "stream": False, "node": "studio"})

        assert streamed.headers["content-type"] == "application/x-ndjson"
        assert streamed.text.splitlines()[-1] == '{"status":"success"}'
        assert '"completed":3' in streamed.text
        assert whole.json() == {"status": "success"}
        assert yard.store.asked == [("pull", "boss", "org/qwen:4b@studio", None), ("pull", "boss", "qwen", "studio")]
        assert yard.store.ended == 2


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("steps", [(), ({"status": "pulling manifest"},), ({"error": "no\nroom"},)])
def test_a_pull_that_does_not_end_well_is_never_a_success(steps: Any, stream: bool) -> None:
    with ollama_yard() as yard:
        yard.store.steps = steps
        answer = yard.post("/api/pull", {"model": "qwen", "stream": stream})

        last = answer.json() if answer.status_code != 200 else answer.text.splitlines()[-1]
        assert '"status":"success"' not in answer.text
        assert "upstream_invalid_response" in str(last)
        assert (answer.status_code == 200) == (stream and steps == ({"status": "pulling manifest"},))


def test_a_pull_that_fails_before_its_first_line_has_a_status() -> None:
    with ollama_yard() as yard:
        yard.store.steps, yard.store.failure = (), UpstreamUnreachable(provider="studio", problem="refused")
        answer = yard.post("/api/pull", {"model": "qwen"})

        assert (answer.status_code, answer.json()["code"]) == (502, "upstream_unreachable")


def test_insecure_pulls_are_refused() -> None:
    with ollama_yard() as yard:
        answer = yard.post("/api/pull", {"model": "qwen", "insecure": True})

        assert answer.status_code == 400
        assert yard.store.asked == []


def test_delete_and_copy_answer_with_nothing() -> None:
    with ollama_yard() as yard:
        deleted = yard.delete("/api/delete", {"model": "tiny"})
        copied = yard.post("/api/copy", {"source": "tiny@studio", "destination": "other"})
        yard.store.failure = ModelNotFound(model="gone")
        missing = yard.delete("/api/delete", {"name": "gone"})

        assert (deleted.status_code, deleted.content, copied.status_code, copied.content) == (200, b"", 200, b"")
        assert (missing.status_code, missing.json()["error"]) == (404, 'model "gone" not found, try pulling it first')
        assert yard.store.asked[1] == ("copy", "local:testclient", "tiny@studio", "other", None)


def test_who_may_only_ask_changes_nothing() -> None:
    with ollama_yard(key=USER_KEY) as yard:
        answers = [
            yard.post("/api/pull", {"model": "qwen"}),
            yard.delete("/api/delete", {"model": "tiny"}),
            yard.post("/api/copy", {"source": "tiny", "destination": "x"}),
        ]

        assert [answer.status_code for answer in answers] == [403] * 3
        assert yard.store.asked == []


def test_a_page_of_somebody_else_cannot_send_a_form() -> None:
    with ollama_yard() as yard:
        form = yard.post("/api/pull", {"model": "qwen"}, **{"content-type": "application/x-www-form-urlencoded"})
        foreign = yard.post("/api/chat", {"model": "tiny"}, origin="http://evil.tld")

        assert (form.status_code, foreign.status_code) == (415, 403)
        assert yard.store.asked == []

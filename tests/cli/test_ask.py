"""One question, one answer."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import run, typed_terminal
from tests.client.yard_server import DEADLINE_S, YardServer

pytestmark = pytest.mark.usefixtures("server")


def sent(server: YardServer) -> dict[str, object]:
    return server.seen[-1][2]


def test_stdout_carries_the_answer_and_nothing_else() -> None:
    result = run("ask", "-m", "good", "hi")

    assert result.stdout == "one\u2028 two 三\n"
    assert result.stderr == ""


def test_words_and_piped_text_are_joined(server: YardServer) -> None:
    run("ask", "-m", "good", "Summarise", "this:", text="a\nb\n")

    assert sent(server)["messages"] == [{"role": "user", "content": "Summarise this:\n\na\nb"}]


def test_bytes_that_are_no_text_are_refused_before_anything_is_sent(server: YardServer) -> None:
    before = len(server.seen)

    result = run("ask", "-m", "good", "caf\udce9")

    assert (result.exit_code, len(server.seen)) == (2, before)
    assert "UTF-8" in result.stderr


def test_instructions_and_sampling_reach_the_server(server: YardServer) -> None:
    run("ask", "-m", "good", "-s", "be brief", "--max-tokens", "9", "--temperature", "0", "--seed", "1", "hi")

    body = sent(server)
    assert (body["max_tokens"], body["temperature"], body["seed"], body["stream"]) == (9, 0.0, 1, True)
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]


def test_without_a_name_a_model_in_memory_answers(server: YardServer) -> None:
    run("ask", "hi")

    assert sent(server)["model"] == "good"


def test_a_partial_answer_stays_and_is_marked_on_stderr() -> None:
    result = run("ask", "-m", "cut", "hi")

    assert result.stdout == "one\u2028 \n"
    assert "(the answer is incomplete)" in result.stderr
    assert "cut off" in result.stderr


def test_the_answer_as_json() -> None:
    told = json.loads(run("ask", "-m", "good", "-o", "json", "hi").stdout)

    assert (told["schema_version"], told["text"], told["finish_reason"], told["complete"]) == (
        1, "one\u2028 two 三", "stop", True,
    )  # fmt: skip
    assert told["usage"]["output_tokens"] == 3


def test_whoever_watches_sees_that_something_happens_and_can_leave(server: YardServer) -> None:
    with typed_terminal("ask", "-m", "waiting", "hi") as terminal:
        terminal.wait_for("waiting ·")
        assert server.speaking.wait(DEADLINE_S)
        terminal.type("\x03")

        assert terminal.exit_code() == 130
    assert server.left.wait(DEADLINE_S)

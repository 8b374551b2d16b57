"""The Ollama client against a real server: what it asks, what it gives, and which error says what went wrong.

Every test runs with both twins.
"""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from modelyard.client import (
    OllamaConnectionError,
    OllamaError,
    OllamaModelNotFoundError,
    OllamaServiceError,
    YardError,
)
from tests.client.ollama_script import (
    DEADLINE_S,
    hang_up,
    nowhere,
    plain,
    raw,
    reset,
    scripted,
    silence,
    stream,
)
from tests.client.twins import Call, opened

DONE = {"model": "m", "response": "", "done": True, "done_reason": "stop"}
MISSING = plain({"error": 'model "m" not found, try pulling it first'}, status=404)


# What is asked and given.


async def test_plain_generation(kind: str) -> None:
    with scripted(generate=plain({**DONE, "response": "blue\u2028 天"})) as server:
        async with opened(kind, server.url) as ask:
            text = await ask("generate", "m", "Why?", temperature=0.5, top_k=3, system="Be brief.", keep_alive="5m")

    assert text == "blue\u2028 天"
    assert server.asked[0].body == {
        "model": "m", "prompt": "Why?", "stream": False, "system": "Be brief.", "keep_alive": "5m",
        "options": {"temperature": 0.5, "top_k": 3},
    }  # fmt: skip


async def test_a_generation_is_streamed_in_the_pieces_it_comes_in(kind: str) -> None:
    lines = b'{"response":"one\\u2028 "}\n\n{"response":"","done":false}\r\n{"resp', b'onse":"two"}\n'
    with scripted(generate=stream(*lines, DONE)) as server:
        async with opened(kind, server.url) as ask:
            texts = await ask("generate", "m", "Count.", stream=True)

    assert texts == ["one\u2028 ", "two"]
    assert server.asked[0].body["stream"] is True


async def test_the_last_line_may_lack_its_end(kind: str) -> None:
    with scripted(generate=stream({"response": "all"}, b'{"response":"","done":true}')) as server:
        async with opened(kind, server.url) as ask:
            assert await ask("generate", "m", "?", stream=True) == ["all"]


async def test_what_comes_after_the_end_is_not_part_of_the_answer(kind: str) -> None:
    with scripted(generate=stream(DONE | {"response": "all"}, b"{}\nnonsense\n", then=reset)) as server:
        async with opened(kind, server.url) as ask:
            assert await ask("generate", "m", "?", stream=True) == ["all"]


async def test_no_model_means_the_default_model(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_DEFAULT_MODEL", "mine")
    with scripted(generate=plain(DONE), show=plain({}), pull=stream({"status": "success"})) as server:
        async with opened(kind, server.url) as ask:
            await ask("generate", prompt="Hello")
            await ask("generate", None, "Hello")
            await ask("show_model")
            await ask("pull_model")

    assert [one.body["model"] for one in server.asked] == ["mine"] * 4


async def test_a_generation_without_a_prompt_is_a_mistake_and_not_a_load(kind: str) -> None:
    with scripted() as server:
        async with opened(kind, server.url) as ask:
            with pytest.raises(TypeError, match="prompt"):
                await ask("generate", "why is the sky blue?")

    assert server.asked == []


async def test_options_images_and_what_was_not_said(kind: str) -> None:
    with scripted(generate=plain(DONE)) as server:
        async with opened(kind, server.url) as ask:
            await ask(
                "generate", "m", "What is it?", images=[b"\x89PNG", "aGk="], think=False, seed=None, template="{{ . }}",
                format={"type": "object"}, options={"num_ctx": 8}, top_p=0.9,
            )  # fmt: skip

    assert server.asked[0].body == {
        "model": "m", "prompt": "What is it?", "stream": False, "think": False, "template": "{{ . }}",
        "format": {"type": "object"}, "images": [base64.b64encode(b"\x89PNG").decode(), "aGk="],
        "options": {"num_ctx": 8, "top_p": 0.9},
    }  # fmt: skip


async def test_a_chat_is_answered_whole_and_in_chunks(kind: str) -> None:
    said = {"role": "user", "content": "Hi", "images": [b"x"]}
    end = {"message": {"role": "assistant", "content": ""}, "done": True, "eval_count": 2}
    first = {"message": {"role": "assistant", "content": "Hello"}, "done": False}
    with scripted(chat=[plain({**end, **first, "done": True}), stream(first, end)]) as server:
        async with opened(kind, server.url) as ask:
            whole = await ask("chat", "m", [said], tools=[{"type": "function"}], temperature=0)
            chunks = await ask("chat", "m", [said], stream=True)

    assert whole["message"]["content"] == "Hello"
    assert chunks == [first, end]
    assert server.asked[0].body == {
        "model": "m", "messages": [{**said, "images": ["eA=="]}], "stream": False, "tools": [{"type": "function"}],
        "options": {"temperature": 0},
    }  # fmt: skip
    assert said["images"] == [b"x"]


async def test_embeddings(kind: str) -> None:
    with scripted(embed=plain({"embeddings": [[0.5, 1], [0, 2]]})) as server:
        async with opened(kind, server.url) as ask:
            vectors = await ask("embed", "m", ["a", "b"], dimensions=2, num_ctx=8)

    assert vectors == [[0.5, 1.0], [0.0, 2.0]]
    assert server.asked[0].body == {"model": "m", "input": ["a", "b"], "dimensions": 2, "options": {"num_ctx": 8}}


async def test_list(kind: str) -> None:
    entry = {"name": "m:latest", "size": 5, "modified_at": "2026-01-01T00:00:00Z"}
    with scripted(tags=[plain({"models": [entry]}), plain({"models": None})]) as server:
        async with opened(kind, server.url) as ask:
            assert await ask("list_models") == [entry]
            assert await ask("list_models") == []


async def test_show(kind: str) -> None:
    about = {"modelfile": "FROM x", "parameters": "", "template": "{{ .Prompt }}"}
    with scripted(show=plain(about)) as server:
        async with opened(kind, server.url) as ask:
            assert await ask("show_model", "m") == about

    assert server.asked[0].body == {"model": "m"}


async def test_what_is_in_memory_and_the_version(kind: str) -> None:
    with scripted(ps=plain({"models": [{"name": "m"}]}), version=plain({"version": "0.9"})) as server:
        async with opened(kind, server.url) as ask:
            assert await ask("ps") == [{"name": "m"}]
            assert await ask("version") == "0.9"


async def test_a_model_is_loaded_and_let_go_of(kind: str) -> None:
    with scripted(generate=plain({**DONE, "done_reason": "load"}), chat=plain({"message": {}, "done": True})) as server:
        async with opened(kind, server.url) as ask:
            await ask("load", "m", keep_alive="1h")
            await ask("unload", "m")

    assert [(one.path, one.body) for one in server.asked] == [
        ("/api/generate", {"model": "m", "prompt": "", "stream": False, "keep_alive": "1h"}),
        ("/api/chat", {"model": "m", "messages": [], "stream": False, "keep_alive": 0}),
    ]


async def test_a_model_for_embeddings_is_loaded_its_own_way(kind: str) -> None:
    refusal = plain({"error": '"m" does not support generate'}, status=400)
    with scripted(generate=refusal, embed=plain({"embeddings": []})) as server:
        async with opened(kind, server.url) as ask:
            await ask("load", "m")

    assert [one.path for one in server.asked] == ["/api/generate", "/api/embed"]


async def test_health(kind: str) -> None:
    with scripted(
        version=[plain({"version": "0.9"}), plain({"oh": 1}), plain("<html>"), plain({}, 500), hang_up]
    ) as server:
        async with opened(kind, server.url) as ask:
            found = [await ask("health_check") for _ in range(5)]
    async with opened(kind, nowhere()) as ask:
        found.append(await ask("health_check"))
    found.append(await ask("health_check"))  # after it was closed

    assert found == [True] + [False] * 6


# What goes wrong.


async def test_connection_error(kind: str) -> None:
    calls: list[Call] = [
        ("list_models", ()), ("generate", ("m", "?")), ("generate", ("m", "?", True)), ("pull_model", ()),
    ]  # fmt: skip
    async with opened(kind, nowhere()) as ask:
        for method, arguments in calls:
            with pytest.raises(OllamaConnectionError, match="cannot be reached: Connection refused") as caught:
                await ask(method, *arguments)

            assert isinstance(caught.value.__cause__, httpx2.ConnectError)
            assert caught.value.suggestions


async def test_a_name_nobody_knows_is_a_connection_error(kind: str) -> None:
    async with opened(kind, "http://nowhere.invalid") as ask:
        with pytest.raises(OllamaConnectionError, match=r"nowhere\.invalid cannot be reached"):
            await ask("version")


async def test_model_not_found(kind: str) -> None:
    calls: list[Call] = [
        ("generate", ("m", "?")), ("generate", ("m", "?", True)), ("chat", ("m", [])), ("show_model", ("m",)),
        ("embed", ("m", "?")), ("load", ("m",)),
    ]  # fmt: skip
    with scripted(generate=MISSING, chat=MISSING, show=MISSING, embed=MISSING) as server:
        async with opened(kind, server.url) as ask:
            for method, arguments in calls:
                with pytest.raises(OllamaModelNotFoundError, match="has no model named m"):
                    await ask(method, *arguments)

    assert len(server.asked) == 6  # none was asked again


async def test_a_page_that_is_not_there_is_no_missing_model(kind: str) -> None:
    with scripted(embed=plain({"error": "path not found", "code": "not_found"}, status=404)) as server:
        async with opened(kind, server.url) as ask:
            for method in ("show_model", "embed"):
                with pytest.raises(OllamaServiceError, match="404") as caught:
                    await ask(method, "m", *(["?"] if method == "embed" else []))

                assert type(caught.value) is OllamaServiceError


async def test_an_error_in_the_middle_of_a_stream(kind: str) -> None:
    with scripted(generate=stream({"response": "a"}, {"error": "the runner\nstopped"})) as server:
        async with opened(kind, server.url) as ask:
            with pytest.raises(OllamaError, match=r"^the runner stopped$"):
                await ask("generate", "m", "?", stream=True)

    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("text", "is_memory"),
    [("CUDA error: out of memory", True), ("model requires more system memory (9 GiB) than is available", True),
     ("no memory of that", False), ("failed to load model", False)],
)  # fmt: skip
async def test_a_refusal_for_memory_is_told_from_others(kind: str, text: str, is_memory: bool) -> None:
    with scripted(generate=plain({"error": text}, status=500)) as server:
        async with opened(kind, server.url) as ask:
            for is_streamed in (False, True):
                with pytest.raises(OllamaServiceError) as caught:
                    await ask("generate", "m", "?", is_streamed)

                assert isinstance(caught.value, OllamaError) is is_memory
                assert str(caught.value).startswith("記憶體不足 (OOM)：") is is_memory
                assert text in str(caught.value)
                assert any("Unload" in one for one in caught.value.suggestions) is is_memory


async def test_a_server_that_is_busy_or_wants_a_key_says_what_to_do(kind: str) -> None:
    with scripted(
        tags=[plain({"error": "server busy"}, status=503), plain({"error": {"message": "no key"}}, 401)]
    ) as server:
        async with opened(kind, server.url) as ask:
            with pytest.raises(OllamaServiceError, match="503: server busy") as busy:
                await ask("list_models")
            with pytest.raises(OllamaServiceError, match="401: no key") as keyless:
                await ask("list_models")

    assert "again" in busy.value.suggestions[0]
    assert "key=" in keyless.value.suggestions[0]


async def test_what_the_server_suggests_is_passed_on(kind: str) -> None:
    told = {"error": "too long", "code": "context_length_exceeded", "suggestions": ["Send less.", "{url.__class__}"]}
    with scripted(generate=plain(told, status=400)) as server:
        async with opened(kind, server.url) as ask:
            with pytest.raises(OllamaServiceError, match="400: too long") as caught:
                await ask("generate", "m", "?")

    assert caught.value.suggestions == ("Send less.",)


HTML = b"<!DOCTYPE html><html>Log in</html>"


@pytest.mark.parametrize(
    "answer",
    [plain(HTML, content_type="text/html"), plain(b"[1, 2]"), plain(b'{"response": "\xff", "done": true}'),
     plain(b"[" * 100_000), plain({"response": 7, "done": True}), plain({"done": True}), plain(b"")],
    ids=["page", "list", "not-utf8", "deep", "number", "no-text", "nothing"],
)  # fmt: skip
async def test_an_answer_that_is_none_is_an_error(kind: str, answer: Any) -> None:
    with scripted(generate=answer) as server:
        async with opened(kind, server.url) as ask:
            with pytest.raises(OllamaServiceError, match="no answer of Ollama's") as caught:
                await ask("generate", "m", "?")

    assert not isinstance(caught.value, OllamaError | OllamaConnectionError)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "part", [HTML + b"\n", b"[1]\n", b'{"response": "\xff"}\n', b'{"response": {}}\n', b"x" * (9 * 1024**2)],
    ids=["page", "list", "not-utf8", "object", "endless"],
)  # fmt: skip
async def test_a_stream_that_is_none_is_an_error(kind: str, part: bytes) -> None:
    with scripted(generate=stream({"response": "a"}, part, then=silence)) as server:
        async with opened(kind, server.url, timeout=DEADLINE_S) as ask:
            with pytest.raises(OllamaServiceError, match="no answer of Ollama's"):
                await ask("generate", "m", "?", stream=True)
            assert server.left.wait(DEADLINE_S)


async def test_an_endless_body_is_not_read_to_its_end(kind: str) -> None:
    with scripted(tags=stream(*[b"x" * 1024**2] * 65, then=silence)) as server:
        async with opened(kind, server.url, timeout=DEADLINE_S) as ask:
            with pytest.raises(OllamaServiceError, match="more than"):
                await ask("list_models")
            assert server.left.wait(DEADLINE_S)


WHOLE = b'{"response":"one"}\n{"response":" two"}\n'


@pytest.mark.parametrize("how", [None, hang_up, reset], ids=["properly", "hang up", "reset"])
@pytest.mark.parametrize("size", range(1, len(WHOLE) + 1, 5))
async def test_a_stream_cut_anywhere_is_never_a_short_answer(kind: str, size: int, how: Any) -> None:
    with scripted(generate=stream(WHOLE[:size], then=how)) as server:
        async with opened(kind, server.url) as ask:
            with pytest.raises(OllamaServiceError):
                await ask("generate", "m", "?", stream=True)

    assert server.count("/api/generate") == 1  # and never asked again


async def test_a_plain_answer_that_is_not_done_is_no_answer(kind: str) -> None:
    with scripted(generate=plain({"response": "half", "done": False})) as server:
        async with opened(kind, server.url) as ask:
            with pytest.raises(OllamaConnectionError, match="before it was complete"):
                await ask("generate", "m", "?")


async def test_a_redirect_is_never_followed(kind: str) -> None:
    with scripted() as elsewhere, scripted(generate=plain("", 307, location=f"{elsewhere.url}/api/generate")) as server:
        async with opened(kind, server.url, key="secret") as ask:
            for is_streamed in (False, True):
                with pytest.raises(OllamaServiceError, match="not followed"):
                    await ask("generate", "m", "?", is_streamed)

    assert server.asked[0].headers["authorization"] == "Bearer secret"
    assert elsewhere.asked == []


async def test_a_proxy_for_the_web_is_not_asked(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", nowhere())
    with scripted(version=plain({"version": "1"})) as server:
        async with opened(kind, server.url) as ask:
            assert await ask("version") == "1"


async def test_what_is_not_http_is_an_error_of_ours(kind: str) -> None:
    with scripted(version=raw(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")) as server:
        async with opened(kind, server.url) as ask:
            with pytest.raises(OllamaServiceError):
                await ask("version")


async def test_a_closed_service_says_so(kind: str) -> None:
    calls: list[Call] = [("list_models", ()), ("generate", ("m", "?", True)), ("pull_model", ("m",))]
    with scripted() as server:
        async with opened(kind, server.url) as ask:
            pass
        for method, arguments in calls:
            with pytest.raises(OllamaServiceError, match="is closed"):
                await ask(method, *arguments)

    assert server.asked == []


# What is written down.


async def test_calls_are_logged_without_what_was_said(kind: str, no_logs_set_up: None) -> None:
    answer = plain({**DONE, "response": "hush-answer"})
    with scripted(generate=answer, tags=plain({}, 500)) as server, capture_logs() as logs:
        async with opened(kind, server.url, key="hush-key") as ask:
            await ask("generate", "m", "hush-prompt")
            with pytest.raises(OllamaServiceError):
                await ask("list_models")

    assert [(one["event"], one["path"], one["log_level"]) for one in logs] == [
        ("ollama.answered", "/api/generate", "debug"), ("ollama.failed", "/api/tags", "info"),
    ]  # fmt: skip
    assert logs[0]["model"] == "m"
    assert logs[1]["status"] == 500
    assert "hush" not in str(logs)


async def test_a_program_that_set_up_no_logs_keeps_its_output(
    kind: str, no_logs_set_up: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted(version=plain({"version": "1"}), tags=plain({}, 500)) as server:
        async with opened(kind, server.url) as ask:
            await ask("version")
            with pytest.raises(YardError):
                await ask("list_models")

    assert capsys.readouterr() == ("", "")

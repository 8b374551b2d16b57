"""Answers of nodes cut at every byte: before the end mark nothing looks complete, whatever was said before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from modelyard.errors import YardError
from modelyard.providers.ollama_wire import OllamaDecoder
from modelyard.providers.openai_wire import AnswerDecoder
from modelyard.testing import FakeOllama, FakeOpenAI, Script, Tool
from modelyard.types.chat import Chunk, Delta, Usage

SCRIPTS = {
    "text": Script(),
    "text in Chinese": Script(tokens=("你好", "，", "世界", "。", "𝒳")),
    "tools": Script(tool=Tool("get_weather", {"city": "台北", "days": [1, 2]})),
    "thinking": Script(thinking="Let me see.", tokens=("Yes", ".")),
    "length": Script(finish="length"),
    "blank lines": Script(blank_lines=True),
}
DIALECTS: dict[str, tuple[Any, str, Callable[[], Any]]] = {
    "openai": (FakeOpenAI, "/v1/chat/completions", lambda: AnswerDecoder("node")),
    "ollama": (FakeOllama, "/api/chat", lambda: OllamaDecoder("node", "m")),
}


async def recorded(dialect: str, script: Script) -> bytes:
    """One whole answer, as it comes over the wire."""
    kind, path, _decoder = DIALECTS[dialect]
    body = {"model": "m", "stream": True, "messages": [], "stream_options": {"include_usage": True}}
    async with kind(["m"]) as server, aiohttp.ClientSession() as session:
        server.play(script)
        body["messages"] = [{"role": "user", "content": "hi"}]
        async with session.post(server.url + path, json=body) as answer:
            return await answer.read()


def decoded(decoder: Any, pieces: list[bytes]) -> tuple[list[Chunk], YardError | None]:
    chunks: list[Chunk] = []
    for piece in pieces:
        chunks += decoder.feed(piece)
    error: YardError | None = decoder.end()
    return chunks, error


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks if isinstance(chunk, Delta))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", SCRIPTS)
async def test_cut_anywhere_it_is_an_error_and_never_an_end(dialect: str, name: str) -> None:
    raw = await recorded(dialect, SCRIPTS[name])
    make = DIALECTS[dialect][2]
    whole, error = decoded(make(), [raw])
    assert error is None
    end = len(raw.rstrip()) - len(raw.rstrip().split(b"\n")[-1]) + (len(b"data: [DONE]") if dialect == "openai" else 0)
    first_complete = None
    for offset in range(len(raw)):
        chunks, early = decoded(make(), [raw[:offset]])
        if early is None:
            first_complete = offset if first_complete is None else first_complete
            continue
        assert first_complete is None, "an error after it was complete"
        assert not any(isinstance(chunk, Delta) and chunk.finish for chunk in chunks), offset
        assert not any(isinstance(chunk, Usage) for chunk in chunks), offset
        assert text_of(whole).startswith(text_of(chunks))

    assert first_complete is None or first_complete >= end


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", SCRIPTS)
async def test_however_it_is_sliced_it_means_the_same(dialect: str, name: str) -> None:
    raw = await recorded(dialect, SCRIPTS[name])
    make = DIALECTS[dialect][2]
    whole, _error = decoded(make(), [raw])
    for size in (1, 2, 3, 7, 64):
        chunks, error = decoded(make(), [raw[at : at + size] for at in range(0, len(raw), size)])

        assert error is None
        assert text_of(chunks) == text_of(whole)
        assert [chunk.finish for chunk in chunks if isinstance(chunk, Delta) and chunk.finish] == [
            chunk.finish for chunk in whole if isinstance(chunk, Delta) and chunk.finish
        ]
        assert sum(isinstance(chunk, Usage) for chunk in chunks) == 1

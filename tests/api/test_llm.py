"""Our own paths to models: Ollama's bodies and answers, plain unless told otherwise, and a description of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from modelyard.api.described import LlmChat, LlmText
from tests.providers.fake_worker import event

from .data_plane import data_plane
from .ollama_surface import ollama_yard
from .test_ollama_generate import text_steps


async def test_the_paths_of_our_own_answer_whole_and_name_the_node() -> None:
    async with data_plane() as plane:
        text = await plane.ask({"model": "tiny", "prompt": "hi"}, "/api/v1/llm/generate")
        chat = await plane.ask({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}, "/api/v1/llm/chat")
        streamed = await plane.ask({"model": "tiny", "prompt": "hi", "stream": True}, "/api/v1/llm/generate")

        assert (text.json()["response"], text.json()["node"]) == ("Hello there", "local")
        assert (chat.json()["message"]["content"], chat.json()["node"]) == ("Hello there", "local")
        assert streamed.headers["content-type"] == "application/x-ndjson"
        assert streamed.lines()[-1]["node"] == "local"
        assert plane.outcomes() == {"ok": 3}


async def test_the_paths_of_our_own_write_errors_in_the_envelope() -> None:
    async with data_plane() as plane:
        answer = await plane.ask({"model": "nothing", "prompt": "hi"}, "/api/v1/llm/generate")

        assert answer.status == 404
        assert answer.json()["error"]["code"] == "model_not_found"
    async with data_plane(lambda _body: [*text_steps("ho")[:2], 0.05, event({"error": {"message": "x"}})]) as plane:
        broken = await plane.ask({"model": "tiny", "prompt": "hi", "stream": True, "raw": True}, "/api/v1/llm/generate")

        assert broken.lines()[-1]["error"]["code"] == "upstream_error"


async def test_answers_and_lines_have_the_shape_that_is_described() -> None:
    async with data_plane() as plane:
        text = await plane.ask({"model": "tiny", "prompt": "hi"}, "/api/v1/llm/generate")
        chat = await plane.ask({"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}, "/api/v1/llm/chat")

    for answer, shape in ((text, LlmText), (chat, LlmChat)):
        told = msgspec.json.decode(answer.body, type=shape, strict=True)
        assert told.done_reason == "stop"
        assert answer.json().keys() <= set(shape.__struct_fields__)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_the_description_leads_nowhere_that_is_not_there() -> None:
    with ollama_yard() as yard:
        document = yard.client.get("/openapi.json").json()

    schemas = document["components"]["schemas"]
    found = set(references(document))
    assert {"#/components/schemas/OllamaChatBody", "#/components/schemas/LlmError"} <= found
    assert {reference.rpartition("/")[2] for reference in found} <= schemas.keys()
    assert document["paths"]["/api/v1/llm/chat"]["post"]["responses"]["200"]["content"].keys() == {
        "application/json", "application/x-ndjson",
    }  # fmt: skip
    assert "NodeStatus" in schemas

"""One model in two formats gives one answer: yardling as GGUF by llama.cpp, and as safetensors by transformers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tools.yardling import corpus

from tests.support.node import Answer, Server, ask, client

QUESTIONS_PER_LANGUAGE = 12


def questions() -> list[str]:
    """Some of each language, known ones and unknown ones."""
    found: list[str] = []
    for language in corpus.LANGUAGES:
        asked = [one["question"] for one in corpus.held_out("paraphrases") if one["language"] == language]
        found += asked[:QUESTIONS_PER_LANGUAGE]
    return found


async def test_greedy_answers_are_the_same_in_three_languages(yard: Server) -> None:
    async with client() as session:

        async def both(question: str) -> tuple[Answer, Answer]:
            fields: dict[str, Any] = {"content": question, "temperature": 0, "max_tokens": 96, "stream": True,
                      "stream_options": {"include_usage": True}}  # fmt: skip
            gguf, folder = [await ask(session, yard, model, **fields) for model in ("yardling", "yardling-hf")]
            return gguf, folder

        pairs = await asyncio.gather(*(both(question) for question in questions()))

    assert len(pairs) == 3 * QUESTIONS_PER_LANGUAGE
    for gguf, folder in pairs:
        assert gguf.done
        assert folder.text == gguf.text
        assert folder.finish == gguf.finish
        counts = [answer.frames[-1]["usage"] for answer in (gguf, folder)]
        assert counts[0]["prompt_tokens"] == counts[1]["prompt_tokens"]
        assert counts[0]["completion_tokens"] == counts[1]["completion_tokens"]


@pytest.mark.parametrize("model", ["yardling", "yardling-hf"])
async def test_a_conversation_with_a_system_prompt_and_a_tool_is_read(yard: Server, model: str) -> None:
    tool = {"type": "function", "function": {"name": "add", "description": "Add two numbers.",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}}  # fmt: skip
    body = {
        "model": model, "max_tokens": 32, "temperature": 0, "tools": [tool],
        "messages": [
            {"role": "system", "content": "You are brief."}, {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": [{"type": "text", "text": "Bye"}]},
        ],
    }  # fmt: skip
    async with client() as session, session.post(f"{yard.url}/v1/chat/completions", json=body) as response:
        answer = await response.json()

    assert response.status == 200, answer
    assert answer["choices"][0]["finish_reason"] in ("stop", "length", "tool_calls")

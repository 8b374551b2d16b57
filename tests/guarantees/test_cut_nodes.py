"""Answers of nodes cut over real sockets, through a running server: callers get an error, and never an end."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any, Literal

import pytest

from modelyard.testing import FakeOllama, FakeOpenAI, Script
from modelyard.testing.server import FakeServer
from tests.support.counts import count
from tests.support.fleet import MESSAGES, Fleet, fleet

CONFIG = {"routing": {"attempts_max": 1}, "deadlines": {"load_s": 0.1, "load_per_gib_s": 0}}
QUICK: dict[str, Any] = {"first_token_s": 0.4, "between_tokens_s": 0.4}
TOKENS = ("one ", "two ", "three")


async def native(yard: Fleet, model: str) -> tuple[list[dict[str, Any]], bool]:
    """The lines of one Ollama chat, and whether the last one is an end."""
    body = {"model": model, "messages": MESSAGES}
    async with yard.http.post(f"{yard.server.url}/api/chat", json=body) as answer:
        lines = [json.loads(line) for line in (await answer.read()).splitlines() if line]
    return lines, bool(lines and lines[-1].get("done"))


def offsets(whole: bytes, separator: bytes) -> list[int]:
    """Around each boundary of two frames, and some anywhere."""
    chance, total = random.Random(9), count(12, 200)
    near = {at + step for at in range(len(whole)) if whole.startswith(separator, at) for step in (-1, 0, 1, 2)}
    last = whole.rstrip().rfind(b"\n")  # from here on the end mark is on its way
    wanted = near | {chance.randrange(len(whole)) for _ in range(total)}
    return sorted(at for at in wanted if 0 <= at <= last)


@pytest.mark.parametrize("cut", ["end", "reset", "stall"])
@pytest.mark.parametrize("kind", [FakeOllama, FakeOpenAI])
async def test_a_cut_answer_ends_with_an_error_in_both_dialects(
    kind: type[FakeOllama] | type[FakeOpenAI], cut: Literal["end", "reset", "stall"]
) -> None:
    sample = kind(["m"])
    sample.play(Script(tokens=TOKENS))
    async with fleet({"sample": sample}) as yard:
        await yard.ask()
        whole = await raw(yard, sample)
    places = offsets(whole, b"\n")
    # A node of its own for each cut: one that has just failed is left alone for a while.
    nodes: dict[str, FakeServer] = {}
    for place in places:
        for dialect in ("openai", "ollama", "plain"):
            node = nodes[f"{dialect}-{place}"] = kind([f"{dialect}-{place}"])
            node.play(Script(tokens=TOKENS, cut_at=place, cut=cut))
    async with fleet(nodes, CONFIG, look_s=3600, **QUICK) as yard:
        answers = await asyncio.gather(*(yard.ask(f"openai-{place}") for place in places))
        plain = await asyncio.gather(*(yard.ask(f"plain-{place}", stream=False) for place in places))
        chats = await asyncio.gather(*(native(yard, f"ollama-{place}") for place in places))

    assert len(places) >= 10
    for answer in answers:
        assert answer.code
        assert not answer.has_end
        assert "".join(TOKENS).startswith(answer.text)
    for answer in plain:
        assert answer.status >= 500
        assert answer.code
    for lines, has_end in chats:
        assert "error" in lines[-1]
        assert not has_end


async def raw(yard: Fleet, sample: FakeServer) -> bytes:
    """A whole answer as the node sends it to us."""
    asked = sample.questions[-1]
    async with yard.http.post(sample.url + asked.path, json=asked.body) as answer:
        return await answer.read()

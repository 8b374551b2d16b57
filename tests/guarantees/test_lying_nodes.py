"""Nodes that lie about what they have, hold, count and can: nobody else is harmed, and what was measured decides."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from modelyard.providers.told import TOKENS_MAX
from modelyard.routing.cooldown import CooldownRules
from modelyard.testing import FakeOllama, FakeOpenAI, Recorded, Script
from modelyard.testing.server import FakeServer, Reply
from tests.support.counts import count, tell
from tests.support.fleet import Fleet, fleet

NUMBERS = ("-1", "-9223372036854775808", "1000000000000000000", "9223372036854775807", "18446744073709551616", "1e300",
           "1e-300", "0.5", '"many"', "[]", "{}", "true", "16777217", str(TOKENS_MAX), "null")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a dialect says what one answer cost."""

    node: type[FakeOllama] | type[FakeOpenAI]
    members: tuple[str, ...]

    def answer(self, member: str, number: str) -> bytes:
        """One token, and an end with that number."""
        if self.node is FakeOllama:
            said = {"prompt_eval_count": "7", "eval_count": "1", "eval_duration": "1000000", member: number}
            told = ",".join(f'"{name}":{value}' for name, value in said.items())
            return (
                b'{"model":"m","message":{"role":"assistant","content":"x"},"done":false}\n'
                b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop",'
                + f"{told}}}\n".encode()
            )
        outer, _, inner = member.partition(".")
        usage, timings = {"prompt_tokens": "7", "completion_tokens": "1"}, {"predicted_ms": "1.0"}
        if outer == "timings":
            timings[inner] = number
        else:
            usage[outer] = f'{{"{inner}":{number}}}' if inner else number
        parts = [
            '"usage":{' + ",".join(f'"{name}":{value}' for name, value in usage.items()) + "}",
            '"timings":{' + ",".join(f'"{name}":{value}' for name, value in timings.items()) + "}",
        ]
        return (
            b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
            b'data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
            + f'data: {{"id":"1","choices":[],{",".join(parts)}}}\n\ndata: [DONE]\n\n'.encode()
        )


OLLAMA = Dialect(FakeOllama, ("prompt_eval_count", "eval_count", "prompt_eval_duration", "eval_duration"))
OPENAI = Dialect(
    FakeOpenAI,
    ("prompt_tokens", "completion_tokens", "prompt_tokens_details.cached_tokens",
     "completion_tokens_details.reasoning_tokens", "timings.predicted_ms", "timings.prompt_ms"),
)  # fmt: skip


async def metrics(yard: Fleet) -> dict[str, float]:
    async with yard.http.get(f"{yard.server.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return {name: float(value) for name, _, value in (one.rpartition(" ") for one in lines if not one.startswith("#"))}


@pytest.mark.parametrize("dialect", [OLLAMA, OPENAI], ids=["ollama", "openai"])
async def test_numbers_that_cannot_be_leave_the_metrics_whole(dialect: Dialect) -> None:
    asked = 0
    async with fleet({"liar": dialect.node(["m"]), "honest": FakeOllama(["h"])}) as yard:
        for member in dialect.members:
            for number in NUMBERS:
                yard.nodes["liar"].play(Script(body=dialect.answer(member, number)))
                told = await yard.ask(stream=bool(asked % 2))
                yard.nodes["liar"].play(Script())
                assert told.status in (200, 502), (member, number)
                assert told.is_whole or told.code == "upstream_invalid_response", (member, number, told)
                assert (await yard.ask()).is_whole, (member, number)
                asked += 2
        for _ in range(5):
            assert (await yard.ask("h")).is_whole
        found = await metrics(yard)
        log = yard.server.text()

    tokens = {name: value for name, value in found.items() if "tokens_total" in name}
    assert all(math.isfinite(value) and value >= 0 for name, value in found.items() if "NaN" not in name)
    assert all(value <= len(NUMBERS) * 2 * TOKENS_MAX for value in tokens.values())
    assert [value for name, value in tokens.items() if "completion" in name and 'node="honest"' in name] == [25.0]
    assert "Traceback" not in log


class SaysAnything(FakeOllama):
    """Lists and holds what it is told to say."""

    said: dict[str, Any] = {}  # noqa: RUF012 - of each its own, by whoever makes it

    async def answer(self, request: Recorded, reply: Reply) -> None:
        if request.path in self.said:
            await reply.json(self.said[request.path])
        else:
            await super().answer(request, reply)


def tag(**lies: object) -> dict[str, object]:
    return {"name": "m:latest", "model": "m:latest", "size": 1, "digest": "0" * 64, **lies}


STAMPS: tuple[object, ...] = (-1, "9999-99-99", "0001-01-01T00:00:00Z", [])
LISTS: tuple[dict[str, Any], ...] = (
    *({"/api/tags": {"models": [tag(size=size)]}} for size in (-1, 2**60, 2**63, 2**70, 1e300, "big")),
    *({"/api/ps": {"models": [tag(**{name: size})]}} for name in ("size", "size_vram") for size in (-1, 2**60, 2**63)),
    {"/api/tags": {"models": [tag(name=f"m{at}", model=f"m{at}") for at in range(20_000)]}},
    {"/api/tags": {"models": [tag(name=name, model=name) for name in ("../x", "a@b", "m" * 5000, "", "\0", "h")]}},
    {"/api/tags": {"models": [tag(modified_at=stamp) for stamp in STAMPS]}},
    {"/api/tags": {"models": [tag(digest=[1]), None, 7, {}]}},
    {"/api/tags": [], "/api/ps": "nothing"}, {"/api/version": {"version": ["x"] * 100_000}},
    {"/api/ps": {"models": [tag(expires_at=stamp, context_length=-5) for stamp in ("9999-12-31T23:59:59Z", 7)]}},
)  # fmt: skip


async def test_lists_that_cannot_be_harm_nobody_else() -> None:
    liar = SaysAnything(["m"])
    async with fleet({"liar": liar, "honest": FakeOllama(["m", "h"])}) as yard:
        for said in LISTS:
            liar.said = said
            async with yard.http.post(f"{yard.server.url}/admin/nodes/liar/check", json={}) as answer:
                assert answer.status == 200, said
                status = await answer.json()
            listed = await yard.get("/v1/models")
            honest = await yard.node("honest")
            answers = await asyncio.gather(*(yard.ask(name) for name in ("m", "h@honest", "m@honest")))
            held = [one["total_bytes"] for one in status["residents"]]

            assert all(one.is_whole for one in answers), said
            assert (honest["health"], honest["models_count"]) == ("healthy", 2), said
            assert {"m", "h"} <= {one["id"] for one in listed["data"]}, said
            assert all(0 <= size <= 2**50 for size in held), said
            assert status["models_count"] <= 10_000, said
        log = yard.server.text()

    assert "Traceback" not in log


async def test_models_that_a_node_only_claims_are_asked_of_it_once_in_a_while() -> None:
    liar = SaysAnything([])
    names = [f"m{at}" for at in range(5)]
    liar.said = {
        "/api/tags": {"models": [tag(name=f"{name}:latest", model=f"{name}:latest") for name in names]},
        "/api/ps": {"models": [tag(name=f"{name}:latest", size_vram=1) for name in names]},
    }
    total = count(40, 2000)
    async with fleet(
        {"liar": liar, "honest": FakeOllama(names)}, {"routing": {"retry_floor": 100, "strategy": "weighted"}}
    ) as yard:
        began_at = asyncio.get_running_loop().time()
        answers = [await yard.ask(names[at % 5]) for at in range(total)]
        times = 1 + int((asyncio.get_running_loop().time() - began_at) / (CooldownRules().base_s * 0.9))
        asked = len(liar.questions)

    assert all(one.is_whole and one.node == "honest" for one in answers)
    assert asked <= times * len(names)  # found out, and cooling down for that model


class SaysItsPace(FakeOllama):
    """Tells of every answer how fast it was, in tokens a second; and it need not be true."""

    def __init__(self, told_per_s: float, true_per_s: float) -> None:
        super().__init__(["m"])
        self._told_per_s = told_per_s
        self.play(Script(tagged=True, tag_count=20, between_s=1 / true_per_s))

    async def answer(self, request: Recorded, reply: Reply) -> None:
        before = reply.send

        async def send(data: bytes) -> None:
            if b'"done": true' in data:
                said = {"eval_count": 20, "eval_duration": round(20e9 / self._told_per_s)}
                data = json.dumps({**json.loads(data), **said}).encode() + b"\n"
            await before(data)

        reply.send = send  # type: ignore[method-assign]
        await super().answer(request, reply)


async def share_of_other(told_per_s: float) -> float:
    """What part of the work a slow node gets, beside one that is ten times as fast, if it tells this of itself."""
    nodes: dict[str, FakeServer] = {"other": SaysItsPace(told_per_s, 50), "quick": SaysItsPace(500, 500)}
    async with fleet(nodes) as yard:
        for name in nodes:
            await asyncio.gather(*(yard.ask(f"m@{name}") for _ in range(4)))
        seen: Counter[str] = Counter()

        async def steadily() -> None:
            for _ in range(count(4, 60)):
                seen[(await yard.ask()).node] += 1

        await asyncio.gather(*(steadily() for _ in range(12)))
    return seen["other"] / seen.total()


async def test_who_says_it_is_fast_and_is_slow_gets_less_than_who_is_fast() -> None:
    lying = await share_of_other(1e9)

    tell(f"the share of a slow one that says that it is fast: {lying:.0%}")
    assert lying < 0.5

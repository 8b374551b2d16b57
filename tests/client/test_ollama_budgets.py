"""A budget that runs out: the evidence is asked for while the request is still open, and the text says all of it."""

from __future__ import annotations

import asyncio

import pytest

from modelyard.client import (
    OllamaService,
    OllamaServiceError,
    TimeoutWithDiagnosis,
    YardError,
    diagnose_timeout,
    format_bytes,
    is_oom_error,
)
from modelyard.client.ollama_budgets import paced, within
from modelyard.diagnosis.timeouts import Phase, TimeoutDiagnosis
from modelyard.testing import FakeOllama, Script
from modelyard.testing.fake_ollama import FakeModel

GB = 1024**3
HUNG = Script(header_after_s=1e6)


async def test_evidence_is_taken_before_the_request_is_closed() -> None:
    async with FakeOllama([FakeModel("m:8b", GB)]) as server, OllamaService(server.url) as service:
        server.play(HUNG)
        was_open: list[bool] = []

        async def diagnose() -> TimeoutDiagnosis:
            was_open.append(not server.questions[0].left.is_set())
            return await diagnose_timeout(service, "m:8b", "load", 0.3)

        with pytest.raises(TimeoutWithDiagnosis) as caught:
            await within(service.load("m:8b"), 0.3, diagnose)

        assert was_open == [True]
        await asyncio.wait_for(server.questions[0].left.wait(), 10)
        assert "not among those in memory" in str(caught.value)
        assert caught.value.fields["phase"] == "load"
        assert isinstance(caught.value.fields["verdict"], dict)


async def test_a_load_that_moves_is_given_more_time() -> None:
    async with FakeOllama([FakeModel("m:8b", GB)]) as server, OllamaService(server.url) as service:
        server.play(Script(header_after_s=2.5), times=1)
        reached = iter(range(1, 100))

        async def progress() -> float:
            return next(reached) / 100

        async def diagnose() -> TimeoutDiagnosis:
            raise AssertionError("it moved all the time")

        await within(service.load("m:8b"), 1.2, diagnose, progress)

        assert server.residents


async def test_pieces_without_a_token_buy_no_time() -> None:
    async with FakeOllama([FakeModel("m:8b", GB)]) as server, OllamaService(server.url) as service:
        server.play(Script(alive_for_s=1e6))

        async def diagnose(phase: Phase, budget_s: float, tokens: int) -> TimeoutDiagnosis:
            return await diagnose_timeout(service, "m:8b", phase, budget_s, tokens=tokens)

        stream = await service.chat("m:8b", [{"role": "user", "content": "Hi"}], stream=True)
        pieces = paced(stream, 0.5, 0.5, lambda one: bool(one["message"].get("content")), diagnose)
        with pytest.raises(TimeoutWithDiagnosis) as caught:
            async for _piece in pieces:
                pass

        assert caught.value.fields["phase"] == "first_token"


async def test_a_server_that_says_its_version_and_not_its_models_is_loading() -> None:
    async with FakeOllama([FakeModel("m:8b", GB)]) as server, OllamaService(server.url) as service:
        server.ps_after_s = 1e6

        found = await diagnose_timeout(service, "m:8b", "load", 30, evidence_s=0.3)

        assert found.verdict.code == "still_loading"


async def test_a_server_that_is_gone_is_told_apart() -> None:
    async with OllamaService("http://127.0.0.1:9") as service:
        found = await diagnose_timeout(service, "m:8b", "first_token", 30)

    assert found.verdict.code == "unreachable"


def test_what_a_program_catches_is_one_tree() -> None:
    assert issubclass(TimeoutWithDiagnosis, OllamaServiceError)
    assert issubclass(OllamaServiceError, YardError)


def test_sizes_and_lacks_of_memory_are_told_for_programs_too() -> None:
    assert (format_bytes(int(40.9 * GB)), format_bytes(512 * 1024**2)) == ("40.9 GB", "512.0 MB")
    assert is_oom_error("cudaMalloc failed: out of memory")
    assert not is_oom_error("I have no memory of this place")

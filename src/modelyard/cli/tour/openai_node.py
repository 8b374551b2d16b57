"""The tour's view of an OpenAI-compatible server: names and answers. It tells nothing of memory, so nothing is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from modelyard.cli.tour.nodes import Kind, Left, Piece, TourModel, Turn
from modelyard.client.openai_chat import OpenAIClient
from modelyard.diagnosis.timeouts import Phase, Resident, TimeoutDiagnosis, TimeoutEvidence, diagnose_timeout
from modelyard.errors import YardError
from modelyard.types.chat import Delta


class OpenAINode:
    """vLLM, llama-server, a cloud: whatever answers under `/v1`."""

    kind: Kind = "OpenAI"
    tells_memory = False

    def __init__(self, client: OpenAIClient, *, evidence_s: float) -> None:
        self.url = client.url
        self._client = client
        self._evidence_s = evidence_s

    async def close(self) -> None:
        await self._client.close()

    async def models(self) -> list[TourModel]:
        return [TourModel(name) for name in await self._client.models()]

    async def residents(self) -> list[Resident] | None:
        return None

    async def held(self) -> Mapping[str, str]:
        return {}

    async def unload(self, model: Resident, budget_s: float) -> Left:
        return Left(model.name, is_gone=False, kept="forbidden")

    async def makes_embeddings(self, model: str) -> bool | None:
        return None

    async def load(self, model: str) -> None:
        """There is no way to ask for it: the first question brings it in, if anything has to be."""

    async def progress(self, model: str) -> float | None:
        return None

    async def chat(self, model: str, turns: Sequence[Turn], tokens_max: int | None = None) -> AsyncIterator[Piece]:
        async for one in self._client.chat(model, turns, tokens_max):
            if isinstance(one, Delta):
                yield Piece(one.text, one.reasoning)
            else:
                yield Piece(tokens=one.output_tokens)

    async def embed(self, model: str, text: str) -> int:
        return len(await self._client.embed(model, text))

    async def diagnose(self, model: str, phase: Phase, budget_s: float, tokens: int) -> TimeoutDiagnosis:
        """Whether it answers is all that can be found out."""
        try:
            async with asyncio.timeout(self._evidence_s):
                await self._client.models()
            is_alive = True
        except (YardError, TimeoutError):
            is_alive = False
        return diagnose_timeout(TimeoutEvidence(model, phase, budget_s, tokens, is_alive=is_alive, tells_memory=False))

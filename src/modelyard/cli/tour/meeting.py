"""One model met: loaded, greeted, talked to. Each wait has its budget; what it found is a `Visit`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from modelyard.cli.terminal import Terminal
from modelyard.cli.tour.nodes import Piece, TourModel, TourNode, Turn
from modelyard.cli.tour.visit import Visit
from modelyard.cli.tour.voice import Voice
from modelyard.cli.tour.waiting import FETCHING, LOADING, WaitingLine
from modelyard.client.ollama_budgets import paced, within
from modelyard.diagnosis.timeouts import Phase, TimeoutDiagnosis, is_same_model
from modelyard.units import GIB

GREETING_TOKENS_MAX = 256  # a model that never ends does not hold the tour up
LOAD_S = 300.0
LOAD_S_PER_GIB = 20.0
RESOURCES_S = 2.0  # an answer does not wait longer for its memory picture


@dataclass(frozen=True, slots=True)
class Budgets:
    """Seconds for each wait of the tour. `load_s` None: 300, and 20 more for each GiB."""

    connect_s: float = 10.0
    list_s: float = 30.0
    ps_s: float = 10.0
    unload_s: float = 30.0
    load_s: float | None = None
    first_token_s: float = 30.0
    between_tokens_s: float = 30.0
    chat_s: float = 1800.0

    def load_of(self, size: int | None) -> float:
        """For a model of so many bytes.

        >>> Budgets().load_of(40 * GIB), Budgets(load_s=5).load_of(40 * GIB)
        (1100.0, 5)
        """
        return LOAD_S + LOAD_S_PER_GIB * (size or 0) / GIB if self.load_s is None else self.load_s


class Meeting:
    """Asks one node on behalf of the tour."""

    def __init__(
        self, terminal: Terminal, node: TourNode, voice: Voice, budgets: Budgets, *, shows_resources: bool
    ) -> None:
        self._terminal, self._node, self._voice, self._budgets = terminal, node, voice, budgets
        self._shows_resources = shows_resources

    async def greet(self, model: TourModel, visit: Visit, prompt: str) -> str:
        """Load it and have it say something: the greeting, empty for a model that makes vectors."""
        if await self._node.makes_embeddings(model.name):
            visit.kind = "embedding"
        if self._node.tells_memory and not model.is_cloud:
            await self._load(model, visit)
        if visit.kind == "embedding":
            await self._embed(model, visit)
            return ""
        # A server that cannot be asked to load may do it behind the first question.
        first_s = self._budgets.first_token_s if self._node.tells_memory else self._budgets.load_of(None)
        return await self.ask(
            model,
            visit,
            [{"role": "user", "content": prompt}],
            first_s,
            self._budgets.between_tokens_s,
            GREETING_TOKENS_MAX,
        )

    async def reply(self, model: TourModel, turns: Sequence[Turn]) -> str:
        """The next answer of a chat."""
        return await self.ask(model, Visit(model.name), turns, self._budgets.chat_s, self._budgets.chat_s)

    async def ask(
        self,
        model: TourModel,
        visit: Visit,
        turns: Sequence[Turn],
        first_s: float,
        between_s: float,
        tokens_max: int | None = None,
    ) -> str:
        """Stream an answer to the terminal, and write down what it took."""
        began, told, text = time.monotonic(), Piece(), []
        first_at = 0.0

        async def diagnose(phase: Phase, budget_s: float, tokens: int) -> TimeoutDiagnosis:
            return await self._node.diagnose(model.name, phase, budget_s, tokens)

        count = 0
        answering = self._node.chat(model.name, turns, tokens_max)
        pieces = paced(answering, first_s, between_s, lambda one: one.has_token, diagnose)
        async with WaitingLine(self._terminal, FETCHING) as line, aclosing(pieces):
            async for piece in pieces:
                if piece.has_token and not first_at:
                    first_at = time.monotonic()
                    visit.first_token_s = first_at - began
                    line.close()
                    await self._picture(model.name, visit)
                count += piece.has_token
                text.append(piece.text)
                if not self._voice.is_machine:
                    self._terminal.answer(piece.text)
                told = piece if piece.tokens is not None else told
        self._terminal.end_answer()
        visit.tokens = told.tokens if told.tokens is not None else count
        took_s = told.generation_s or (time.monotonic() - first_at if first_at else 0.0)
        # The first token ends the prompt's work; a rate by our own clock has one interval less than tokens.
        counted = visit.tokens if told.generation_s else visit.tokens - 1
        visit.tokens_per_s = counted / took_s if took_s > 0 and counted > 0 else None
        return "".join(text)

    async def _load(self, model: TourModel, visit: Visit) -> None:
        budget_s, began = self._budgets.load_of(model.size), time.monotonic()
        line = WaitingLine(self._terminal, LOADING)

        async def progress() -> float | None:
            line.reached = await self._node.progress(model.name)
            return line.reached

        async def diagnose() -> TimeoutDiagnosis:
            return await self._node.diagnose(model.name, "load", budget_s, 0)

        async with line:
            await within(self._node.load(model.name), budget_s, diagnose, progress)
        visit.load_s = time.monotonic() - began

    async def _embed(self, model: TourModel, visit: Visit) -> None:
        budget_s, began = self._budgets.first_token_s, time.monotonic()

        async def diagnose() -> TimeoutDiagnosis:
            return await self._node.diagnose(model.name, "first_token", budget_s, 0)

        async with WaitingLine(self._terminal, FETCHING):
            visit.dimensions = await within(self._node.embed(model.name, "Hello"), budget_s, diagnose)
        visit.first_token_s = time.monotonic() - began
        await self._picture(model.name, visit)
        self._voice.vector(visit.dimensions)

    async def _picture(self, name: str, visit: Visit) -> None:
        """What it holds, for the report; and for the person, if it is wanted."""
        try:
            async with asyncio.timeout(min(RESOURCES_S, self._budgets.ps_s)):
                residents = await self._node.residents()
        except TimeoutError:
            return
        if residents is None:
            return
        for one in residents:
            if is_same_model(one.name, name) and one.size:
                visit.size_bytes, visit.vram_bytes = one.size, one.vram
        if self._shows_resources:
            self._voice.resources(name, residents)

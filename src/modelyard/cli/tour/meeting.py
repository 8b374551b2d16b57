"""One model met: loaded, greeted, talked to. Each wait has its budget; what it found is a `Visit`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from modelyard.cli.answering import Writer
from modelyard.cli.terminal import Terminal
from modelyard.cli.tour.failures import failure_of, is_connect_timeout
from modelyard.cli.tour.nodes import Piece, TourModel, TourNode, Turn
from modelyard.cli.tour.visit import Visit
from modelyard.cli.tour.voice import Voice
from modelyard.cli.tour.waiting import FETCHING, LOADING, WaitingLine
from modelyard.client.ollama_budgets import paced, within
from modelyard.diagnosis.timeouts import Phase, TimeoutDiagnosis, is_same_model
from modelyard.errors import N_, TimeoutWithDiagnosis, UpstreamInvalid, YardError
from modelyard.units import GIB

GREETING_TOKENS_MAX = 256  # a model that never ends does not hold the tour up
LOAD_S = 300.0
LOAD_S_PER_GIB = 20.0
Budget = tuple[float, str]  # seconds, and the flag that sets them
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


@dataclass(slots=True)
class Pace:
    """How fast an answer comes: by the server's own count and time, where it tells them, else by our clock."""

    count: int = 0
    first_at: float = 0.0
    told: Piece = Piece()  # noqa: RUF009 - frozen

    def take(self, piece: Piece, now: float) -> None:
        """One more piece."""
        if piece.has_token:
            self.first_at = self.first_at or now
            self.count += 1
        if piece.tokens is not None:
            self.told = piece

    @property
    def tokens(self) -> int:
        return self.count if self.told.tokens is None else self.told.tokens

    def tokens_per_s(self, now: float) -> float | None:
        """The first token ends the prompt's work, so by our clock there is one interval less than tokens."""
        took_s = self.told.generation_s or now - self.first_at
        counted = self.tokens if self.told.generation_s else self.tokens - 1
        return counted / took_s if took_s > 0 and counted > 0 else None


class Meeting:
    """Asks one node on behalf of the tour."""

    def __init__(
        self, terminal: Terminal, node: TourNode, voice: Voice, budgets: Budgets, *, shows_resources: bool
    ) -> None:
        self._terminal, self._node, self._voice, self._budgets = terminal, node, voice, budgets
        self._shows_resources = shows_resources

    async def greet(self, model: TourModel, visit: Visit, prompt: str) -> str:
        """Load it and have it say something: the greeting, empty for a model that makes vectors."""
        makes_vectors = await self._node.makes_embeddings(model.name)
        if makes_vectors:
            visit.kind = "embedding"
        if self._node.tells_memory and not model.is_cloud:
            await self._load(model, visit)
        if makes_vectors:
            await self._embed(model, visit)
            return ""
        try:
            return await self._greeting(model, visit, prompt)
        except YardError as refused:
            if makes_vectors is None and visit.first_token_s is None and await self._is_embedder(model, visit, refused):
                return ""
            raise

    async def _greeting(self, model: TourModel, visit: Visit, prompt: str) -> str:
        first = (self._budgets.first_token_s, "--first-token-timeout")
        if not self._node.tells_memory:  # a server that cannot be asked to load may do it behind the first question
            first = max(first, (self._budgets.load_of(None), "--load-timeout"))
        between = (self._budgets.between_tokens_s, "--between-tokens-timeout")
        turns = [{"role": "user", "content": prompt}]
        return await self._ask(model, visit, turns, first, between, GREETING_TOKENS_MAX)

    async def reply(self, model: TourModel, turns: Sequence[Turn]) -> str:
        """The next answer of a chat."""
        budget = (self._budgets.chat_s, "--chat-timeout")
        return await self._ask(model, Visit(model.name), turns, budget, budget)

    async def _ask(
        self,
        model: TourModel,
        visit: Visit,
        turns: Sequence[Turn],
        first: Budget,
        between: Budget,
        tokens_max: int | None = None,
    ) -> str:
        """Stream an answer to the terminal, and write down what it took."""
        began, pace, text = time.monotonic(), Pace(), []

        async def diagnose(phase: Phase, budget_s: float, tokens: int) -> TimeoutDiagnosis:
            return await self._node.diagnose(model.name, phase, budget_s, tokens)

        answering = self._node.chat(model.name, turns, tokens_max)
        pieces = paced(answering, first[0], between[0], lambda one: one.has_token, diagnose)
        writer = Writer(self._terminal, is_shown=not self._voice.is_machine, shows_thinking=True)
        async with (
            self._named(model, {"first_token": first[1], "between_tokens": between[1]}),
            WaitingLine(self._terminal, FETCHING) as line,
            aclosing(pieces),
        ):
            try:
                async for piece in pieces:
                    if piece.has_token and not pace.count:
                        visit.first_token_s = time.monotonic() - began
                        line.close()
                        await self._picture(model.name, visit)
                    pace.take(piece, time.monotonic())
                    writer.think(piece.thinking)
                    writer.answer(piece.text)
                    text.append(piece.text)
            finally:
                line.close()
                writer.end()
        if not pace.count:
            raise UpstreamInvalid(N_("{model} ended its answer without a single token."), hints=(), model=model.name)
        visit.tokens, visit.tokens_per_s = pace.tokens, pace.tokens_per_s(time.monotonic())
        return "".join(text)

    async def _load(self, model: TourModel, visit: Visit) -> None:
        budget_s, began = self._budgets.load_of(model.size), time.monotonic()
        line = WaitingLine(self._terminal, LOADING)

        async def progress() -> float | None:
            line.reached = await self._node.progress(model.name)
            return line.reached

        async def diagnose() -> TimeoutDiagnosis:
            return await self._node.diagnose(model.name, "load", budget_s, 0)

        async with self._named(model, {"load": "--load-timeout"}), line:
            await within(self._node.load(model.name), budget_s, diagnose, progress)
        visit.load_s = time.monotonic() - began

    async def _embed(self, model: TourModel, visit: Visit) -> None:
        budget_s, began = self._budgets.first_token_s, time.monotonic()

        async def diagnose() -> TimeoutDiagnosis:
            return await self._node.diagnose(model.name, "first_token", budget_s, 0)

        async with self._named(model, {"first_token": "--first-token-timeout"}), WaitingLine(self._terminal, FETCHING):
            visit.dimensions = await within(self._node.embed(model.name, "Hello"), budget_s, diagnose)
        visit.first_token_s = time.monotonic() - began
        await self._picture(model.name, visit)
        self._voice.vector(visit.dimensions)

    async def _is_embedder(self, model: TourModel, visit: Visit, refused: YardError) -> bool:
        """Whether a model that was refused a chat, of which nobody says what it does, makes vectors."""
        if failure_of(refused, "en").outcome != "node_error":
            return False
        try:
            await self._embed(model, visit)
        except YardError:
            return False
        visit.kind = "embedding"
        return True

    @asynccontextmanager
    async def _named(self, model: TourModel, flags: Mapping[str, str]) -> AsyncIterator[None]:
        """Inside, a budget that runs out is told with the flag that sets it; one for a connection is a budget too."""
        try:
            yield
        except TimeoutWithDiagnosis as timeout:
            timeout.fields["flag"] = flags[str(timeout.fields["phase"])]
            raise
        except YardError as error:
            if not is_connect_timeout(error):
                raise
            late = (await self._node.diagnose(model.name, "connect", self._budgets.connect_s, 0)).error()
            late.fields["flag"] = "--connect-timeout"
            raise late from error

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

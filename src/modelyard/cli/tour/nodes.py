"""What the tour asks of a server, whatever kind it is. What a kind cannot tell is None, and never guessed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from modelyard.diagnosis.timeouts import Phase, Resident, TimeoutDiagnosis

Kind = Literal["Ollama", "Modelyard", "OpenAI"]
Turn = Mapping[str, str]  # role and content


@dataclass(frozen=True, slots=True)
class TourModel:
    """A model on the list. Bytes."""

    name: str
    size: int | None = None
    is_cloud: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer. The last one has the server's own counts, where it tells them."""

    text: str = ""
    thinking: str = ""
    tokens: int | None = None
    generation_s: float | None = None

    @property
    def has_token(self) -> bool:
        return bool(self.text or self.thinking)


@dataclass(frozen=True, slots=True)
class Left:
    """How asking for a model's memory back went. `kept` says why it stays: busy, pinned, forbidden; held: no longer
    listed, and its memory has not come back.
    """

    model: str
    is_gone: bool
    kept: Literal["", "busy", "pinned", "forbidden", "held"] = ""
    problem: str = ""
    freed_bytes: int | None = None  # measured on this machine


class TourNode(Protocol):
    """One server. Failures are errors of our tree; everything may be cancelled."""

    kind: Kind
    url: str

    @property
    def tells_memory(self) -> bool:
        """Whether it says what is in memory, and lets go of it."""

    async def close(self) -> None: ...

    async def models(self) -> list[TourModel]:
        """Every model it has."""

    async def residents(self) -> list[Resident] | None:
        """What is in memory; None where it does not tell."""

    async def held(self) -> Mapping[str, str]:
        """Models that must stay, and why: busy, pinned."""

    async def unload(self, model: Resident, budget_s: float) -> Left:
        """Ask for the memory back, and look until it has come."""

    async def makes_embeddings(self, model: str) -> bool | None:
        """True: it makes vectors and no text. None: nobody knows."""

    async def load(self, model: str) -> None:
        """Bring it into memory; nothing where a server cannot be asked to."""

    async def progress(self, model: str) -> float | None:
        """How far its load is, 0 to 1."""

    def chat(self, model: str, turns: Sequence[Turn], tokens_max: int | None = None) -> AsyncIterator[Piece]:
        """An answer, of so many tokens at most. Closing the iterator ends the work at the server."""

    async def embed(self, model: str, text: str) -> int:
        """How many numbers the vector of a text has."""

    async def diagnose(self, model: str, phase: Phase, budget_s: float, tokens: int) -> TimeoutDiagnosis:
        """What can be told about a budget that ran out."""

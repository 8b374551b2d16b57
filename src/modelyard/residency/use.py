"""One use of a model as a context manager: the lease comes on entering and goes on leaving, however that happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelyard.types.model import Model

from .lease import Hosted, Lease

if TYPE_CHECKING:
    from .manager import ResidencyManager


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request wants besides the model."""

    context_length: int | None = None  # tokens it needs room for; a larger resident context will do
    priority: int = 0  # its caller's
    role: str = ""  # the role it named the model by


NO_WISH = Wish()


class Use:
    """One use of a model, from asking for it to giving it back. Written out: a generator costs more than the rest."""

    __slots__ = ("_manager", "caller", "deadline", "hosted", "keep_alive_s", "model", "number", "ticket", "wish")

    def __init__(
        self,
        manager: ResidencyManager,
        model: Model,
        ticket: str,
        caller: str,
        deadline: float,
        keep_alive_s: float | None,
        wish: Wish = NO_WISH,
    ) -> None:
        self._manager, self.model, self.ticket, self.caller = manager, model, ticket, caller
        self.deadline, self.keep_alive_s = deadline, keep_alive_s
        self.wish = wish
        self.number = 0
        self.hosted: Hosted | None = None

    async def __aenter__(self) -> Lease:
        return await self._manager.take(self)

    async def __aexit__(self, *_error: object) -> None:
        self._manager.give_back(self)

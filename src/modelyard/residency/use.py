"""One use of a model as a context manager: the lease comes on entering and goes on leaving, however that happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelyard.types.model import Model

from .lease import Hosted, Lease

if TYPE_CHECKING:
    from .manager import ResidencyManager


class Use:
    """One use of a model, from asking for it to giving it back. Written out: a generator costs more than the rest."""

    __slots__ = ("_manager", "caller", "deadline", "hosted", "keep_alive_s", "model", "number", "ticket")

    def __init__(
        self,
        manager: ResidencyManager,
        model: Model,
        ticket: str,
        caller: str,
        deadline: float,
        keep_alive_s: float | None,
    ) -> None:
        self._manager, self.model, self.ticket, self.caller = manager, model, ticket, caller
        self.deadline, self.keep_alive_s = deadline, keep_alive_s
        self.number = 0
        self.hosted: Hosted | None = None

    async def __aenter__(self) -> Lease:
        return await self._manager.take(self)

    async def __aexit__(self, *_error: object) -> None:
        self._manager.give_back(self)

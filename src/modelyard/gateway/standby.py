"""Bringing a model in, and letting go of it, for callers that ask no question, as Ollama's clients do.

Loading is what any request may cause, so it takes no more right than asking. Unloading is an operator's act. Whoever
may not act can only say that a model nobody else uses need not stay: the same as a question with `keep_alive` 0, and
no model is loaded for it. Knows nothing about HTTP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol

from modelyard.clock import Clock
from modelyard.errors import N_, ModelNotAllowed, PermissionDenied
from modelyard.providers.ticket import Ticket
from modelyard.residency.use import Wish
from modelyard.types.chat import InferenceRequest
from modelyard.types.model import Model
from modelyard.types.status import ResidentStatus

from .keys import Caller, Right
from .operations import Operations


class Held(Protocol):
    """What we need of a lease: how long it took to get."""

    @property
    def queue_s(self) -> float: ...

    @property
    def load_s(self) -> float: ...


class Leases(Protocol):
    """What we need of the residency: the right to use a model, given back at once."""

    def lease(
        self,
        model: Model,
        *,
        ticket: str,
        caller: str,
        deadline: float,
        keep_alive_s: float | None = None,
        wish: Wish = ...,
    ) -> AbstractAsyncContextManager[Held]: ...


class Standby:
    """Models in memory for whoever is about to use them, or no longer."""

    def __init__(
        self,
        operations: Operations,
        leases: Leases,
        residents: Callable[[], Iterable[ResidentStatus]],
        clock: Clock,
        *,
        queue_s: Callable[[], float],
    ) -> None:
        """`queue_s` is the longest wait for memory, as it is set by now."""
        self._operations, self._leases, self._residents, self._clock = operations, leases, residents, clock
        self._queue_s = queue_s

    async def load(self, caller: Caller, request: InferenceRequest, ticket: Ticket) -> None:
        """Bring a model in, and have it stay for as long as the request says."""
        model = self._model(caller, request.model, ticket)
        await self._touch(caller, model, request, ticket)

    async def unload(self, caller: Caller, request: InferenceRequest, ticket: Ticket) -> None:
        """Take a model out, after the answers under way; see above for who may."""
        model = self._model(caller, request.model, ticket)
        if Right.ADMIN in caller.rights:
            await self._operations.unload(caller, request.model)
            return
        there = [resident for resident in self._residents() if resident.model == model.name]
        if self._is_elsewhere(model) or any(one.leases or one.waiting for one in there):
            raise PermissionDenied(
                N_("{model} is in use, or at another node: only an operator's key unloads it."),
                model=request.model, right=Right.ADMIN.value,
            )  # fmt: skip
        if there:
            await self._touch(caller, model, request, ticket)

    async def _touch(self, caller: Caller, model: Model, request: InferenceRequest, ticket: Ticket) -> None:
        ticket.phase = "queued"
        if self._is_elsewhere(model):
            ticket.provider = model.node
            if model.kind != "openai":  # else nobody is to bring it in: it answers when it is asked
                await self._operations.load(caller, model.name, keep_alive_s=request.keep_alive_s)
            return
        ticket.provider = "local"
        wait_s = self._queue_s() if ticket.wait_s_max is None else min(ticket.wait_s_max, self._queue_s())
        deadline = self._clock.monotonic() + wait_s
        wish = Wish(request.context_length, caller.priority, ticket.role)
        async with self._leases.lease(
            model, ticket=ticket.id, caller=caller.id, keep_alive_s=request.keep_alive_s, wish=wish,
            deadline=deadline if ticket.deadline_at is None else min(deadline, ticket.deadline_at),
        ) as lease:  # fmt: skip
            ticket.queue_s, ticket.load_s = lease.queue_s, lease.load_s

    def _model(self, caller: Caller, name: str, ticket: Ticket) -> Model:
        """Of the models of that name that this caller may use the one that a request would go to."""
        catalog = self._operations.catalog
        found = catalog.candidates(name)
        usable = tuple(one for one in found.models if caller.may_use(one.name))
        model = self._operations.choose(replace(found, models=usable or found.models))
        ticket.model, ticket.engine = model.name, model.engine
        ticket.role, ticket.priority = catalog.role_of(name), caller.priority
        if not caller.may_use(model.name):
            raise ModelNotAllowed(model=model.name)
        return model

    def _is_elsewhere(self, model: Model) -> bool:
        """Whether another node brings it into memory that is not ours."""
        nodes = self._operations.nodes
        return bool(model.node) and (nodes is None or nodes.keeps(model))

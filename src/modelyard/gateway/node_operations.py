"""What operators can do to other nodes: see them, weigh them, drain them, and act on the models they have.

Edits count from the next request on and last until that field differs in the configuration, or the server ends. Acts on
models are carried out by the node; what it then has is looked at again at once. Knows nothing about HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Literal

from modelyard.clock import Clock
from modelyard.errors import N_, BadRequest
from modelyard.providers.base import NodeModels
from modelyard.types.fleet import FleetNodeStatus
from modelyard.types.memory import ProcessMemory, Receipt
from modelyard.types.model import Model

from .audit import audited
from .keys import Caller

if TYPE_CHECKING:
    from modelyard.routing.fleet import Fleet
    from modelyard.routing.node import FleetNode

WEIGHT_MAX = 1000.0


class NodeOperations:
    """The control plane of other nodes."""

    def __init__(
        self,
        fleet: Fleet,
        look: Callable[[FleetNode], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """`look` looks at a node now."""
        self._fleet, self._look, self._clock = fleet, look, clock

    def status(self) -> tuple[FleetNodeStatus, ...]:
        """Every node as last seen; nobody is asked."""
        return self._fleet.status()

    def one(self, name: str) -> FleetNodeStatus:
        """One node as last seen, or `NodeNotFound`."""
        self._fleet.node(name)
        return next(status for status in self._fleet.status() if status.name == name)

    def edit(
        self, caller: Caller, name: str, *, weight: float | None = None, draining: bool | None = None
    ) -> FleetNodeStatus:
        """Change a node's weight (0 drains it as well), or have it finish what it has and get nothing new."""
        with audited(caller, "edit_node", name):
            if weight is not None and not 0 <= weight <= WEIGHT_MAX:
                raise BadRequest(N_("A weight is a number from 0 to {most}."), param="weight", most=WEIGHT_MAX)
            changed = {"weight": weight, "draining": draining}
            self._fleet.edit(name, **{key: value for key, value in changed.items() if value is not None})
            return self.one(name)

    async def check(self, caller: Caller, name: str) -> FleetNodeStatus:
        """Have a node looked at now, whatever its state, and tell how it is."""
        with audited(caller, "check_node", name):
            await self._look(self._fleet.node(name))
            return self.one(name)

    # ---- its models ----

    def keeps(self, model: Model) -> bool:
        """Whether a model is at another node whose memory is not ours."""
        node = self._fleet.nodes.get(model.node)
        return node is not None and not node.rules.shares_devices

    def can_pull(self) -> tuple[str, ...]:
        """Nodes that can be told to fetch models."""
        return tuple(sorted(name for name, node in self._fleet.nodes.items() if node.parts.models is not None))

    def has_resident(self, model: Model) -> bool:
        """Whether a model is in its node's memory, as far as the node tells."""
        node = self._fleet.nodes.get(model.node)
        return node is not None and node.tells_residents and node.is_resident(model)

    async def load(self, model: Model, keep_alive_s: float | None = None) -> Receipt | None:
        """Bring a model into its node's memory, for so long; negative is for ever. None: it was seen there already."""
        keep_alive = None if keep_alive_s is None else -1 if keep_alive_s < 0 else keep_alive_s
        return await self._moved("load", model, self._models(model.node).load(model.node_model, keep_alive))

    async def unload(self, model: Model) -> Receipt | None:
        """Take a model out of its node's memory, and see it gone. None: it was not seen there."""
        return await self._moved("unload", model, self._models(model.node).unload(model.node_model))

    async def _moved(
        self, action: Literal["load", "unload"], model: Model, work: Coroutine[object, object, None]
    ) -> Receipt | None:
        """What that did to the node's memory, as far as it tells: what it holds otherwise is its own affair."""
        node, began_at = self._fleet.node(model.node), self._clock.monotonic()
        before = node.residents.get(model.name)
        await work
        took_s = self._clock.monotonic() - began_at
        await self._look(node)
        held = node.residents.get(model.name) if action == "load" else before
        if held is None or (action == "load" and before is not None):
            return None
        worker = ProcessMemory(
            held.total_bytes - held.vram_bytes, 0, {"gpu": held.vram_bytes} if held.vram_bytes else {}
        )
        return Receipt(action, model.name, "operator", {}, {}, {}, worker, took_s)

    async def show(self, model: Model, *, verbose: bool = False) -> Mapping[str, object]:
        """What its node tells of a model."""
        return await self._models(model.node).show(model.node_model, verbose=verbose)

    async def pull(self, node: str, node_model: str) -> AsyncIterator[Mapping[str, object]]:
        """Have a node fetch a model; its progress as it comes. When it says it is done, the model is known here."""
        async for progress in self._models(node).pull(node_model):
            if progress.get("status") == "success":
                await self._look(self._fleet.node(node))
            yield progress

    async def delete(self, node: str, node_model: str) -> None:
        """Take a model off a node's disk."""
        await self._models(node).delete(node_model)
        await self._look(self._fleet.node(node))

    async def copy(self, node: str, node_model: str, to: str) -> None:
        """Give a model at a node a second name there."""
        await self._models(node).copy(node_model, to)
        await self._look(self._fleet.node(node))

    def _models(self, node: str) -> NodeModels:
        models = self._fleet.node(node).parts.models
        if models is None:
            raise BadRequest(
                N_("{node} offers no way to load, fetch or remove its models from outside."),
                hints=(N_("Do it on that machine itself."),), node=node,
            )  # fmt: skip
        return models

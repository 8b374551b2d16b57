"""What operators can do to other nodes: see them, weigh them, drain them, and act on the models they have.

Edits count from the next request on and last until the configuration says otherwise or the server ends. Acts on models
are carried out by the node; what it then has is looked at again at once. Knows nothing about HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from modelyard.errors import N_, BadRequest
from modelyard.providers.base import NodeModels
from modelyard.types.fleet import FleetNodeStatus
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
        self, fleet: Fleet, look: Callable[[FleetNode], Awaitable[None]], nudge: Callable[[str], None]
    ) -> None:
        """`look` looks at a node now, `nudge` has it looked at soon."""
        self._fleet, self._look, self._nudge = fleet, look, nudge

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

    async def load(self, model: Model) -> None:
        """Bring a model into its node's memory."""
        await self._models(model.node).load(model.node_model)
        self._nudge(model.node)

    async def unload(self, model: Model) -> None:
        """Take a model out of its node's memory, and see it gone."""
        await self._models(model.node).unload(model.node_model)
        self._nudge(model.node)

    async def show(self, model: Model, *, verbose: bool = False) -> Mapping[str, object]:
        """What its node tells of a model."""
        return await self._models(model.node).show(model.node_model, verbose=verbose)

    async def pull(self, node: str, node_model: str) -> AsyncIterator[Mapping[str, object]]:
        """Have a node fetch a model; its progress as it comes."""
        async for progress in self._models(node).pull(node_model):
            yield progress
        self._nudge(node)

    async def delete(self, node: str, node_model: str) -> None:
        """Take a model off a node's disk."""
        await self._models(node).delete(node_model)
        self._nudge(node)

    async def copy(self, node: str, node_model: str, to: str) -> None:
        """Give a model at a node a second name there."""
        await self._models(node).copy(node_model, to)
        self._nudge(node)

    def _models(self, node: str) -> NodeModels:
        models = self._fleet.node(node).parts.models
        if models is None:
            raise BadRequest(
                N_("{node} offers no way to load, fetch or remove its models from outside."),
                hints=(N_("Do it on that machine itself."),), node=node,
            )  # fmt: skip
        return models

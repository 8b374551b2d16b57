"""What a reference means, by whoever knows: the hub, the Ollama server of this machine, or a node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .plan import PullPlan
from .reference import HubReference, NodeReference, Reference

NodePlanner = Callable[[NodeReference], Awaitable[PullPlan]]
HubPlanner = Callable[[HubReference], Awaitable[PullPlan]]


class Registries:
    """Everybody who can say what a model is made of."""

    def __init__(self, hub: HubPlanner, nodes: NodePlanner) -> None:
        self._hub, self._nodes = hub, nodes

    async def plan(self, reference: Reference) -> PullPlan:
        match reference:
            case HubReference():
                return await self._hub(reference)
            case NodeReference():
                return await self._nodes(reference)

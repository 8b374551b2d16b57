"""The store and its pulls from settings: the same for the server and for a command line that works without one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from modelyard.clock import Clock
from modelyard.config.node_settings import NodeSettings
from modelyard.config.pull_settings import PullSettings
from modelyard.errors import N_, BadRequest, NodeNotFound
from modelyard.loopback import is_loopback
from modelyard.models.store import Store
from modelyard.providers.node_address import Address
from modelyard.providers.node_http import NodeConnections
from modelyard.registry.fetch import Fetcher, Hosts
from modelyard.registry.hub import Hub
from modelyard.registry.ollama_folder import OllamaFolder, ollama_folders
from modelyard.registry.plan import PullPlan
from modelyard.registry.planner import NodePlanner, Registries
from modelyard.registry.pulls import Pulls
from modelyard.registry.reference import NodeReference
from modelyard.registry.transfer import Retries, Transfers
from modelyard.registry.yard import Yard

log = structlog.get_logger()


async def yard_plan(reference: NodeReference, node: NodeSettings) -> PullPlan:
    """What another Modelyard has of a model. Its key must have the right `admin` there."""
    key = node.key.get_secret_value() if node.key is not None else ""
    address = Address.parse(node.url, ca_file=node.ca_file, fingerprint=node.fingerprint or "")
    connections = await asyncio.to_thread(NodeConnections, address)
    try:
        return await Yard(node.name, connections, key=key, connect_s=node.connect_s).plan(reference)
    finally:
        connections.close()


class Servers:
    """What other servers have, for our store: Ollama's on this machine by its folder, another Modelyard by its API."""

    def __init__(self, nodes: Callable[[], Sequence[NodeSettings]], environment: Mapping[str, str]) -> None:
        self._nodes = nodes
        self._here = OllamaFolder(ollama_folders(environment, Path.home()))

    async def plan(self, reference: NodeReference) -> PullPlan:
        """What to take for this. Raises `BadRequest` for a node that hands out no files."""
        if not reference.node:
            return await self._here.plan(reference)
        node = next((node for node in self._nodes() if node.name == reference.node), None)
        if node is None:
            raise NodeNotFound(node=reference.node)
        host = urlsplit(node.url).hostname or ""
        if node.kind == "ollama" and (node.is_this_machine or is_loopback(host)):
            return await self._here.plan(reference)
        if node.kind == "openai":
            return await yard_plan(reference, node)
        raise BadRequest(
            N_("{node} cannot give us the files of {model}: an Ollama server hands out none over the network."),
            hints=(
                N_("Have {node} fetch a model for itself: `modelyard pull {model}@{node}`. It is then used from here."),
                N_("Or run `modelyard pull ollama:{model}` on that machine."),
            ), param="model", node=node.name, model=reference.model,
        )  # fmt: skip


def pulls(
    settings: PullSettings,
    store: Store,
    environment: Mapping[str, str],
    clock: Clock,
    *,
    nodes: NodePlanner,
    published: Callable[[], Awaitable[object]],
) -> Pulls:
    """Whoever pulls into it. `nodes` knows what other servers have; `published` is told of each new model."""
    fetcher = Fetcher(Hosts(settings.hosts), silence_s=settings.silence_s)
    retries = Retries(settings.attempts_max, settings.backoff_s)
    transfers = Transfers(store.partials, store.disk, fetcher, retries)
    return Pulls(store, Registries(Hub(environment).plan, nodes), transfers, clock, published=published)

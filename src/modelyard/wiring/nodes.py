"""Other nodes from settings: how each is reached, how it is chosen, and how it shares our devices."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from modelyard.clock import Clock
from modelyard.config.node_settings import NodeSettings
from modelyard.config.schema import Settings
from modelyard.providers.base import NodeControl, NodeModels, NodeProvider
from modelyard.providers.deadlines import Deadlines
from modelyard.providers.fitting import LimitsOf
from modelyard.providers.leased import LeasedProvider
from modelyard.providers.limited import LimitedProvider
from modelyard.providers.local import Leases
from modelyard.providers.node_address import Address
from modelyard.providers.node_http import NodeConnections
from modelyard.providers.ollama import OllamaProvider
from modelyard.providers.ollama_control import OllamaControl
from modelyard.providers.ollama_residents import OllamaResidents
from modelyard.providers.openai import OpenAIDialect, OpenAIProvider
from modelyard.providers.openai_control import OpenAIControl
from modelyard.residency.neighbours import Neighbour, SharedNodeStarter
from modelyard.routing.fleet import Fleet
from modelyard.routing.node import NodeParts, NodeRules
from modelyard.routing.retries import RetryBudget
from modelyard.routing.router import RoutingRules
from modelyard.types.memory import DeviceReading
from modelyard.types.model import Model


def routing_rules(settings: Settings) -> RoutingRules:
    given = settings.routing
    return RoutingRules(given.strategy, given.attempts_max, given.retry_on_timeout, given.continue_streams)


def retry_budget(settings: Settings) -> RetryBudget:
    return RetryBudget(settings.routing.retry_ratio, settings.routing.retry_floor)


def node_rules(given: NodeSettings) -> NodeRules:
    """What counts about a node at every request."""
    return NodeRules(
        given.name, given.kind, given.url, given.weight, given.draining, given.slots or 0, given.models, given.look_s,
        given.health_timeout_s, given.kind == "ollama" or given.continues, shares_devices=bool(given.devices),
    )  # fmt: skip


def node_parts(
    given: NodeSettings, settings: Settings, clock: Clock, fleet: Fleet, leases: Leases, limits_of: LimitsOf
) -> NodeParts:
    """How a node is reached. Data and control have connections of their own: neither waits for the other."""
    key = given.key.get_secret_value() if given.key is not None else ""
    address = Address.parse(given.url, ca_file=given.ca_file, fingerprint=given.fingerprint or "")
    data, control = NodeConnections(address), NodeConnections(address)
    limits = settings.deadlines
    deadlines = Deadlines(
        given.connect_s, settings.residency.queue_s, given.first_token_s, given.between_tokens_s,
        load_s=limits.load_s, load_s_per_gib=limits.load_per_gib_s,
    )  # fmt: skip
    provider: NodeProvider
    eye: NodeControl
    models: NodeModels | None = None

    def is_resident(model: Model) -> bool:
        node = fleet.nodes.get(given.name)
        return node is not None and node.is_resident(model)

    if given.kind == "ollama":
        provider = OllamaProvider(given.name, data, clock, deadlines, key=key, is_resident=is_resident)
        eye = models = OllamaControl(given.name, control, clock, key=key, connect_s=given.connect_s)
        if given.devices:
            provider = LeasedProvider(provider, leases, clock, queue_s=deadlines.queue_s)
    else:
        dialect = OpenAIDialect(given.extra_options, given.new_token_limit, given.continues)
        provider = OpenAIProvider(given.name, data, clock, deadlines, key=key, dialect=dialect, is_resident=is_resident)
        eye = OpenAIControl(given.name, control, key=key, connect_s=given.connect_s)

    async def close() -> None:
        data.close()
        control.close()

    return NodeParts(
        LimitedProvider(provider, limits_of), eye, models, close, drop_idle=data.drop_idle,
        heard_at=lambda: control.heard_at,
    )  # fmt: skip


@asynccontextmanager
async def shared_nodes(
    settings: Settings, read: Callable[[], tuple[DeviceReading, ...]], clock: Clock, load_s: Callable[[], float]
) -> AsyncIterator[SharedNodeStarter]:
    """Other programs that hold models in our memory; their connections end with the block. `load_s` as set by now."""
    async with AsyncExitStack() as stack:
        neighbours = []
        for given in settings.nodes:
            if given.devices:
                node = await stack.enter_async_context(
                    OllamaResidents(given.name, given.url, given.devices, clock, load_s=load_s)
                )
                neighbours.append(Neighbour(given.name, node, given.devices, clock, slots=given.slots or 1))
        yield SharedNodeStarter(neighbours, read, clock)

"""From settings to a running node: the only place where objects are built and joined.

Everything lives in one exit stack and one task group, so that it ends in the reverse order it began, however it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial

import structlog

from modelyard.api.app import build_app
from modelyard.api.endpoints import Behind, inference_endpoints
from modelyard.api.inference_routes import InferenceEndpoints
from modelyard.api.models import Details
from modelyard.applying import FIRST_LOOKS_S, Applying, Live, Others
from modelyard.clock import Clock, SystemClock
from modelyard.config.explain import setting_rows
from modelyard.config.load import process_environment
from modelyard.config.schema import Settings
from modelyard.config.settings import LoadedSettings
from modelyard.engines.base import Engine
from modelyard.events import EventBus
from modelyard.gateway.inference import Inference
from modelyard.gateway.memory_history import MemoryHistory
from modelyard.gateway.metrics import Metrics, NodeGauges
from modelyard.gateway.node_operations import NodeOperations
from modelyard.gateway.operations import Operations
from modelyard.gateway.standby import Standby
from modelyard.gateway.store import ModelStore
from modelyard.gateway.usage import Usage
from modelyard.gateway.vector_cache import VectorCache
from modelyard.memory.devices import SystemDevices
from modelyard.memory.holders import SystemHolders
from modelyard.memory.measured import MeasuredStore
from modelyard.models.catalog import Catalog
from modelyard.models.store import Store
from modelyard.models.stored import opened_store
from modelyard.node import CONFIGURATION, FOOTPRINTS_FILE, Node, preload, working
from modelyard.providers.local import LocalProvider
from modelyard.registry.pulls import Pulls
from modelyard.reload import ConfigWatch
from modelyard.residency.manager import ResidencyManager
from modelyard.residency.neighbour_watch import NeighbourHolders, NeighbourWatch
from modelyard.residency.neighbours import SharedNodeStarter, Starters
from modelyard.routing.fleet import Fleet
from modelyard.routing.prober import Prober
from modelyard.routing.router import Router
from modelyard.routing.standings import Standings
from modelyard.showing import launch_details, loading_names, memory_history
from modelyard.types.model import Model
from modelyard.wiring.engines import recipes
from modelyard.wiring.names import aliases, default_model, fallbacks, warn_of_unknown_names
from modelyard.wiring.nodes import node_parts, node_rules, retry_budget, routing_rules, shared_nodes
from modelyard.wiring.parts import (
    deadlines,
    guard,
    keeping,
    prompt_guards,
    residency_limits,
    scan_models,
    start_limits,
)
from modelyard.wiring.pulls import Servers, pulls
from modelyard.workers.leftovers import reap_leftovers
from modelyard.workers.run_folder import RunFolder, run_root
from modelyard.workers.start import Starter

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WholeNode(Node):
    """A running node that takes up changes of its configuration."""

    config: ConfigWatch


@asynccontextmanager
async def running_node(
    loaded: LoadedSettings,
    *,
    engines: Iterable[Engine] = (),
    models: Iterable[Model] = (),
) -> AsyncIterator[WholeNode]:
    """Build everything and keep it running until the block ends. `engines` and `models` are further ones."""
    settings, environment, live = loaded.settings, process_environment(), Live(loaded)
    clock, events = SystemClock(), EventBus()
    async with AsyncExitStack() as stack:
        # The ground: this run's folder, what an earlier run left, the machine.
        root = run_root(loaded.paths.runtime)
        await asyncio.to_thread(reap_leftovers, root)
        run = stack.enter_context(RunFolder(root))
        devices = SystemDevices(ram_limit_bytes=settings.memory.ram_limit_bytes, gpus=settings.memory.gpus)

        # Models, and who is in memory.
        store = await asyncio.to_thread(opened_store, settings.pull.store or loaded.paths.store)
        scanned = partial(_scanned, live, store, tuple(models))
        catalog = Catalog(await asyncio.to_thread(scanned), aliases(settings), settings.roles, settings.routing.order)
        built_in = await recipes(settings, devices, environment, engines)
        measured = stack.enter_context(closing(MeasuredStore(loaded.paths.state / FOOTPRINTS_FILE)))
        starter = Starter(built_in.all, run, devices.process, start_limits(settings), keeping(settings), measured)
        there = await stack.enter_async_context(shared_nodes(settings, devices.read, clock, live.load_s))
        manager, neighbours = residency(settings, clock, events, devices, starter, there)

        # The data plane and the control plane.
        metrics = Metrics()
        others = await stack.enter_async_context(other_nodes(live, clock, events, catalog, manager))
        inference = data_plane(live, clock, metrics, catalog, manager, others.router)
        operations = Operations(
            clock=clock, events=events, residency=manager, catalog=catalog, requests=inference, scan=scanned,
            effective_settings=lambda: {row.name: row.value for row in setting_rows(live.loaded)},
            nodes=NodeOperations(others.fleet, others.prober.look, clock), store=store,
            config_problem=lambda: config.problem, choose=others.router.chosen, vectors=inference.vectors.cache,
        )  # fmt: skip
        history = memory_history(clock, events, devices, manager)
        metrics.registry.register(gauges(manager, inference, history))
        pulled = await stack.enter_async_context(fetching(live, store, environment, clock, operations))
        details = partial(launch_details, starter, manager)
        served = endpoints(live, clock, catalog, inference, operations, manager, others.fleet, details, pulled)
        door = guard(settings, clock)
        app = build_app(
            inference=served, operations=operations, history=history, guard=door, registry=metrics.registry,
            language=settings.server.language,
        )  # fmt: skip
        applying = Applying(live, clock, catalog, manager, starter, built_in, others, door, inference, operations)
        config = ConfigWatch(loaded, applying.apply, events, clock)
        await others.prober.first_looks(others.fleet.nodes.values(), FIRST_LOOKS_S)
        warn_of_unknown_names(settings, catalog)

        await stack.enter_async_context(
            working(
                manager, history.run(), follow(events, metrics), preload(settings, operations), neighbours.run(),
                others.prober.run(), config.run(),
            )
        )  # fmt: skip
        yield WholeNode(app, operations, inference, manager, catalog, run, config.ask, config)


def residency(
    settings: Settings,
    clock: Clock,
    events: EventBus,
    devices: SystemDevices,
    starter: Starter,
    there: SharedNodeStarter,
) -> tuple[ResidencyManager, NeighbourWatch]:
    """Who is in memory, and the eye on other programs that bring models in."""
    manager = ResidencyManager(
        clock, events, devices, Starters(starter, there), residency_limits(settings),
        queue_s=settings.residency.queue_s, holders=NeighbourHolders(SystemHolders(devices), there),
    )  # fmt: skip
    neighbours = NeighbourWatch(there, manager.guests, events, clock)
    if there.neighbours:
        manager.look_around = neighbours.fresh
    return manager, neighbours


@asynccontextmanager
async def other_nodes(
    live: Live, clock: Clock, events: EventBus, catalog: Catalog, manager: ResidencyManager
) -> AsyncIterator[Others]:
    """Everybody else who can answer, and the choice among all; connections to them end with the block."""
    settings = live.settings
    fleet = Fleet(clock, catalog, events)
    prober = Prober(fleet, clock)
    fleet.nudge = prober.nudge
    catalog.why_nothing_at = fleet.why_nothing_at
    for given in settings.nodes:
        fleet.put(node_rules(given), node_parts(given, settings, clock, fleet, manager, live.prompt_limits))
    local = LocalProvider(manager, clock, deadlines(settings), limits_of=live.prompt_limits)
    router = Router(
        fleet, Standings(fleet, manager.glance, clock), local, clock, rules=routing_rules(settings),
        budget=retry_budget(settings),
    )  # fmt: skip
    try:
        yield Others(fleet, prober, router, local)
    finally:
        await fleet.close()


def data_plane(
    live: Live, clock: Clock, metrics: Metrics, catalog: Catalog, manager: ResidencyManager, router: Router
) -> Inference:
    """Who serves requests."""
    cache = VectorCache(live.settings.embeddings.cache_bytes)
    metrics.vector_bytes.set_function(lambda: float(cache.bytes))
    return Inference(
        vector_cache=cache, catalog=catalog, router=router, usage=Usage(metrics, clock), metrics=metrics, clock=clock,
        loading=lambda: loading_names(manager), waits=manager.waiting_of,
        fallbacks=lambda model: fallbacks(live.settings, model), role_of=catalog.role_of,
        total_s=lambda _model: live.settings.routing.total_s,
        guards=prompt_guards(live.settings, str(live.loaded.origin(("guards", "hook")).detail)),
    )  # fmt: skip


def endpoints(
    live: Live, clock: Clock, catalog: Catalog, inference: Inference, operations: Operations,
    manager: ResidencyManager, fleet: Fleet, details: Details, pulled: Pulls,
) -> InferenceEndpoints:  # fmt: skip
    """What serves inference over HTTP."""
    nodes = operations.nodes
    assert nodes is not None, "it was made with one"

    def ask_node(model: Model, verbose: bool) -> Awaitable[Mapping[str, object]]:
        return nodes.show(model, verbose=verbose)

    return inference_endpoints(
        Behind(
            inference=inference, catalog=catalog, clock=clock, residents=manager.residents, details=details,
            fleet=fleet.status, default_model=lambda: default_model(live.settings, catalog),
            standby=Standby(operations, manager, manager.residents, clock, queue_s=live.queue_s),
            store=ModelStore(catalog, operations, nodes, lambda: live.settings.models.folders, pulled),
            body_bytes_max=live.settings.server.body_max_bytes, ask_node=ask_node,
        )
    )  # fmt: skip


def _scanned(live: Live, store: Store, further: tuple[Model, ...]) -> tuple[Model, ...]:
    return scan_models(live.settings, store, further)


def fetching(live: Live, store: Store, environment: Mapping[str, str], clock: Clock, operations: Operations) -> Pulls:
    """Who brings models onto this machine. What has come is in the catalog before anybody is told of it."""
    servers = Servers(lambda: live.settings.nodes, environment)
    return pulls(
        live.settings.pull, store, environment, clock, nodes=servers.plan,
        published=partial(operations.rescan, CONFIGURATION),
    )  # fmt: skip


def gauges(manager: ResidencyManager, inference: Inference, history: MemoryHistory) -> NodeGauges:
    """What a scrape reads from the owners."""
    return NodeGauges(
        manager.residents, manager.devices, lambda: inference.running_count, lambda: manager.queue_length,
        lambda: history.node,
    )  # fmt: skip


async def follow(events: EventBus, metrics: Metrics) -> None:
    """Count what happens to models. Whoever tells of it has logged it."""
    with events.subscribe(after=0) as subscription:
        async for event in subscription:
            metrics.count_event(event)

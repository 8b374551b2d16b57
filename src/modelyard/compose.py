"""From settings to a running node: the only place where objects are built and joined.

Everything lives in one exit stack and one task group, so that it ends in the reverse order it began, however it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial

import psutil
import structlog
from starlette.applications import Starlette

from modelyard import demo
from modelyard.api.app import InferenceEndpoints, build_app
from modelyard.api.hosts import HostPolicy, OriginPolicy
from modelyard.api.models import ModelEndpoints
from modelyard.api.openai import OpenAIEndpoints
from modelyard.api.security import Guard, check_bind
from modelyard.clock import Clock, SystemClock
from modelyard.config.explain import setting_rows
from modelyard.config.load import process_environment
from modelyard.config.model_settings import ModelOptions
from modelyard.config.schema import Settings
from modelyard.config.settings import LoadedSettings
from modelyard.engines import hardware
from modelyard.engines.base import Engine
from modelyard.engines.echo import Echo, echo_model
from modelyard.engines.llamacpp import LlamaCpp, LlamaOverrides
from modelyard.errors import YardError
from modelyard.events import EventBus
from modelyard.gateway.inference import Inference
from modelyard.gateway.keys import ALL_RIGHTS, Caller, KeyEntry, KeyRing, Right
from modelyard.gateway.limits import Limits
from modelyard.gateway.memory_history import MemoryHistory
from modelyard.gateway.metrics import Metrics, NodeGauges
from modelyard.gateway.operations import Operations
from modelyard.gateway.usage import Usage
from modelyard.memory.devices import SystemDevices
from modelyard.models.catalog import Catalog
from modelyard.models.describe import describe
from modelyard.models.scan import scan
from modelyard.providers.deadlines import Deadlines
from modelyard.providers.local import LocalProvider
from modelyard.residency.manager import ResidencyManager
from modelyard.residency.state import ResidencyLimits
from modelyard.types.model import Model
from modelyard.types.status import Residency
from modelyard.workers.leftovers import reap_leftovers
from modelyard.workers.run_folder import RunFolder, run_root
from modelyard.workers.start import Keeping, Starter, StartLimits

BUILTIN = "yardling"
CONFIGURATION = Caller("configuration", ALL_RIGHTS)  # who loads pinned models, in the log of acts

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Node:
    """A running node, as its server and its tests see it."""

    app: Starlette
    operations: Operations
    inference: Inference
    manager: ResidencyManager
    catalog: Catalog
    run: RunFolder


@asynccontextmanager
async def running_node(
    loaded: LoadedSettings,
    *,
    engines: Iterable[Engine] = (),
    models: Iterable[Model] = (),
) -> AsyncIterator[Node]:
    """Build everything and keep it running until the block ends. `engines` and `models` are further ones."""
    settings, environment = loaded.settings, process_environment()
    clock, events = SystemClock(), EventBus()
    async with AsyncExitStack() as stack:
        # The ground: this run's folder, what an earlier run left, the machine.
        root = run_root(loaded.paths.runtime)
        await asyncio.to_thread(reap_leftovers, root)
        run = stack.enter_context(RunFolder(root))
        devices = SystemDevices(ram_limit_bytes=settings.memory.ram_limit_bytes, gpus=settings.memory.gpus)

        # Models, and who is in memory.
        scanned = partial(scan_models, settings, tuple(models))
        catalog = Catalog(await asyncio.to_thread(scanned), settings.models.aliases)
        recipes = (*engines, Echo(environment), await llamacpp(settings, devices, environment))
        starter = Starter(recipes, run, devices.process, start_limits(settings), keeping(settings))
        manager = ResidencyManager(
            clock, events, devices, starter, residency_limits(settings), queue_s=settings.residency.queue_s
        )  # fmt: skip

        # The data plane and the control plane.
        metrics = Metrics()
        provider = LocalProvider(manager, clock, deadlines(settings))
        inference = Inference(
            catalog=catalog, provider=provider, usage=Usage(metrics, clock), metrics=metrics, clock=clock,
            loading=lambda: loading_names(manager),
        )  # fmt: skip
        operations = Operations(
            clock=clock, events=events, residency=manager, catalog=catalog, requests=inference, scan=scanned,
            effective_settings=lambda: {row.name: row.value for row in setting_rows(loaded)},
        )  # fmt: skip
        history = MemoryHistory(clock, node_bytes=own_bytes, devices=manager.devices, residents=manager.residents)
        metrics.registry.register(gauges(manager, inference))

        openai = OpenAIEndpoints(
            inference=inference, clock=clock, default_model=partial(default_model, settings, catalog),
            body_bytes_max=settings.server.body_max_bytes,
        )  # fmt: skip
        listing = ModelEndpoints(catalog, manager.residents, partial(launch_details, starter))
        endpoints = InferenceEndpoints(openai.chat_completions, openai.completions, listing.models, listing.model)
        app = face(settings, clock, endpoints, operations, history, metrics)

        # Whoever fails takes the node down: half a node is worse than none.
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        background = [tasks.create_task(manager.run()), tasks.create_task(history.run())]
        background += [tasks.create_task(follow(events, metrics)), tasks.create_task(preload(settings, operations))]
        try:
            yield Node(app, operations, inference, manager, catalog, run)
        finally:
            await manager.close()
            for task in background:
                task.cancel()


def face(
    settings: Settings,
    clock: Clock,
    endpoints: InferenceEndpoints,
    operations: Operations,
    history: MemoryHistory,
    metrics: Metrics,
) -> Starlette:
    """The HTTP side of a node."""
    return build_app(
        inference=endpoints,
        operations=operations,
        history=history,
        guard=guard(settings, clock),
        registry=metrics.registry,
        language=settings.server.language,
    )


# ---- values for the parts, from settings ----


def scan_models(settings: Settings, further: tuple[Model, ...] = ()) -> tuple[Model, ...]:
    """Every model this node answers for: found in folders, built in, scripted, and handed in."""
    chosen = settings.models
    found = scan(chosen.folders)
    for problem in found.problems:
        log.warning("models.folder_problem", path=str(problem.path), problem=problem.problem)
    models = {model.name: model for model in found.models}
    if chosen.builtin and demo.gguf_path().exists():
        models.setdefault(BUILTIN, describe(BUILTIN, [demo.gguf_path()]))
    for name, script in chosen.echo.items():
        models[name.lower()] = echo_model(name, **script.model_dump(exclude_none=True))
    models.update((model.name, model) for model in further)
    if chosen.engine is not None:
        return tuple(model for model in models.values() if model.engine == chosen.engine)
    return tuple(models.values())


async def llamacpp(settings: Settings, devices: SystemDevices, environment: Mapping[str, str]) -> LlamaCpp:
    """The engine for GGUF files, on this machine's hardware."""
    has_gpu = any(reading.kind == "gpu" for reading in await asyncio.to_thread(devices.read))
    gpus = await hardware.usable_gpus(environment) if has_gpu else ()
    return LlamaCpp(
        hardware.read_hardware(gpus),
        environment,
        overrides=overrides(settings.models.options_for("")),
        per_model={name: overrides(settings.models.options_for(name)) for name in settings.models.options},
    )


def overrides(options: ModelOptions) -> LlamaOverrides:
    return LlamaOverrides(
        context_length=options.context_length,
        slots=options.slots,
        threads=options.threads,
        n_batch=options.n_batch,
        n_gpu_layers=options.n_gpu_layers,
        kv_type=options.kv_type,
        prompt_cache_bytes=options.prompt_cache_bytes,
    )


def residency_limits(settings: Settings) -> ResidencyLimits:
    residency = settings.residency
    return ResidencyLimits(
        headroom_bytes=settings.memory.headroom_bytes,
        idle_ttl_s=residency.idle_ttl_s if residency.unload_enabled else -1.0,
        queue_max=residency.queue_max,
    )


def keeping(settings: Settings) -> dict[str, Keeping]:
    """How long single models stay, by name. Nothing expires where idle unloading is off."""
    is_on = settings.residency.unload_enabled
    return {
        name: Keeping(options.idle_ttl_s if is_on else None, options.pinned)
        for name, options in settings.models.options.items()
    }


async def preload(settings: Settings, operations: Operations) -> None:
    """Bring pinned models in, one after the other. One that cannot be loaded is logged, and tried when asked for."""
    for name, options in settings.models.options.items():
        if options.pinned:
            with suppress(YardError):
                await operations.load(CONFIGURATION, name, pinned=True)


def start_limits(settings: Settings) -> StartLimits:
    given = settings.deadlines
    return StartLimits(load_stall_s=given.load_stall_s, load_s=given.load_s, load_s_per_gib=given.load_per_gib_s)


def deadlines(settings: Settings) -> Deadlines:
    given = settings.deadlines
    return Deadlines(given.connect_s, settings.residency.queue_s, given.first_token_s, given.between_tokens_s)


def guard(settings: Settings, clock: Clock) -> Guard:
    """Who may come in."""
    server, given = settings.server, settings.limits
    keys = KeyRing(
        KeyEntry(
            key.id,
            f"sha256:{key.secret_sha256}",
            frozenset(Right(right) for right in key.rights),
            None if key.models is None else frozenset(key.models),
        )
        for key in settings.keys
    )
    where = "server.host" if server.fd is None else "server.fd"
    for warning in check_bind(server.host, keys, allow_open=server.allow_open_bind, where=where):
        log.warning("server.open_bind", warning=warning)
    limits = Limits(
        clock, requests_max=given.requests_max, window_s=given.window_s, concurrent_max=given.concurrent_max
    )
    return Guard(
        keys=keys,
        limits=limits,
        hosts=HostPolicy(bind_host=server.host, declared=server.allowed_hosts),
        origins=OriginPolicy(server.allowed_origins),
        trusted_proxies=server.trusted_proxies,
        allow_open=server.allow_open_bind,
    )


def default_model(settings: Settings, catalog: Catalog) -> str | None:
    """Who answers a request that names no model: the configured one, else the only one there is."""
    if settings.models.default is not None:
        return settings.models.default
    servable = [model.name for model in catalog.list() if not model.problem]
    own = [name for name in servable if name != BUILTIN] or servable
    return own[0] if len(own) == 1 else None


async def launch_details(starter: Starter, model: Model) -> Mapping[str, object]:
    """How a model would be started and why, and what it would need."""
    plan = await starter.plan(model)
    return {"launch": asdict(plan.options), "footprint": asdict(plan.footprint)}


def gauges(manager: ResidencyManager, inference: Inference) -> NodeGauges:
    """What a scrape reads from the owners."""
    return NodeGauges(
        manager.residents, manager.devices, lambda: inference.running_count, lambda: manager.queue_length
    )  # fmt: skip


def loading_names(manager: ResidencyManager) -> frozenset[str]:
    """The models being loaded, or waiting for room."""
    states = (Residency.WAITING, Residency.LOADING)
    return frozenset(resident.model for resident in manager.residents() if resident.state in states)


def own_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


async def follow(events: EventBus, metrics: Metrics) -> None:
    """Count what happens to models. Whoever tells of it has logged it."""
    with events.subscribe(after=0) as subscription:
        async for event in subscription:
            metrics.count_event(event)

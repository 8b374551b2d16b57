"""From settings to a minimal node: one model of this machine, chat and health, and nothing that these do not need.

The parts are those of the whole server: the same door, catalog, residency and workers. Left out are other nodes, the
admin API, metrics, further dialects, watching the configuration, and GPUs: reading those alone costs a fifth of the
memory. Importing this file must stay cheap; a test says what it must not bring in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial

import structlog

from modelyard.api.health import HealthEndpoints
from modelyard.api.minimal import build_minimal_app
from modelyard.api.models import ModelEndpoints
from modelyard.clock import SystemClock
from modelyard.config.load import process_environment
from modelyard.config.schema import Settings
from modelyard.config.settings import LoadedSettings
from modelyard.errors import N_, ConfigError
from modelyard.events import EventBus
from modelyard.gateway.figures import NoFigures
from modelyard.gateway.inference import Inference
from modelyard.gateway.operations import Operations
from modelyard.gateway.usage import Usage
from modelyard.memory.holders import SystemHolders
from modelyard.memory.machine import MachineDevices
from modelyard.memory.measured import MeasuredStore
from modelyard.models.catalog import Catalog
from modelyard.models.problems import advice
from modelyard.models.stored import opened_store
from modelyard.node import FOOTPRINTS_FILE, Node, preload, working
from modelyard.providers.local import LocalProvider
from modelyard.residency.manager import ResidencyManager
from modelyard.routing.only_here import OnlyHere
from modelyard.showing import launch_details, loading_names, memory_history
from modelyard.types.model import Capability, Model
from modelyard.wiring.engines import recipes
from modelyard.wiring.names import (
    BUILTIN,
    aliases,
    default_model,
    fallbacks,
    is_at,
    problem_at_path,
    prompt_limits,
)
from modelyard.wiring.parts import (
    deadlines,
    guard,
    keeping,
    prompt_guards,
    residency_limits,
    scan_models,
    start_limits,
)
from modelyard.workers.leftovers import reap_leftovers
from modelyard.workers.run_folder import RunFolder, run_root
from modelyard.workers.start import Starter

NAMES_MAX = 10
HOW_TO_NAME = N_("Name one: modelyard serve --minimal --model NAME, or a file or folder in its place.")

log = structlog.get_logger()


@asynccontextmanager
async def running_node(loaded: LoadedSettings) -> AsyncIterator[Node]:
    """Build everything and keep it running until the block ends."""
    settings, environment = loaded.settings, process_environment()
    clock, events = SystemClock(), EventBus()
    async with AsyncExitStack() as stack:
        root = run_root(loaded.paths.runtime)
        await asyncio.to_thread(reap_leftovers, root)
        run = stack.enter_context(RunFolder(root))
        devices = MachineDevices(ram_limit_bytes=settings.memory.ram_limit_bytes)

        stored = await asyncio.to_thread(opened_store, settings.pull.store or loaded.paths.store)
        model = only_model(settings, await asyncio.to_thread(scan_models, settings, stored))
        catalog = Catalog((model,), aliases(settings), settings.roles)
        built_in = await recipes(settings, devices, environment)
        measured = stack.enter_context(closing(MeasuredStore(loaded.paths.state / FOOTPRINTS_FILE)))
        starter = Starter(built_in.all, run, devices.process, start_limits(settings), keeping(settings), measured)
        manager = ResidencyManager(
            clock, events, devices, starter, residency_limits(settings), queue_s=settings.residency.queue_s,
            holders=SystemHolders(devices),
        )  # fmt: skip

        local = LocalProvider(manager, clock, deadlines(settings), limits_of=partial(prompt_limits, settings))
        figures = NoFigures()
        inference = Inference(
            catalog=catalog, router=OnlyHere(local), usage=Usage(figures, clock), metrics=figures, clock=clock,
            loading=lambda: loading_names(manager), waits=manager.waiting_of, role_of=catalog.role_of,
            guards=prompt_guards(settings, str(loaded.origin(("guards", "hook")).detail)),
            fallbacks=partial(fallbacks, settings), total_s=lambda _model: settings.routing.total_s,
        )  # fmt: skip
        operations = Operations(
            clock=clock, events=events, residency=manager, catalog=catalog, requests=inference, scan=lambda: (model,)
        )
        history = memory_history(clock, events, devices, manager)
        app = build_minimal_app(
            inference=inference, clock=clock, guard=guard(settings, clock),
            models=ModelEndpoints(catalog, manager.residents, partial(launch_details, starter, manager)),
            health=HealthEndpoints(operations, history), model=model.name,
            body_bytes_max=settings.server.body_max_bytes, language=settings.server.language,
        )  # fmt: skip
        if settings.nodes:
            log.warning("config.not_used", names=["nodes"], why="a minimal server knows no other node")
        await stack.enter_async_context(working(manager, history.run(), preload(settings, operations)))
        yield Node(app, operations, inference, manager, catalog, run, not_again)


def only_model(settings: Settings, found: Iterable[Model]) -> Model:
    """The model to serve: the one that is named or at `models.path`, else the only one that chats."""
    found, path = tuple(found), settings.models.path if settings.models.default is None else None
    if path is not None:
        if problem := problem_at_path(found, path, must_chat=True):
            raise ConfigError(
                N_("{where}: {path} cannot be served: {problem}"), where="models.path", path=str(path), problem=problem,
                hints=advice(problem),
            )  # fmt: skip
        found = tuple(model for model in found if is_at(model, path))
    chatting = [model for model in found if model.problem or Capability.CHAT in model.capabilities]
    catalog = Catalog(chatting, aliases(settings), settings.roles)
    name = default_model(settings, catalog)
    if name is not None:
        return catalog.resolve(name)
    names = sorted(model.name for model in chatting if not model.problem)
    if not names:
        raise ConfigError(N_("{where}: there is no model to serve."), where="models.path", hints=(HOW_TO_NAME,))
    shown = ", ".join(name for name in names[:NAMES_MAX] if name != BUILTIN)
    raise ConfigError(
        N_("{where}: a minimal server has one model, and there are several: {names}."), where="models.path",
        names=shown, hints=(HOW_TO_NAME,),
    )  # fmt: skip


def not_again() -> None:
    """Asked to read the configuration again: said, so that nobody waits for it."""
    log.warning("config.not_watched", why="a minimal server reads its configuration once")

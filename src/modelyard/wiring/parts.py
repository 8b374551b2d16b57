"""Values for the parts of a node, from settings: pure translation, and nothing is joined or started here.

What a setting means to a part is read here and nowhere else; compose puts the parts together.
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from modelyard import demo
from modelyard.api.hosts import HostPolicy, OriginPolicy
from modelyard.api.security import Guard, check_bind
from modelyard.clock import Clock
from modelyard.config.schema import Settings
from modelyard.engines.choice import one_per_folder
from modelyard.engines.command import command_model
from modelyard.engines.echo import echo_model
from modelyard.engines.transformers import LACKS as TRANSFORMERS_LACKS
from modelyard.engines.transformers import NAME as TRANSFORMERS
from modelyard.gateway.keys import KeyEntry, KeyRing, Right
from modelyard.gateway.limits import Limits
from modelyard.gateway.prompt_guards import GuardRules, PromptGuards, folded, load_hook
from modelyard.models.describe import describe
from modelyard.models.folder import describe_folder
from modelyard.models.scan import scan
from modelyard.models.store import Store
from modelyard.models.stored import stored_models
from modelyard.providers.deadlines import Deadlines
from modelyard.residency.state import ResidencyLimits
from modelyard.types.model import VECTORS_GROUP, Model
from modelyard.wiring.commands import commands
from modelyard.wiring.names import BUILTIN, allowed, engine_order, paths_of_one
from modelyard.workers.launch_plan import Keeping
from modelyard.workers.start import StartLimits

log = structlog.get_logger()


def scan_models(settings: Settings, store: Store, further: tuple[Model, ...] = ()) -> tuple[Model, ...]:
    """Every model this node answers for: found in folders, pulled, built in, scripted, and handed in."""
    chosen = settings.models
    found = scan((*paths_of_one(chosen.path), *chosen.folders), code_folders=chosen.code_folders)
    for problem in found.problems:
        log.warning("models.folder_problem", path=str(problem.path), problem=problem.problem)
    chosen_ones = one_per_folder(found.models, lambda name: engine_order(settings, name))
    models = {model.name: model for model in (*chosen_ones, *stored_models(store))}
    if chosen.builtin and demo.gguf_path().exists():
        models.setdefault(BUILTIN, _builtin(chosen.engine))
    for name, recipe in commands(settings).items():
        models[name.lower()] = command_model(name, recipe)
    for name, script in chosen.echo.items():
        models[name.lower()] = echo_model(name, **script.model_dump(exclude_none=True))
    models.update((model.name, model) for model in further)
    for model in [model for model in models.values() if model.engine == TRANSFORMERS]:
        models[model.name] = replace(model, lacks=TRANSFORMERS_LACKS)
    if chosen.engine is not None:
        return tuple(model for model in models.values() if model.engine == chosen.engine)
    return tuple(models.values())


def _builtin(engine: str | None) -> Model:
    """The built-in model, as the file or the folder that this engine reads."""
    if engine == TRANSFORMERS:
        return describe_folder(BUILTIN, demo.hf_folder())
    return describe(BUILTIN, [demo.gguf_path()])


def guard_rules(settings: Settings) -> GuardRules:
    """What prompts are held to."""
    given = settings.guards
    return GuardRules(tuple(folded(phrase).strip() for phrase in given.deny), given.hook_s, given.on_failure == "pass")


def prompt_guards(settings: Settings, where: str) -> PromptGuards:
    """Who looks at prompts. `where` the hook was named, should there be none."""
    name = settings.guards.hook
    return PromptGuards(guard_rules(settings), load_hook(name, where), name)


def residency_limits(settings: Settings) -> ResidencyLimits:
    residency, of_vectors = settings.residency, settings.embeddings
    groups = {name: group.resident_max for name, group in settings.models.groups.items()}
    if of_vectors.resident_max is not None:
        groups[VECTORS_GROUP] = of_vectors.resident_max
    return ResidencyLimits(
        policy=settings.memory.policy,
        groups=groups,
        oldest_first=frozenset((VECTORS_GROUP,)),
        vectors_idle_ttl_s=of_vectors.idle_ttl_s,
        headroom_bytes=settings.memory.headroom_bytes,
        headroom_by_device=settings.memory.headroom,
        idle_ttl_s=residency.idle_ttl_s,
        expires=residency.unload_enabled,
        queue_max=residency.queue_max,
    )


def keeping(settings: Settings) -> dict[str, Keeping]:
    """What the configuration says of models in memory, by name.

    The empty name is every other model: it has the ladder of `models.launch`.
    """
    return {
        name: Keeping(
            idle_ttl_s=options.idle_ttl_s,
            pinned=options.pinned,
            weight=options.weight,
            priority=options.priority,
            group=options.group,
            ladder=options.ladder,
        )
        for name, options in ((name, settings.models.options_for(name)) for name in ("", *settings.models.options))
    }


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
            None if key.models is None else allowed(settings, key.models),
            key.priority,
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

"""What names in the configuration mean: which model each leads to, and what is set for the one of that name.

Pure translation of settings, like its neighbours, which build on it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import structlog

from modelyard.config.model_settings import NO_OPTIONS
from modelyard.config.schema import Settings
from modelyard.errors import N_
from modelyard.models.catalog import Alias, Catalog
from modelyard.providers.fitting import PromptLimits
from modelyard.types.model import Capability, Model

BUILTIN = "yardling"

log = structlog.get_logger()


def aliases(settings: Settings) -> dict[str, Alias]:
    """Configured names as the catalog takes them."""
    return {
        name: target if isinstance(target, str) else ("warm" if target.warm else "first", target.names)
        for name, target in settings.models.aliases.items()
    }


def allowed(settings: Settings, names: Iterable[str]) -> frozenset[str]:
    """The models a key may use: those it names, by whichever of their configured names."""
    leads_to = {
        name.lower(): (target,) if isinstance(target, str) else tuple(target[1])
        for name, target in {**aliases(settings), **settings.roles}.items()
    }
    found: set[str] = set()
    waiting = [name.lower() for name in names]
    while waiting:  # until they lead nowhere, or in a circle
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [target.lower() for target in leads_to.get(name, ())]
    return frozenset(found)


def default_model(settings: Settings, catalog: Catalog) -> str | None:
    """Who answers a request that names no model: the configured one, that at `models.path`, or the only one.

    Who set `models.path` meant the model there: where it cannot be served, no other takes its place.
    """
    if settings.models.default is not None:
        return settings.models.default
    servable = [model for model in catalog.list() if not model.problem]
    if settings.models.path is not None:
        at_path = [model.name for model in servable if is_at(model, settings.models.path)]
        return at_path[0] if len(at_path) == 1 else None
    here = [model.name for model in servable if not model.node and model.name != BUILTIN]
    there = sorted({model.bare_name for model in servable if model.node})
    names = here or there or [model.name for model in servable]
    return names[0] if len(names) == 1 else None


def is_at(model: Model, path: Path | None) -> bool:
    """Whether a model's files are that file, or in that folder."""
    tops = [top.absolute() for top in paths_of_one(path)]
    folder = model.metadata.get("folder")  # one that is not served may have no files
    places = (*model.files, Path(str(folder))) if folder else model.files
    return any(place.is_relative_to(top) for place in places for top in tops)


def problem_at_path(models: Iterable[Model], path: Path, *, must_chat: bool = False) -> str:
    """Why nothing at `models.path` can be served; empty if something there can."""
    there = [model for model in models if is_at(model, path)]
    servable = [model for model in there if not model.problem]
    if any(not must_chat or Capability.CHAT in model.capabilities for model in servable):
        return ""
    if servable:
        return N_("it cannot chat")
    return there[0].problem if there else N_("no engine here serves it")


def paths_of_one(path: Path | None) -> tuple[Path, ...]:
    """Where to look for the one model: a file of a model folder stands for the folder."""
    if path is None:
        return ()
    is_part = path.suffix.lower() != ".gguf" and path.is_file() and (path.parent / "config.json").exists()
    return (path.parent if is_part else path,)


def engine_order(settings: Settings, model: str) -> tuple[str, ...]:
    """Engines, the first choice first."""
    only = (settings.models.engine,) if settings.models.engine is not None else ()
    return (*only, *(settings.models.own_options(model).engines or settings.models.engines))


def fallbacks(settings: Settings, model: str) -> tuple[str, ...]:
    """Who answers for a model that cannot be brought in, in order."""
    named = settings.models.options_for(model).stand_ins
    sync = settings.sync
    is_baseline = sync.fallback and model.lower() in (name.lower() for name in sync.baseline_models)
    return (*named, *(sync.fallback_models if is_baseline else ()))


def prompt_limits(settings: Settings, model: str) -> PromptLimits:
    """How long prompts to a model may be: what is set for it, or for it at any node, or for all."""
    given, own = settings.prompts, settings.models.own_options(model)
    if own is NO_OPTIONS and "@" in model:
        own = settings.models.own_options(model.partition("@")[0])
    return PromptLimits(
        own.max_input_tokens or given.max_input_tokens,
        own.max_message_tokens or given.max_message_tokens,
        bool(given.trim if own.trim is None else own.trim),
    )


def warn_of_unknown_names(settings: Settings, catalog: Catalog) -> None:
    """Tell of names in the configuration that no model has. Not an error: it may still be added to a folder."""
    models = settings.models
    given = [("models.default", models.default or "")]
    given += [("models.options", name) for name in models.options]
    for alias, target in aliases(settings).items():
        given += [(f"models.aliases.{alias}", name) for name in ((target,) if isinstance(target, str) else target[1])]
    given += [(f"roles.{role}", name) for role, name in settings.roles.items()]
    given += [(f"keys.{key.id}", name) for key in settings.keys for name in key.models or ()]
    for name, options in models.options.items():
        given += [(f"models.options.{name}.ladder", other) for other in fallbacks(settings, name)]
        if options.group and options.group not in models.groups:
            given.append((f"models.options.{name}.group", options.group))
    for where, name in given:
        if name and catalog.find(name) is None:
            log.warning("config.unknown_model", where=where, name=name)
    if models.path is None:
        return
    at_path = [model.name for model in catalog.list() if not model.problem and is_at(model, models.path)]
    if len(at_path) != 1:
        problem = problem_at_path(catalog.list(), models.path) or N_("there are several models")
        log.warning("config.path_is_not_one_model", path=str(models.path), models=at_path, problem=problem)

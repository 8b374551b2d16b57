"""From what was given to checked settings, each with its origin. Turns pydantic's complaints into `ConfigError`.

The public way in is `load_settings`. A wrong configuration is refused as a whole, with every problem named.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from modelyard.config import files, shared_layout
from modelyard.config.finding import Finding
from modelyard.config.load import Flag, Origin, Parts, Sources, dotted, process_environment, read_sources
from modelyard.config.paths import Paths, user_paths
from modelyard.config.schema import Settings
from modelyard.errors import N_, ConfigError
from modelyard.loopback import is_loopback

PROBLEMS_MAX = 20
DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings, where each came from, and what is worth saying about them."""

    settings: Settings
    paths: Paths
    origins: Mapping[Parts, Origin] = field(default_factory=dict)
    file: Path | None = None
    variables: Mapping[str, Parts] = field(default_factory=dict)  # environment variables in effect and what they set
    notices: tuple[Finding, ...] = ()
    watched: tuple[Path, ...] = ()  # files whose change may change this
    again: Callable[[], LoadedSettings] | None = field(default=None, repr=False, compare=False)  # the same, read anew

    def origin(self, parts: Parts) -> Origin:
        """Where a value came from: its own origin, or that of what it is a part of."""
        for length in range(len(parts), 0, -1):
            if parts[:length] in self.origins:
                return self.origins[parts[:length]]
        return DEFAULT


def load_settings(
    flags: Sequence[Flag] = (),
    *,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    paths: Paths | None = None,
) -> LoadedSettings:
    """Read, merge and check everything. Raise `ConfigError` if anything is wrong."""
    environment = process_environment() if environment is None else environment
    paths = paths or user_paths(environment)
    sources = read_sources(
        flags, config_file=config_file, environment=environment, folder=folder, user_folder=paths.config
    )
    if ("models", "folders") not in sources.origins and paths.models.is_dir():
        sources.put(("models", "folders"), [str(paths.models)], DEFAULT)
    try:
        settings = Settings.model_validate(sources.tree)
    except ValidationError as problem:
        raise _refusal(problem, sources) from None  # pydantic's own text would show the values, secrets among them
    loaded = LoadedSettings(
        settings=settings,
        paths=paths,
        origins=dict(sources.origins),
        file=sources.file,
        variables=dict(sources.variables),
        notices=tuple(sources.notices),
        watched=_watched(sources, settings, folder or Path.cwd()),
        again=partial(
            load_settings, flags, config_file=config_file, environment=environment, folder=folder, paths=paths
        ),
    )
    _check_bind(loaded)
    _check_path(loaded)
    _check_stand_ins(loaded)
    return loaded


def _watched(sources: Sources, settings: Settings, folder: Path) -> tuple[Path, ...]:
    """Also those that are not there yet: `.env` and the shared file may be made later. And what the file refers to."""
    certificates = {node.ca_file for node in settings.nodes if node.ca_file is not None}
    own = (sources.file,) if sources.file is not None else tuple(folder / name for name in files.NAMES)
    return (*own, folder / ".env", folder.joinpath(*shared_layout.PATH), *sorted(sources.read | certificates))


def is_open(settings: Settings) -> bool:
    """Whether strangers could use the server: it listens off loopback and wants no key."""
    return not is_loopback(settings.server.host) and not settings.keys


def _check_bind(loaded: LoadedSettings) -> None:
    if is_open(loaded.settings) and not loaded.settings.server.allow_open_bind:
        origin = loaded.origin(("server", "host"))
        raise ConfigError(
            N_("{where}: listening on {host} without a key would let everybody who reaches it use this server"),
            hints=(
                N_('Add a key: [[keys]] with id and secret = "env:NAME".'),
                N_("Or listen on 127.0.0.1, or set server.allow_open_bind = true if you are sure."),
            ),
            where=origin.detail or origin.source,
            host=loaded.settings.server.host,
        )


def _check_path(loaded: LoadedSettings) -> None:
    """Who names one model wants that one: without it there is nothing to start for."""
    path = loaded.settings.models.path
    if path is not None and not os.path.exists(path):
        origin = loaded.origin(("models", "path"))
        raise ConfigError(
            N_("{where}: models.path: there is no file or folder {path}"),
            hints=(N_("Give a GGUF file, or the folder of a model."),),
            where=origin.detail or origin.source,
            path=path,
        )


def _check_stand_ins(loaded: LoadedSettings) -> None:
    """Models that answer for each other in a circle: nobody can have meant it."""
    models, roles = loaded.settings.models, loaded.settings.roles
    other_names = {name.lower(): to.lower() for name, to in {**models.aliases, **roles}.items() if isinstance(to, str)}
    known = {name.lower() for name in models.options}
    leads_to = {
        name: [_own_name(other, known, other_names) for other in models.own_options(name).stand_ins] for name in known
    }
    for name in models.options:
        circle = _circle(name.lower(), leads_to)
        if circle:
            origin = loaded.origin(("models", "options", name, "ladder"))
            raise ConfigError(
                N_("{where}: models.options.{name}.ladder: models stand in for each other in a circle: {circle}"),
                hints=(N_("Take model=NAME out of one of these ladders."),),
                where=origin.detail or origin.source,
                name=name,
                circle=" → ".join(circle),
            )


def _own_name(name: str, known: Collection[str], other_names: Mapping[str, str]) -> str:
    """The name that a model's options have, where it is named by an alias or a role."""
    seen: set[str] = set()
    name = name.lower()
    while name not in known and name in other_names and name not in seen:
        seen.add(name)
        name = other_names[name]
    return name


def _circle(name: str, leads_to: Mapping[str, Sequence[str]]) -> list[str]:
    """The way from a name back to itself; empty if there is none."""
    waiting, seen = [[name]], {name}
    while waiting:
        way = waiting.pop()
        for other in leads_to.get(way[-1], ()):
            if other == name:
                return [*way, name]
            if other not in seen:
                seen.add(other)
                waiting.append([*way, other])
    return []


def _refusal(problem: ValidationError, sources: Sources) -> ConfigError:
    details = problem.errors(include_url=False, include_context=False, include_input=False)
    found = [_explained(detail, sources) for detail in details[:PROBLEMS_MAX]]
    if len(found) == 1:
        return found[0]
    return ConfigError(
        N_("{count} settings are wrong:\n{details}"),
        count=len(details),
        details="\n".join(f"  {error}" for error in found),
        parts=tuple(found),  # each alone, for whoever shows them in another language
    )


def _explained(detail: ErrorDetails, sources: Sources) -> ConfigError:
    location = detail["loc"]
    where = _where(location, sources)
    name = dotted(location)
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _known_names(location[:-1]), n=1, cutoff=0.6)
        if near:
            text = N_("{where}: there is no setting {name}; did you mean {near}?")
            return ConfigError(text, where=where, name=name, near=dotted((*location[:-1], *near)))
        return ConfigError(N_("{where}: there is no setting {name}"), where=where, name=name)
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return ConfigError(N_("{where}: {name}: {problem}"), where=where, name=name, problem=message)


def _where(location: Sequence[int | str], sources: Sources) -> str:
    parts = tuple(str(part) for part in location)
    for length in range(len(parts), 0, -1):
        origin = sources.origins.get(parts[:length]) or next(
            (known for path, known in sources.origins.items() if path[:length] == parts[:length]), None
        )
        if origin is None:
            continue
        if origin.source == "file":
            line = files.line_of(sources.file_text, location)
            return f"{sources.file}:{line}" if line else str(sources.file)
        return origin.detail or origin.source
    return str(sources.file) if sources.file else "settings"


def _known_names(location: Sequence[int | str]) -> list[str]:
    kind: object = Settings
    for part in location:
        section = _model_in(kind)
        if section is None:
            return []
        kind = section.model_fields[part].annotation if part in section.model_fields else section
    found = _model_in(kind)
    return list(found.model_fields) if found else []


def _model_in(kind: object) -> type[BaseModel] | None:
    """The settings class inside an annotation such as `tuple[KeySettings, ...]` or `Mapping[str, ModelOptions]`."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((found for inner in get_args(kind) if (found := _model_in(inner)) is not None), None)

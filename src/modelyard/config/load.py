"""The only reader of configuration files, of the environment and of flags: what was given and where, as raw values.

Precedence: flags > environment > `.env` > file > defaults. Checking values is for settings.py; this file stays light,
since every command of the command line goes through it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from modelyard.config import command_source, files, shared_layout
from modelyard.config.dotenv import read_dotenv, text_of
from modelyard.config.finding import Finding
from modelyard.config.secrets import resolve_secrets
from modelyard.errors import N_

PREFIX = "MODELYARD_"
DEFAULT_URL = "http://127.0.0.1:11435"
# Our names without `__` that are not settings of the server.
CLIENT_VARIABLES = frozenset(("URL", "KEY", "KEY_FILE", "CONFIG", "LANG", "NO_HISTORY", "RUN"))
SECTIONS = frozenset(
    (
        "server",
        "keys",
        "limits",
        "memory",
        "residency",
        "deadlines",
        "models",
        "embeddings",
        "roles",
        "prompts",
        "guards",
        "nodes",
        "routing",
        "sync",
        "pull",
        "log",
    )
)
# Names that other tools in this field use, and what they mean here.
FOREIGN_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "MODEL_PATH": ("models", "path"),
    "MODEL_BACKEND": ("models", "engine"),
    "MODEL_UNLOAD_ENABLED": ("residency", "unload_enabled"),
    "MAX_INPUT_TOKENS": ("prompts", "max_input_tokens"),
}

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from. `detail` is a flag's or variable's name, or a file and line."""

    source: Literal["flag", "environment", ".env", "file", "default"]
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.source} {self.detail}".strip()


@dataclass(frozen=True, slots=True)
class Flag:
    """A setting given on the command line."""

    parts: Parts
    value: object
    name: str


@dataclass(slots=True)
class Sources:
    """Everything that was given, merged; raw values."""

    tree: dict[str, object] = field(default_factory=dict)
    origins: dict[Parts, Origin] = field(default_factory=dict)
    file: Path | None = None
    file_text: str = field(default="", repr=False)
    variables: dict[str, Parts] = field(default_factory=dict)
    notices: list[Finding] = field(default_factory=list)
    read: set[Path] = field(default_factory=set)  # files that are referred to, and whose contents count

    def put(self, parts: Parts, value: object, origin: Origin) -> None:
        """Set one value; a mapping is merged into what is there, anything else replaces it."""
        if isinstance(value, Mapping) and value:
            for key, item in value.items():
                self.put((*parts, str(key)), item, origin)
            return
        branch = self.tree
        for part in parts[:-1]:
            deeper = branch.get(part)
            if not isinstance(deeper, dict):
                deeper = branch[part] = {}
            branch = deeper
        branch[parts[-1]] = value
        for below in [known for known in self.origins if known[: len(parts)] == parts]:
            del self.origins[below]
        self.origins[parts] = origin


@dataclass(frozen=True, slots=True)
class ClientTarget:
    """Which server the command line talks to, and as whom."""

    url: str = DEFAULT_URL
    key: str | None = field(default=None, repr=False)


def process_environment() -> dict[str, str]:
    """The environment this process was started with, for whoever must hand a part of it on."""
    return dict(os.environ)


def read_sources(
    flags: Sequence[Flag] = (),
    *,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    user_folder: Path | None = None,
) -> Sources:
    """Read everything, lowest precedence first. `folder` is the working folder, `user_folder` the user's own."""
    environment = process_environment() if environment is None else environment
    folder = folder or Path.cwd()
    dotenv = read_dotenv(folder / ".env")
    variables = {**dotenv, **environment}
    sources = Sources()
    if config_file is None and variables.get(PREFIX + "CONFIG"):
        config_file = Path(variables[PREFIX + "CONFIG"])
    shared = folder.joinpath(*shared_layout.PATH)
    if shared.is_file() and (config_file is None or config_file.absolute() != shared.absolute()):
        _read_file(sources, shared, variables)
    elif (node := shared_layout.remote_node(variables)) is not None:
        sources.put(("nodes",), [node], Origin("environment", shared_layout.HOST_VARIABLE))
    _read_file(sources, config_file or _found_file(sources, folder, user_folder), variables)
    _read_variables(sources, dotenv, ".env", variables, folder)
    _read_variables(sources, environment, "environment", variables, folder)
    for flag in flags:
        value = _anchored(flag.parts, flag.value, folder)
        sources.put(flag.parts, value, Origin("flag", flag.name))
    for parts, origin in sources.origins.items():
        if parts[:2] == command_source.PARTS and origin.source != "file":
            raise command_source.refuse(origin.detail or origin.source)
    return sources


def client_target(
    url: str | None = None, *, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> ClientTarget:
    """The server's address and the key from a flag, the environment or `.env`. A key is never a flag."""
    environment = process_environment() if environment is None else environment
    variables = {**read_dotenv((folder or Path.cwd()) / ".env"), **environment}
    key = variables.get(PREFIX + "KEY") or None
    if key is None and variables.get(PREFIX + "KEY_FILE"):
        path = files.at_home(variables[PREFIX + "KEY_FILE"])
        key = text_of(path, 4096).strip() or None
    address = url or variables.get(PREFIX + "URL") or DEFAULT_URL
    return ClientTarget(address if "://" in address else f"http://{address}", key)


def parts_of(dotted: str) -> Parts:
    """Split a dotted name; quotes keep dots together.

    >>> parts_of('models.options."qwen2.5".slots')
    ('models', 'options', 'qwen2.5', 'slots')
    """
    return tuple(quoted or plain for quoted, plain in re.findall(r'"([^"]+)"|([^."]+)', dotted))


def dotted(parts: Sequence[str | int]) -> str:
    """A setting's name as people write it; what could be misread stands in quotes.

    >>> dotted(("models", "options", "qwen2.5", "slots")), dotted(("keys", 0, "id"))
    ('models.options."qwen2.5".slots', 'keys[0].id')
    """
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = part if part.replace("_", "").replace("-", "").isalnum() else f'"{part}"'
            text += f".{plain}" if text else plain
    return text


def value_of(text: str) -> object:
    """A text from a flag or the environment: JSON lists and objects as such, all else as it is."""
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text


def _found_file(sources: Sources, folder: Path, user_folder: Path | None) -> Path | None:
    for place in (folder, user_folder):
        found = [place / name for name in files.NAMES if (place / name).is_file()] if place else []
        if len(found) > 1:
            sources.notices.append(
                Finding(
                    "config_ambiguous",
                    N_("{used} is used and {ignored} is not."),
                    N_("Keep one configuration file in a folder."),
                    {"used": found[0], "ignored": ", ".join(str(path) for path in found[1:])},
                )
            )
        if found:
            return found[0]
    return None


def _read_file(sources: Sources, path: Path | None, variables: Mapping[str, str]) -> None:
    if path is None:
        return
    path = files.at_home(str(path)).absolute()
    text = text_of(path, files.FILE_BYTES_MAX)
    tree = files.parse(text, path)
    if shared_layout.is_shared(tree):
        tree = shared_layout.from_shared(tree, variables, str(path), sources.notices)
    sources.file, sources.file_text = path, text

    def where(parts: Sequence[str | int]) -> str:
        return f"{path}:{line}" if (line := files.line_of(text, parts)) else str(path)

    command_source.check_file(tree, path, text)
    sources.read |= {*resolve_secrets(tree, variables, path.parent, where, sources.notices, plain_allowed=False)}
    expanded = files.expand(tree, variables, str(path))
    for parts, value in _leaves(expanded, ()):
        sources.put(parts, _anchored(parts, value, path.parent), Origin("file", where(parts)))


def _read_variables(
    sources: Sources,
    given: Mapping[str, str],
    source: Literal[".env", "environment"],
    variables: Mapping[str, str],
    folder: Path,
) -> None:
    # Foreign names first: ours win over them.
    for name in sorted(given, key=lambda name: (name.startswith(PREFIX), name)):
        parts = FOREIGN_VARIABLES.get(name) or _setting(name, source, sources.notices)
        if parts is None or (name in FOREIGN_VARIABLES and not given[name]):
            continue
        value = value_of(given[name])
        told, where = {parts[0]: value}, partial(_same, name)
        sources.read |= {*resolve_secrets(told, variables, folder, where, sources.notices, plain_allowed=True)}
        sources.put(parts, _anchored(parts, value, folder), Origin(source, name))
        sources.variables[name] = parts


def _setting(name: str, source: str, notices: list[Finding]) -> Parts | None:
    if not name.startswith(PREFIX):
        return None
    parts = tuple(part.lower() for part in name.removeprefix(PREFIX).split("__"))
    if len(parts) > 1 or parts[0] in SECTIONS:
        return parts
    # Kubernetes puts MODELYARD_PORT and its like into every pod beside a service of our name: no reason to stop.
    if parts[0].upper() not in CLIENT_VARIABLES:
        notices.append(
            Finding(
                "variable_ignored",
                N_("{name} ({source}) is not a setting and is ignored."),
                N_("A setting is named like MODELYARD_SERVER__PORT."),
                {"name": name, "source": source},
                "notice",
            )
        )
    return None


def _leaves(tree: object, parts: Parts) -> Iterator[tuple[Parts, object]]:
    if isinstance(tree, dict) and (tree or not parts):
        for key, value in tree.items():
            yield from _leaves(value, (*parts, str(key)))
    else:
        yield parts, tree


def _anchored(parts: Parts, value: object, folder: Path) -> object:
    """Paths as written are relative to where they were written."""
    is_command = parts[:2] == command_source.PARTS
    return command_source.anchored(parts, value, folder) if is_command else files.anchored(parts, value, folder)


def _same(place: str, _parts: object) -> str:
    return place

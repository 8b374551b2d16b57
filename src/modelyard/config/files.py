"""What a configuration file says: TOML, YAML or JSON text to a tree, and the line of a key. Reads no files itself."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelyard.errors import N_, ConfigError

NAMES = ("modelyard.toml", "modelyard.yaml", "modelyard.yml", "modelyard.json")
FILE_BYTES_MAX = 1024**2
VALUES_MAX = 100_000
DEPTH_MAX = 32

_VARIABLE = re.compile(r"\$(\$)?\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def parse(text: str, path: Path) -> dict[str, object]:
    """Read a file's text by the file's ending. Raise `ConfigError` with the line where the text breaks off."""
    try:
        match path.suffix.lower():
            case ".toml":
                tree: object = _toml(text)
            case ".json":
                tree = json.loads(text) if text.strip() else {}
            case ".yaml" | ".yml":
                tree = _yaml(text)
            case _:
                raise ConfigError(N_("{where}: a configuration file ends in .toml, .yaml or .json"), where=path)
    except (ValueError, RecursionError) as problem:
        raise ConfigError(where=path, problem=str(problem)) from problem
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(N_("{where}: a configuration file holds named sections"), where=path)
    _check_size(tree, path)
    return tree


def _check_size(tree: object, path: Path) -> None:
    """Refuse what is small as text and huge as a tree: YAML's aliases can repeat themselves without end."""
    waiting: list[tuple[object, int]] = [(tree, 0)]
    count = 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > DEPTH_MAX or count > VALUES_MAX:
            raise ConfigError(N_("{where}: the file has too many values, or too deep ones"), where=path)
        if isinstance(value, dict | list):
            inner = value.values() if isinstance(value, dict) else value
            waiting.extend((item, depth + 1) for item in inner)


def _toml(text: str) -> object:
    import tomllib  # costs 5 ms that only those with a TOML file pay

    return tomllib.loads(text)


def _yaml(text: str) -> object:
    import yaml  # costs 20 ms that only those with a YAML file pay

    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as problem:
        raise ValueError(" ".join(str(problem).split())) from problem


def line_of(text: str, parts: Sequence[str | int]) -> int | None:
    """The line, counted from 1, where a key stands; a good guess for people, not a parser.

    >>> line_of('[server]\\nport = 1\\n[log]\\nlevel = "x"\\n', ("log", "level"))
    4
    >>> line_of("server:\\n  port: 1\\n", ("server", "prot")) is None
    True
    """
    position = 0
    repeat = 1
    for index, part in enumerate(parts):
        if isinstance(part, int):
            continue
        following = parts[index + 1] if index + 1 < len(parts) else None
        repeat = following + 1 if isinstance(following, int) else 1
        key = re.compile(rf"""(?:^|[\s\[{{,."'-])["']?{re.escape(part)}["']?\s*(?:[=:\]]|\.\S)""", re.MULTILINE)
        found = list(key.finditer(text, position))
        if not found:
            return None
        match = found[min(repeat, len(found)) - 1]
        position = match.start() + 1 if match[0][0].isspace() and match[0] != part else match.start()
    return text.count("\n", 0, position) + 1


def at_home(text: str) -> Path:
    """A path as written, with `~` and `~NAME` put in where the system knows whose home that is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def first_variable(value: object) -> str | None:
    """The first variable that `expand` would put into a value; None if there is none.

    >>> first_variable(["a", "$${X}", "${Y:-y}"])
    'Y'
    """
    match value:
        case str():
            return next((match[2] for match in _VARIABLE.finditer(value) if not match[1]), None)
        case dict():
            return first_variable([*value.values()])
        case list():
            return next((found for item in value if (found := first_variable(item)) is not None), None)
        case _:
            return None


def expand(value: object, variables: Mapping[str, str], where: str) -> object:
    """Put variables into every text of a tree: `${NAME}`, `${NAME:-otherwise}`; `$${` stays `${`.

    >>> expand({"a": ["${X}/m", "${Y:-y}", "$${X}"]}, {"X": "1"}, "here")
    {'a': ['1/m', 'y', '${X}']}
    """

    def put(match: re.Match[str]) -> str:
        escaped, name, otherwise = match.groups()
        if escaped:
            return match[0][1:]
        if name in variables:
            return variables[name]
        if otherwise is None:
            raise ConfigError(
                N_("{where}: the environment variable {name} is not set"),
                hints=(N_("Set it, or write ${{{name}:-otherwise}}."),),
                where=where,
                name=name,
            )
        return otherwise

    match value:
        case str():
            return _VARIABLE.sub(put, value)
        case dict():
            return {key: expand(item, variables, where) for key, item in value.items()}
        case list():
            return [expand(item, variables, where) for item in value]
        case _:
            return value


def anchored(parts: tuple[str, ...], value: object, folder: Path) -> object:
    """Paths as written are relative to where they were written."""
    is_path = parts in (("models", "path"), ("pull", "store"))
    if is_path and isinstance(value, str) and value.strip().lower() not in ("", "none"):
        return str(folder / at_home(value.strip()))
    if parts == ("nodes",) and isinstance(value, list):
        return [_node_anchored(node, folder) if isinstance(node, dict) else node for node in value]
    if parts != ("models", "folders"):
        return value
    given = value.split(",") if isinstance(value, str) else value
    if not isinstance(given, list | tuple) or not all(isinstance(item, str | Path) for item in given):
        return value
    return [str(folder / at_home(str(item).strip())) for item in given if str(item).strip()]


def _node_anchored(node: dict[str, object], folder: Path) -> dict[str, object]:
    given = node.get("ca_file")
    return {**node, "ca_file": str(folder / at_home(given))} if isinstance(given, str) else node

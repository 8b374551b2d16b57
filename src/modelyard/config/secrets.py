"""Secrets by reference: `env:NAME` and `file:PATH` where a secret belongs become the secret. Never prints one."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modelyard.config import command_source
from modelyard.config.files import at_home
from modelyard.config.finding import Finding
from modelyard.errors import N_, ConfigError

SECRET_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Hidden:
    """A secret among values that are none. No schema here: every command of the command line reads this file."""

    text: str = field(repr=False)


def resolve_secrets(
    tree: Mapping[str, object],
    variables: Mapping[str, str],
    folder: Path,
    where: Callable[[Sequence[str | int]], str],
    notices: list[Finding],
    *,
    plain_allowed: bool,
) -> tuple[Path, ...]:
    """Replace each reference in `keys[].secret`, `nodes[].key` and the environments of commands in place.

    Tell which files were read for it. Plain text is refused where `plain_allowed` is off; in an environment it is no
    secret. `where` tells the place of a setting, for people.
    """
    read: list[Path] = []
    for command, table in command_source.tables(tree).items():
        environment = table.get(command_source.ENVIRONMENT)
        if not isinstance(environment, dict):
            continue
        for name, value in environment.items():
            if isinstance(value, str) and value.startswith(("env:", "file:")):
                holder: dict[str, object] = {name: value}
                place = where((*command_source.PARTS, command, command_source.ENVIRONMENT, name))
                read += _resolve(holder, name, variables, folder, place, notices, plain_allowed=True)
                environment[name] = Hidden(str(holder[name]))
    for section, member in (("keys", "secret"), ("nodes", "key")):
        entries = tree.get(section)
        for at, entry in enumerate(entries if isinstance(entries, list) else []):
            if isinstance(entry, dict) and isinstance(entry.get(member), str):
                place = where((section, at, member))
                read += _resolve(entry, member, variables, folder, place, notices, plain_allowed=plain_allowed)
    return tuple(read)


def _resolve(
    entry: dict[str, object],
    member: str,
    variables: Mapping[str, str],
    folder: Path,
    where: str,
    notices: list[Finding],
    *,
    plain_allowed: bool,
) -> tuple[Path, ...]:
    """The file that was read, if it was one."""
    secret = str(entry[member])
    scheme, separator, rest = secret.partition(":")
    match scheme if separator else "":
        case "env":
            entry[member] = _from_environment(rest, variables, where)
        case "file":
            path = folder / at_home(rest)
            entry[member] = _from_file(path, where, notices)
            return (path,)
        case "sha256" if member == "secret":
            pass
        case _ if not plain_allowed and not re.fullmatch(r"\$\{[A-Za-z_]\w*\}", secret):
            raise ConfigError(
                N_("{where}: a key does not stand in a configuration file in plain text"),
                hints=(N_("Write env:NAME or file:PATH; of a caller's key also sha256: and its SHA-256."),),
                where=where,
            )
    return ()


def _from_environment(name: str, variables: Mapping[str, str], where: str) -> str:
    if not variables.get(name):
        raise ConfigError(N_("{where}: the environment variable {name} is not set"), where=where, name=name)
    return variables[name]


def _from_file(path: Path, where: str, notices: list[Finding]) -> str:
    try:
        with path.open("rb") as stream:
            text = stream.read(SECRET_BYTES_MAX).decode().strip()
            mode = path.stat().st_mode
    except (OSError, ValueError) as problem:
        raise ConfigError(
            N_("{where}: the secret in {path} cannot be read: {problem}"),
            where=where,
            path=path,
            problem=problem.strerror if isinstance(problem, OSError) else N_("not text"),
        ) from None  # a decoding error would carry the secret's bytes
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        notices.append(
            Finding(
                "secret_readable",
                N_("{path} holds a secret and may be read by other users."),
                N_("chmod 600 {path}"),
                {"path": path},
            )
        )
    return text

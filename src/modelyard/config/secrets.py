"""Secrets by reference: `env:NAME` and `file:PATH` in a key's `secret` become the key. Never prints one."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path

from modelyard.config.files import at_home
from modelyard.config.finding import Finding
from modelyard.errors import N_, ConfigError

SECRET_BYTES_MAX = 4096


def resolve_secrets(
    tree: Mapping[str, object],
    variables: Mapping[str, str],
    folder: Path,
    where: str,
    notices: list[Finding],
    *,
    plain_allowed: bool,
) -> None:
    """Replace each reference in `keys[].secret` in place; refuse plain text where `plain_allowed` is off."""
    entries = tree.get("keys")
    for entry in entries if isinstance(entries, list) else []:
        secret = entry.get("secret") if isinstance(entry, dict) else None
        if not isinstance(secret, str):
            continue
        scheme, separator, rest = secret.partition(":")
        match scheme if separator else "":
            case "env":
                entry["secret"] = _from_environment(rest, variables, where)
            case "file":
                entry["secret"] = _from_file(folder / at_home(rest), where, notices)
            case "sha256":
                pass
            case _ if not plain_allowed and not re.fullmatch(r"\$\{[A-Za-z_]\w*\}", secret):
                raise ConfigError(
                    N_("{where}: a key does not stand in a configuration file in plain text"),
                    hints=(N_("Write env:NAME, file:PATH, or sha256: and the key's SHA-256."),),
                    where=where,
                )


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
            problem=problem.strerror if isinstance(problem, OSError) else "not text",
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

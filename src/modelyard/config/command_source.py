"""Where commands may come from, and how they are read: from a file alone, as they stand there.

Works on raw values, before the schema sees them. No environment variable, no flag and no `${NAME}` becomes a part of
a command; the values of its own environment are the exception.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path

from modelyard.config import files
from modelyard.errors import N_, ConfigError

PARTS = ("models", "command")
ENVIRONMENT = "environment"
_PLACED = ("./", "../", "~/")  # how a path begins that is meant from somewhere


def tables(tree: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """The tables of commands in a tree, by name."""
    models = tree.get(PARTS[0])
    found = models.get(PARTS[1]) if isinstance(models, dict) else None
    entries = found.items() if isinstance(found, dict) else ()
    return {str(name): table for name, table in entries if isinstance(table, dict)}


def check_file(tree: Mapping[str, object], path: Path, text: str) -> None:
    """Refuse a file that others may write, and variables in a command. Raises `ConfigError`."""
    commands = tables(tree)
    if commands and path.stat().st_mode & stat.S_IWOTH:
        raise ConfigError(
            N_("{where}: everybody may write this file, and it holds commands"),
            hints=(N_("chmod o-w {where}"),),
            where=path,
        )
    for name, table in commands.items():
        for field, value in table.items():
            variable = None if field == ENVIRONMENT else files.first_variable(value)
            if variable is None:
                continue
            line = files.line_of(text, (*PARTS, name, field))
            raise ConfigError(
                N_("{where}: {name} stands in a command, and no environment variable becomes a part of one"),
                hints=(N_("Write its value, or give it to the command in its environment."),),
                where=f"{path}:{line}" if line else path,
                name=f"${{{variable}}}",
            )


def refuse(where: str) -> ConfigError:
    """What is said of a command that comes from anywhere else."""
    return ConfigError(
        N_("{where}: commands are read from a configuration file only"),
        hints=(N_("Write it in modelyard.toml, as [models.command.NAME]."),),
        where=where,
    )


def anchored(parts: tuple[str, ...], value: object, folder: Path) -> object:
    """A command as a list, and paths in it as they are meant where it was written."""
    match parts[3:]:
        case ("model_path",):
            return _placed(value, folder)
        case ("command" | "stop_command",):
            if isinstance(value, str):
                try:
                    value = shlex.split(value)
                except ValueError:
                    return value  # the schema says what is wrong
            return [_placed(part, folder) for part in value] if isinstance(value, list) else value
        case _:
            return value


def _placed(text: object, folder: Path) -> object:
    if not isinstance(text, str) or not text.startswith(_PLACED):
        return text
    return os.path.normpath(folder / files.at_home(text))

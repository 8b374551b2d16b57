"""An example or two for each command whose help has none of its own: what people read first."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import click

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "list": ("modelyard list", "modelyard list llama", "modelyard list -o json"),
    "ps": ("modelyard ps", "modelyard ps -o json"),
    "show": ("modelyard show llama3.1:8b", "modelyard show llama3.1:8b -o json"),
    "rescan": ("modelyard rescan",),
    "load": ("modelyard load llama3.1:8b",),
    "unload": ("modelyard unload llama3.1:8b", "modelyard unload --force --yes llama3.1:8b"),
    "pin": ("modelyard pin llama3.1:8b", "modelyard pin --off llama3.1:8b"),
    "nodes": ("modelyard nodes", "modelyard nodes weight gpu-box 2", "modelyard nodes drain gpu-box"),
    "nodes weight": ("modelyard nodes weight gpu-box 2", "modelyard nodes weight gpu-box 0"),
    "nodes drain": ("modelyard nodes drain gpu-box", "modelyard nodes drain --off gpu-box"),
    "nodes check": ("modelyard nodes check gpu-box", "modelyard nodes check gpu-box -o json"),
    "config": ("modelyard config", "modelyard config --changed", "modelyard config check"),
    "config check": ("modelyard config check", "modelyard config check --config other.toml"),
    "paths": ("modelyard paths",),
    "version": ("modelyard version",),
}
_MARK = "\b\n"  # click's sign for lines that are not to be joined


def with_examples(name: str, command: click.Command) -> click.Command:
    """The same command with its examples below its first words; and so the commands in it."""
    if isinstance(command, click.Group):
        command = copy.copy(command)
        command.commands = {inner: with_examples(f"{name} {inner}", found) for inner, found in command.commands.items()}
    lines = EXAMPLES.get(name)
    if lines is None or _MARK in (command.help or ""):
        return command
    shown = copy.copy(command)
    shown.help = f"{command.help}\n\n{_MARK}" + "\n".join(f"  {line}" for line in lines)
    return shown

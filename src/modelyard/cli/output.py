"""Listings in the form somebody asked for: a table for people, JSON, JSON lines, YAML, or tab-separated for scripts.

Machine forms have bytes, seconds and English names; only tables have units for people.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from modelyard.cli.terminal import Terminal, plain
from modelyard.cli.widths import cut, padded, width
from modelyard.errors import N_

SCHEMA_VERSION = 1
GAP = "  "
CELL_MIN = 10  # a size with its unit; what then still does not fit is cut off at the right
FORMATS = ("table", "plain", "json", "jsonl", "yaml")
Command = TypeVar("Command", bound=Callable[..., Any])


def format_option(command: Command) -> Command:
    """Give a listing command `-o`."""
    forms = click.Choice(FORMATS)
    return click.option("-o", "--output", "form", type=forms, default="table", help=N_("Output format."))(command)


def write_listing(
    terminal: Terminal,
    form: str,
    name: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    objects: Sequence[Mapping[str, object]],
    extra: Mapping[str, object] | None = None,
) -> None:
    """Write a list: `rows` for people and scripts, `objects` (under `name`, beside `extra`) for machines."""
    match form:
        case "table":
            text = table(terminal, columns, rows)
        case "plain":
            text = "".join("\t".join(" ".join(plain(cell).split()) for cell in row) + "\n" for row in rows)
        case "jsonl":
            text = "".join(_json({"schema_version": SCHEMA_VERSION, **one}, None) for one in objects)
        case _:
            text = _document(form, {**(extra or {}), name: list(objects)})
    terminal.listing(text)


def write_object(terminal: Terminal, form: str, value: Mapping[str, object]) -> None:
    """Write one thing in a machine's form."""
    terminal.listing(_document(form, value))


def table(terminal: Terminal, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns; wide characters count twice, as terminals show them. In a narrow window cells are cut short."""
    cells = [[plain(cell).replace("\n", " ") for cell in row] for row in (columns, *rows)]
    widths = [max(width(row[index]) for row in cells) for index in range(len(columns))]
    room = terminal.columns if sys.stdout.isatty() else None  # in a pipe nothing is cut
    if room is not None:
        widths = fitted(widths, room - len(GAP) * (len(columns) - 1))
    lines = [GAP.join(padded(cut(*one), one[1]) for one in zip(row, widths, strict=True)).rstrip() for row in cells]
    lines = [line if room is None else cut(line, room) for line in lines]
    lines[0] = terminal.styled(lines[0], "1", sys.stdout)
    return "\n".join(lines) + "\n"


def fitted(widths: Sequence[int], room: int) -> list[int]:
    """Widths of columns that fit into so much room: the widest give way first, and none below `CELL_MIN`.

    >>> fitted([30, 8, 4], 34), fitted([3, 3], 80), fitted([30, 30], 4)
    ([22, 8, 4], [3, 3], [10, 10])
    """
    found = list(widths)
    while sum(found) > room and max(found) > CELL_MIN:
        found[found.index(max(found))] -= 1
    return found


def _document(form: str, value: Mapping[str, object]) -> str:
    whole = {"schema_version": SCHEMA_VERSION, **value}
    if form == "yaml":
        import yaml

        plain_types = json.loads(_json(whole, None))  # the same types in every form
        return str(yaml.safe_dump(plain_types, allow_unicode=True, sort_keys=False))
    return _json(whole, 2 if form == "json" else None)


def _json(value: Mapping[str, object], indent: int | None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, default=str) + "\n"

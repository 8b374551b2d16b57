"""Every figure of this server in one table: `python -m bench [--engines] [--only NAME] [--json FILE]`.

A report, not a test: it ends with 0 whatever it finds, and says plainly what missed its bound.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from . import embedding, engines, every_engine, idle, relaying, terminal, through_nodes
from .machine import Row, environment, need_tools

FIGURES: dict[str, Callable[[], Awaitable[list[Row]]]] = {
    "latency": relaying.latency,
    "throughput": relaying.throughput,
    "chunks": relaying.chunk_cost,
    "node-throughput": through_nodes.throughput,
    "node-chunks": through_nodes.chunk_cost,
    "speed": engines.speed,
    "swap": engines.swap,
    "idle": idle.idle,
    "terminal": terminal.terminal,
}
ENGINES: dict[str, Callable[[], Awaitable[list[Row]]]] = {
    "llamacpp": every_engine.llamacpp,
    "transformers": every_engine.transformers,
    "embeddings": embedding.vectors,
    "loads": every_engine.loads,
}
ALL = {**FIGURES, **ENGINES}
HEADINGS = Row("figure", "ours", "without us", "compared", "bound")
OK = {None: "", True: "ok", False: "MISSED"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description="Measure this server beside the same work without it.")
    parser.add_argument("--only", action="append", choices=ALL, metavar="NAME", help=" or ".join(ALL))
    parser.add_argument("--engines", action="store_true", help="the figures of every engine instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures as JSON")
    asked = parser.parse_args()
    before = environment()
    print(before, end="\n\n", flush=True)
    if problem := need_tools():
        print(problem, file=sys.stderr)
    rows = asyncio.run(measured(asked.only or list(ENGINES if asked.engines else FIGURES)))
    print(table(rows))
    if missed := [row.name for row in rows if row.ok is False]:
        print(f"\n{len(missed)} missed: {', '.join(missed)}")
    if asked.json is not None:
        report = {"environment": before.splitlines(), "figures": [asdict(row) for row in rows]}
        asked.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


async def measured(names: Sequence[str]) -> list[Row]:
    """All of them, one after the other; one that cannot be taken says why in its place."""
    rows: list[Row] = []
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        try:
            rows += await ALL[name]()
        except Exception as problem:
            rows.append(Row(name, f"not measured: {type(problem).__name__} {problem}", ok=False))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Aligned columns for people.

    >>> print(table([Row("memory", "80 MB", "30 MB", bound="<= 90 MB", ok=True)]))
    figure  ours   without us  compared  bound
    memory  80 MB  30 MB                 <= 90 MB  ok
    """
    texts = [field.name for field in fields(Row) if field.name != "ok"]
    lines = [[*(getattr(row, name) for name in texts), OK[row.ok]] for row in (HEADINGS, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(texts) + 1)]
    padded = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


if __name__ == "__main__":
    main()

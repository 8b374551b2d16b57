"""What processes say of themselves: who is below whom, and what each holds in main memory.

Reads only, from procfs where there is one and through psutil elsewhere. A process that has just gone holds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from mmap import PAGESIZE
from pathlib import Path

import psutil

from modelyard.units import KIB

TREE_COUNT_MAX = 4096  # processes looked at below one
NAME_CHARS_MAX = 64


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """One process. Its command line is nobody's business here: it may hold secrets."""

    name: str
    parent: int
    anonymous_bytes: int  # shared memory too: it cannot be dropped either
    file_bytes: int


def facts_of(root: Path, pid: int) -> ProcessFacts | None:
    """One process; None if it is gone, or is not ours to look at."""
    try:
        status = (root / "proc" / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return None if (root / "proc" / "self").exists() else _facts_elsewhere(pid)
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)

    def number(name: str) -> int:
        return int(fields.get(name, "0").split()[0])

    anonymous_kib = number("RssAnon") + number("RssShmem")
    return ProcessFacts(_plain(fields.get("Name", "")), number("PPid"), anonymous_kib * KIB, number("RssFile") * KIB)


def tree(root: Path, pid: int) -> Iterator[int]:
    """A process and all below it."""
    waiting, seen = [pid], {pid}
    while waiting and len(seen) <= TREE_COUNT_MAX:
        current = waiting.pop()
        yield current
        for child in _children(root, current):
            if child not in seen:
                seen.add(child)
                waiting.append(child)


def largest(root: Path) -> list[tuple[int, int]]:
    """Every process as (bytes it has in memory at most, its id), the largest first."""
    found: list[tuple[int, int]] = []
    try:
        numbers = [entry.name for entry in (root / "proc").iterdir() if entry.name.isdigit()]
    except OSError:
        numbers = []
    for number in numbers:
        try:
            resident = (root / "proc" / number / "statm").read_text().split()[1]
        except (OSError, IndexError):
            continue
        found.append((int(resident) * PAGESIZE, int(number)))
    return sorted(found or _largest_elsewhere(), reverse=True)


def _children(root: Path, pid: int) -> list[int]:
    """Asked of the kernel per thread: looking through every process of the machine costs a hundred times more."""
    tasks = root / "proc" / str(pid) / "task"
    try:
        listed = [(task / "children").read_text() for task in tasks.iterdir()]
    except OSError:
        return _children_by_search(pid)
    return [int(number) for line in listed for number in line.split()]


def _children_by_search(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _facts_elsewhere(pid: int) -> ProcessFacts | None:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            return ProcessFacts(_plain(process.name()), process.ppid() or 0, process.memory_info().rss, 0)
    except psutil.Error:
        return None


def _largest_elsewhere() -> list[tuple[int, int]]:
    found = [(process.info["memory_info"], process.pid) for process in psutil.process_iter(["memory_info"])]
    return [(memory.rss, pid) for memory, pid in found if memory is not None]


def _plain(name: str) -> str:
    """A process chooses its own name: it must not be able to write on somebody's terminal."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name.strip())
    return shown[:NAME_CHARS_MAX] or "?"

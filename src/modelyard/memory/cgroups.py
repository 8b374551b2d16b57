"""The memory limits of the control groups this process is in, versions 1 and 2, hybrid, or none.

Reads only. A container usually sees its own group as the root of the mount; the mount table says what is mounted where.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

DEPTH_MAX = 32
UNLIMITED_BYTES = 2**60  # version 1 writes a number near 2^63 for "no limit"


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """One group's limit, and what it leaves."""

    max_bytes: int
    used_bytes: int  # without the page cache, which the kernel drops before anybody has to go without
    group: str = field(default="", compare=False)  # its path as the kernel names it: who is in it shares the limit

    @property
    def free_bytes(self) -> int:
        return max(0, self.max_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True)
class _Version:
    controller: str  # as it stands in a process's list of groups
    max_files: tuple[str, ...]  # the smallest counts: above `memory.high` everybody is slowed down to a crawl
    used_file: str
    droppable_keys: tuple[str, ...]  # mapped weights, used or not, are there for the taking as on the whole machine


_V2 = _Version("", ("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"))
_V1 = _Version(
    "memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")
)  # fmt: skip


def memory_limits(root: Path = Path("/")) -> tuple[MemoryLimit, ...]:
    """Every limit that applies to us: our own group's and those of the groups above it."""
    own = groups_of(root, "self")
    limits: list[MemoryLimit] = []
    for version, mounted_group, folder in _mounts(root):
        group = own.get(version.controller)
        if group is None:
            continue
        limits += _limits_up_from(version, folder, group, _below(group, mounted_group))
    return tuple(limits)


def is_inside(root: Path, pid: int, group: str) -> bool:
    """Whether a process is in a group, or in one below it."""
    own = groups_of(root, str(pid))
    return any(PurePosixPath(path).is_relative_to(group) for key, path in own.items() if key in ("", "memory"))


def oom_kills(root: Path = Path("/")) -> int:
    """How many processes the kernel has ended for lack of memory in our groups, ever; else on the whole machine."""
    own = groups_of(root, "self")
    counts: list[int] = []
    for version, mounted_group, folder in _mounts(root):
        group = own.get(version.controller)
        if group is not None:
            for name in ("memory.events", "memory.oom_control"):
                counts += _counts(folder / _below(group, mounted_group) / name, "oom_kill")
    return sum(counts or _counts(root / "proc/vmstat", "oom_kill"))


def groups_of(root: Path, process: str) -> dict[str, str]:
    """Controller -> the group's path. Version 2 has the empty controller."""
    groups: dict[str, str] = {}
    for line in _lines(root / "proc" / process / "cgroup"):
        _number, _separator, rest = line.partition(":")
        controllers, _separator, path = rest.partition(":")
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _mounts(root: Path) -> Iterator[tuple[_Version, str, Path]]:
    """Version, the group that is mounted, and where."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if not separator or len(fields) < 5 or len(kinds) < 3:
            continue
        folder = root / fields[4].lstrip("/")
        if kinds[0] == "cgroup2":
            yield _V2, fields[3], folder
        elif kinds[0] == "cgroup" and "memory" in kinds[2].split(","):
            yield _V1, fields[3], folder


def _below(group: str, mounted_group: str) -> PurePosixPath:
    """Our group's path below the mount. One outside of it (a namespace's `/..`) is the mount itself to us."""
    path, mounted = PurePosixPath(group), PurePosixPath(mounted_group)
    if ".." in path.parts or not path.is_relative_to(mounted):
        return PurePosixPath()
    return path.relative_to(mounted)


def _limits_up_from(version: _Version, folder: Path, group: str, below: PurePosixPath) -> Iterator[MemoryLimit]:
    named = [PurePosixPath(group), *PurePosixPath(group).parents]
    for level, path in zip([below, *below.parents][:DEPTH_MAX], named, strict=False):
        limit = _limit(version, folder / level, str(path))
        if limit is not None:
            yield limit


def _limit(version: _Version, folder: Path, group: str) -> MemoryLimit | None:
    set_to = [count for name in version.max_files if (count := _number(folder / name)) is not None]
    most = min(set_to, default=UNLIMITED_BYTES)
    if most >= UNLIMITED_BYTES:
        return None
    droppable = 0
    for line in _lines(folder / "memory.stat"):
        key, _separator, value = line.partition(" ")
        if key in version.droppable_keys and value.isdigit():
            droppable += int(value)
    return MemoryLimit(most, max(0, (_number(folder / version.used_file) or 0) - droppable), group)


def _counts(path: Path, key: str) -> list[int]:
    """The value of a key in a file of keys and values: one, or none."""
    found = (line.split() for line in _lines(path))
    return [int(words[1]) for words in found if len(words) == 2 and words[0] == key and words[1].isdigit()]


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []

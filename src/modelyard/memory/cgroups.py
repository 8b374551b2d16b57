"""The memory limits of the control groups this process is in, versions 1 and 2, hybrid, or none.

Reads only. A container usually sees its own group as the root of the mount; the mount table says what is mounted where.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

DEPTH_MAX = 32
UNLIMITED_BYTES = 2**60  # version 1 writes a number near 2^63 for "no limit"


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """One group's limit, and what it leaves."""

    max_bytes: int
    used_bytes: int  # without the page cache the kernel would drop first

    @property
    def free_bytes(self) -> int:
        return max(0, self.max_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True)
class _Version:
    max_file: str
    used_file: str
    droppable_key: str


_V2 = _Version("memory.max", "memory.current", "inactive_file")
_V1 = _Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def memory_limits(root: Path = Path("/")) -> tuple[MemoryLimit, ...]:
    """Every limit that applies to us: our own group's and those of the groups above it."""
    own = _own_groups(root)
    limits: list[MemoryLimit] = []
    for version, mounted_group, folder in _mounts(root):
        group = own.get("memory" if version is _V1 else "")
        if group is None:
            continue
        limits += _limits_up_from(version, folder, _below(group, mounted_group))
    return tuple(limits)


def _own_groups(root: Path) -> dict[str, str]:
    """Controller -> our group's path. Version 2 has the empty controller."""
    groups: dict[str, str] = {}
    for line in _lines(root / "proc/self/cgroup"):
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


def _limits_up_from(version: _Version, folder: Path, below: PurePosixPath) -> Iterator[MemoryLimit]:
    for level in [below, *below.parents][:DEPTH_MAX]:
        limit = _limit(version, folder / level)
        if limit is not None:
            yield limit


def _limit(version: _Version, folder: Path) -> MemoryLimit | None:
    most, used = _number(folder / version.max_file), _number(folder / version.used_file)
    if most is None or most >= UNLIMITED_BYTES:
        return None
    droppable = 0
    for line in _lines(folder / "memory.stat"):
        key, _separator, value = line.partition(" ")
        if key == version.droppable_key and value.isdigit():
            droppable = int(value)
    return MemoryLimit(most, max(0, (used or 0) - droppable))


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []

"""What is on its way into the store, for people: the list of it, and how to throw some away. See partial.py."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .disk import Disk, lock
from .partial import KEY, decoded


@dataclass(frozen=True, slots=True)
class PartialFile:
    """One entry of the list of what is on its way."""

    key: str
    label: str
    size_bytes: int
    completed_bytes: int
    is_active: bool  # somebody is fetching it now
    modified_at: float  # seconds since 1970


def partial_files(folder: Path) -> tuple[PartialFile, ...]:
    """What is on its way, the newest first."""
    found = []
    with suppress(OSError):
        for path in folder.iterdir():
            if path.suffix in (".part", ".done") and KEY.fullmatch(path.stem):
                with suppress(OSError):
                    found.append(_about(path))
    return tuple(sorted(found, key=lambda one: -one.modified_at))


def forget(folder: Path, disk: Disk, key: str) -> bool:
    """Throw away what came of a file. False if somebody is fetching it now, or nothing came."""
    if not KEY.fullmatch(key):
        return False
    path, is_there = folder / f"{key}.part", (folder / f"{key}.done").exists()
    if path.exists():
        descriptor = disk.open(path)
        try:
            if not lock(descriptor):
                return False
            disk.unlink(folder / f"{key}.journal")
            disk.unlink(path)
            is_there = True
        finally:
            os.close(descriptor)
    disk.unlink(folder / f"{key}.done")
    return is_there


def _about(path: Path) -> PartialFile:
    about = path.stat(follow_symlinks=False)
    if path.suffix == ".done":
        return PartialFile(path.stem, "", about.st_size, about.st_size, is_active=False, modified_at=about.st_mtime)
    known: dict[str, Any] = {}
    with suppress(OSError), path.with_suffix(".journal").open("rb") as file:
        known = decoded(file.readline(4096))
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        is_active = not lock(descriptor)
    finally:
        os.close(descriptor)
    label, size_bytes = str(known.get("label", "")), known.get("size_bytes")
    return PartialFile(
        path.stem, label, size_bytes if isinstance(size_bytes, int) else 0, about.st_size, is_active, about.st_mtime
    )

"""A disk whose n-th step fails, or is the last one before the process is killed or the power is lost."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zlib import crc32

from modelyard.models.disk import Disk

Mode = Literal["error", "short", "kill", "power", "power zeros", "power some"]


class Killed(BaseException):
    """The process ends here."""


@dataclass
class _Written:
    """A file with bytes that are not safe yet, and those that are."""

    descriptor: int
    safe: bytes


class FaultyDisk(Disk):
    """Counts steps. `attic` is a folder outside the store, for what was removed but not for good."""

    def __init__(self, attic: Path, mode: Mode = "kill", fail_at: int = 0, errno: int = 5, boot: str = "1") -> None:
        self._boot = boot
        self.steps, self._mode, self._fail_at, self._errno = 0, mode, fail_at, errno
        self._attic, self._count = attic, 0
        self._undo: list[tuple[Path, Callable[[], None]]] = []
        self._written: dict[int, _Written] = {}

    # ---- what fails ----

    def _step(self) -> None:
        self.steps += 1
        if not self._fail_at:
            return
        if self._mode in ("error", "short"):
            if self.steps == self._fail_at:
                raise OSError(self._errno, os.strerror(self._errno))
        elif self.steps >= self._fail_at:
            raise Killed

    @property
    def has_failed(self) -> bool:
        return bool(self._fail_at) and self.steps >= self._fail_at

    def lose_power(self) -> None:
        """Undo whatever was not made safe: bytes first, then names, all of them or those of some folders."""
        for written in self._written.values():
            size_bytes = os.fstat(written.descriptor).st_size
            zeros = b"\0" * max(0, size_bytes - len(written.safe)) if self._mode == "power zeros" else b""
            os.ftruncate(written.descriptor, 0)
            os.pwrite(written.descriptor, written.safe + zeros, 0)
        for folder, undo in reversed(self._undo):
            if self._mode == "power some" and crc32(f"{folder.name} {self._fail_at}".encode()) % 2:
                continue  # of this folder the names did get there
            with suppress(OSError):
                undo()

    def close(self) -> None:
        for written in self._written.values():
            os.close(written.descriptor)
        self._written.clear()

    # ---- steps ----

    @property
    def boot(self) -> str:
        return self._boot

    def open(self, path: Path) -> int:
        self._step()
        was_there = path.exists()
        descriptor = super().open(path)
        if not was_there:
            self._later(path, lambda: path.unlink())
        return descriptor

    def write(self, descriptor: int, data: bytes, at: int) -> None:
        self._dirty(descriptor)
        try:
            self._step()
        except (OSError, Killed):
            if self._mode != "error":  # half of it got there
                os.pwrite(descriptor, data[: len(data) // 2], at)
            raise
        super().write(descriptor, data, at)

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        self._step()
        self._dirty(descriptor)
        super().truncate(descriptor, size_bytes)

    def sync(self, descriptor: int) -> None:
        self._step()
        super().sync(descriptor)
        written = self._written.pop(os.fstat(descriptor).st_ino, None)
        if written is not None:
            os.close(written.descriptor)

    def seal(self, descriptor: int) -> None:
        self._step()
        super().seal(descriptor)

    def sync_folder(self, path: Path) -> None:
        self._step()
        super().sync_folder(path)
        self._undo = [(folder, undo) for folder, undo in self._undo if folder != path]

    def rename(self, old: Path, new: Path) -> None:
        self._step()
        kept = self._keep(new)
        super().rename(old, new)

        def undo() -> None:
            os.rename(new, old)
            if kept is not None:
                os.rename(kept, new)

        self._later(new, undo)

    def link(self, old: Path, new: Path) -> None:
        self._step()
        super().link(old, new)
        self._later(new, lambda: new.unlink())

    def unlink(self, path: Path) -> None:
        self._step()
        kept = self._keep(path)
        super().unlink(path)
        if kept is not None:
            self._later(path, lambda: os.rename(kept, path))

    def make_folder(self, path: Path) -> None:
        self._step()
        was_there = path.exists()
        super().make_folder(path)
        if not was_there:
            self._later(path, lambda: shutil.rmtree(path))

    def remove_folder(self, path: Path) -> None:
        self._step()
        super().remove_folder(path)
        self._later(path, path.mkdir)

    def _later(self, path: Path, undo: Callable[[], None]) -> None:
        self._undo.append((path.parent, undo))

    def _keep(self, path: Path) -> Path | None:
        if not path.exists():
            return None
        self._count += 1
        kept = self._attic / str(self._count)
        os.link(path, kept)
        return kept

    def _dirty(self, descriptor: int) -> None:
        number = os.fstat(descriptor).st_ino
        if number not in self._written:
            size_bytes = os.fstat(descriptor).st_size
            self._written[number] = _Written(os.dup(descriptor), os.pread(descriptor, size_bytes, 0))

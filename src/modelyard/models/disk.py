"""Every change to the store's files goes through here, one call of the system per method.

Tests put a disk that fails, or forgets, in its place: whatever the store does, it does in these steps. Nothing here
follows a link, and nothing is decided here.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FILE_MODE, SEALED_MODE, FOLDER_MODE = 0o644, 0o444, 0o755


class Disk:
    """The file system, as far as the store changes it. Raises `OSError`."""

    @property
    def boot(self) -> str:
        """Which boot of this machine it is; empty where nobody can say. What was written in this one is still there."""
        try:
            return _BOOT_ID.read_text().strip()
        except OSError:
            return ""

    def open(self, path: Path) -> int:
        """A file descriptor to read and write with; the file is made if there is none."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)

    def write(self, descriptor: int, data: bytes, at: int) -> None:
        """All of it, at that place."""
        os.lseek(descriptor, at, os.SEEK_SET)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def truncate(self, descriptor: int, size_bytes: int) -> None:
        os.ftruncate(descriptor, size_bytes)

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def seal(self, descriptor: int) -> None:
        """Nobody writes to it by mistake any more."""
        os.fchmod(descriptor, SEALED_MODE)

    def sync_folder(self, path: Path) -> None:
        """What was made, renamed or removed in a folder lasts from now on."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        os.replace(old, new)

    def link(self, old: Path, new: Path) -> None:
        """A second name for a file. Not every file system has such."""
        os.link(old, new, follow_symlinks=False)

    def symlink(self, old: Path, new: Path) -> None:
        """A relative link to a file."""
        os.symlink(os.path.relpath(old, new.parent), new)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def make_folder(self, path: Path) -> None:
        path.mkdir(mode=FOLDER_MODE, exist_ok=True)

    def remove_folder(self, path: Path) -> None:
        """An empty one."""
        path.rmdir()


def lock(descriptor: int, *, wait: bool = False) -> bool:
    """Hold an open file as nobody else may; False where somebody does. The kernel lets go when a process ends."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def is_same_file(descriptor: int, path: Path) -> bool:
    """Whether a path still leads to the file that is open: somebody may have renamed or removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def remove_tree(disk: Disk, folder: Path) -> None:
    """A folder with all that is in it; links are removed and never followed."""
    if folder.is_symlink() or not folder.is_dir():
        disk.unlink(folder)
        return
    with os.scandir(folder) as listing:
        entries = list(listing)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(disk, folder / entry.name)
        else:
            disk.unlink(folder / entry.name)
    disk.remove_folder(folder)


def put(disk: Disk, path: Path, data: bytes) -> None:
    """A file with exactly this in it, or as it was before. Needs a name beside it that ends in `.new`."""
    unborn = path.with_name(f"{path.name}.new")
    descriptor = disk.open(unborn)
    try:
        disk.truncate(descriptor, 0)
        disk.write(descriptor, data, 0)
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
    disk.rename(unborn, path)
    disk.sync_folder(path.parent)

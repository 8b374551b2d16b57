"""The private folder of one run: sockets live here, and a record that says who owns it.

A run is alive exactly as long as its process holds the lock on its record; the kernel lets go however it ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import stat
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from modelyard.errors import N_, ConfigError

OWNER_FILE = "owner.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Owner:
    """Which process a run belongs to, so that a reused pid or another boot is not taken for it."""

    run: str
    pid: int
    started: str  # as the kernel counts it, not wall time: clocks are set, this is not
    boot: str
    pid_namespace: str

    @classmethod
    def current(cls, run: str) -> Owner:
        return cls(run, os.getpid(), start_of(os.getpid()), _boot(), _pid_namespace())

    def is_running(self) -> bool:
        """Whether this very process still exists, as far as we can see it."""
        is_visible = self.boot == _boot() and self.pid_namespace == _pid_namespace()
        return is_visible and self.started != "" and start_of(self.pid) == self.started


class RunFolder:
    """A context manager: makes `root/RUN` (0700) with a locked owner record, removes it at the end."""

    def __init__(self, root: Path | None = None) -> None:
        """`root` is where all runs of this user have their folders; see `run_root`."""
        self.root = root if root is not None else run_root(None)
        self.mark = secrets.token_hex(4)
        self.path = self.root / self.mark
        self._lock = -1
        self._count = 0

    def __enter__(self) -> RunFolder:
        make_private(self.root)
        # Made under a name that nobody looks at, then renamed: a folder that can be seen is owned and locked.
        unborn = Path(tempfile.mkdtemp(prefix=".new-", dir=self.root))
        self._lock = os.open(unborn / OWNER_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(self._lock, json.dumps(asdict(Owner.current(self.mark))).encode())
        unborn.rename(self.path)
        return self

    def __exit__(self, *_exception: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def new_socket(self) -> Path:
        """A path no worker of this run ever had: a killed worker's socket file blocks the next one."""
        self._count += 1
        return self.path / f"w{self._count}.sock"  # llama.cpp takes what ends so for a path


def run_root(runtime_folder: Path | None) -> Path:
    """Where runs have their folders: in XDG_RUNTIME_DIR if the caller has one, else in the temporary folder."""
    if runtime_folder is not None:
        return runtime_folder / "modelyard"
    return Path(tempfile.gettempdir()) / f"modelyard-{os.getuid()}"


def make_private(folder: Path) -> None:
    """Make a folder that only we can enter. Refuses one that somebody else has put there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigError(where=str(folder), problem=N_("the folder for sockets belongs to somebody else"))
    if found.st_mode & 0o077:
        folder.chmod(0o700)


def start_of(pid: int) -> str:
    """When a process began, in the kernel's own ticks; empty if there is none, or no /proc."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(") ")[2].split()
        return fields[19] if fields[0] not in ("Z", "X") else ""
    return ""


def _boot() -> str:
    with suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""


def _pid_namespace() -> str:
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""

"""What a dead earlier run has left behind: found by durable identity, ended, and swept away.

Called once at start, before any memory or socket is claimed; blocking. A run that is alive is never touched.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from modelyard.workers.marked import RUN_VARIABLE, kill_marked
from modelyard.workers.run_folder import OWNER_FILE, Owner, make_private

KILL_S = 3.0
UNBORN_AGE_S = 3600.0  # a folder whose run died before it was named
RUNS_MAX = 1000

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Reaped:
    """What was found and ended."""

    runs: tuple[str, ...] = ()
    process_count: int = 0
    remaining_count: int = 0  # would not die: their memory is still taken


def reap_leftovers(run_root: Path) -> Reaped:
    """End the workers of every dead run below `run_root` and remove their folders."""
    make_private(run_root)
    dead = []
    for folder in sorted(run_root.iterdir())[:RUNS_MAX]:
        if folder.name.startswith("."):
            _remove_unborn(folder)
        elif folder.is_dir() and _is_dead(folder):
            dead.append(folder)
    if not dead:
        return Reaped()
    runs = tuple(folder.name for folder in dead)
    killed, remaining = kill_marked({RUN_VARIABLE: frozenset(runs)}, within_s=KILL_S)
    for folder in dead:
        shutil.rmtree(folder, ignore_errors=True)
    _log.warning("workers.leftovers_reaped", runs=runs, processes=killed, remaining=remaining)
    return Reaped(runs, killed, remaining)


def _is_dead(folder: Path) -> bool:
    """(1) Somebody holds the record's lock: alive. (2) The recorded process is there: alive. Else dead.

    (2) is for a lock that was lost, by a cleaner of temporary folders for instance: we would rather leave a dead
    run's workers than kill a live one's.
    """
    try:
        record = os.open(folder / OWNER_FILE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False  # not a run's folder
    try:
        fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)  # (1)
        owner = Owner(**json.loads(os.read(record, 4096)))
    except BlockingIOError:
        return False
    except (ValueError, TypeError):
        return True  # nobody's, and not readable: its name is the mark all the same
    finally:
        os.close(record)
    return not owner.is_running()  # (2)


def _remove_unborn(folder: Path) -> None:
    with suppress(OSError):
        if time.time() - folder.lstat().st_mtime > UNBORN_AGE_S:
            shutil.rmtree(folder, ignore_errors=True)

"""How much memory the system promises programs in all: on Windows, and on Linux where it is told not to overcommit."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import psutil

from modelyard.units import KIB

_PROC = Path("/proc")
_NEVER_OVERCOMMIT = "2"


def commit_limit_bytes(proc: Path = _PROC) -> int | None:
    """RAM and page file together, where more than that is never promised; None where nobody counts."""
    if sys.platform == "win32":
        return psutil.virtual_memory().total + psutil.swap_memory().total
    with suppress(OSError, ValueError, StopIteration):
        if (proc / "sys/vm/overcommit_memory").read_text().strip() == _NEVER_OVERCOMMIT:
            lines = (proc / "meminfo").read_text().splitlines()
            return int(next(line for line in lines if line.startswith("CommitLimit:")).split()[1]) * KIB
    return None

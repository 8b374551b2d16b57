"""What every worker program of ours does first: tie its life to the node's and give up what it does not need.

Runs inside worker processes, never in the node. Knows nothing about engines. On systems without `prctl` the end of
standard input is what ends a worker.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

PARENT_VARIABLE = "MODELYARD_PARENT_PID"

OOM_SCORE = "500"

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def enter(environment: Mapping[str, str]) -> None:
    """End with the parent, gain no rights, write no core files. Exits at once if the parent is gone already."""
    parent = int(environment.get(PARENT_VARIABLE, "0"))
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        with suppress(OSError):  # when memory runs out, a worker goes before the node
            Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The signal is armed for the parent of now: one that died a moment earlier would never be noticed.
    if parent and os.getppid() != parent:
        os._exit(1)

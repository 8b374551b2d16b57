"""Programs that tests need and Debian has: installed when they are first asked for, where that is possible."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path


@cache
def has_program(name: str) -> bool:
    """Whether there is a program, by the name of its package."""
    if shutil.which(name) is None and shutil.which("apt-get") and os.geteuid() == 0:
        with Path(__file__).open() as one_at_a_time:  # tests run in several processes, and apt locks the others out
            fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
            if shutil.which(name) is None:
                quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", name]):
                    subprocess.run(["apt-get", *words], check=False, **quiet)  # type: ignore[call-overload]
    return shutil.which(name) is not None

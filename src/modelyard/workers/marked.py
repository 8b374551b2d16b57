"""Processes known by a mark in their environment: it survives setsid, double forks and the death of every parent.

Blocking; callers on an event loop use a thread. Only processes of our own user are ever looked at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

RUN_VARIABLE = "MODELYARD_RUN"
WORKER_VARIABLE = "MODELYARD_WORKER"
POLL_S = 0.01
_PREFIX = b"MODELYARD_"
_OWN_ENVIRONMENT = Path("/proc/self/environ")


def find_marked(marks: Mapping[str, frozenset[str]]) -> list[psutil.Process]:
    """Living processes whose environment has, for every variable named, one of its values. Never ourselves."""
    found = []
    has_proc = _OWN_ENVIRONMENT.exists()
    for pid in psutil.pids():
        if pid == os.getpid() or (has_proc and not _may_be_marked(pid)):
            continue
        try:
            process = psutil.Process(pid)
            if process.uids().real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            environment = process.environ()
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or not ours to see
        if all(environment.get(variable) in values for variable, values in marks.items()):
            found.append(process)
    return found


def _may_be_marked(pid: int) -> bool:
    """One read rules out nearly every process of the machine: a stop waits for this."""
    try:
        return _PREFIX in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False  # gone meanwhile, or not ours to see


def kill_marked(marks: Mapping[str, frozenset[str]], *, within_s: float, looks: int = 1) -> tuple[int, int]:
    """Kill them until none is left or the time is up: how many were killed, how many remain.

    None counts as left when so many `looks` in a row find none: a process shows no environment while it executes
    another program, so where one may just have been started a single look is not enough.
    """
    deadline = time.monotonic() + within_s
    killed: set[int] = set()
    empty_looks = 0
    while (remaining := find_marked(marks)) or (empty_looks := empty_looks + 1) < looks:
        for process in remaining:
            try:
                process.kill()  # checks that the pid is still the same process
            except psutil.Error:
                continue
            killed.add(process.pid)
        if time.monotonic() >= deadline:
            break
        time.sleep(POLL_S)
    return len(killed), len(remaining)

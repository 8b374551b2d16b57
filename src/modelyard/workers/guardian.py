"""Stands between the node and a command we did not write: when the node is gone, so is everything the command started.

A program of its own: `python -m modelyard.workers.guardian -- COMMAND...`. It is the subreaper of all its descendants,
so that setsid and double forks do not escape it, and it reads the end of its standard input as the end of the node.
Imports next to nothing: it lives as long as the worker does.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
POLL_MS = 20
PARENT_VARIABLE = "MODELYARD_PARENT_PID"  # engines.worker_cell has it too; importing it costs a process its lightness


def guard(command: list[str]) -> int:
    """Run the command; its wait status once it and all it started are gone."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    child = _start(command)
    signal.signal(signal.SIGTERM, lambda *_: _signal_all(signal.SIGTERM))
    watched = select.poll()
    for descriptor in (0, woken):
        watched.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _event in watched.poll():
            if descriptor == 0 and not os.read(0, 4096):
                return _end_all(child)
            if descriptor == woken:
                os.read(woken, 4096)
        status = _reap(child)
        if status is not None:  # what the command has left behind goes too
            _end_all(child)
            return status


def _start(command: list[str]) -> int:
    guardian = os.getpid()
    child = os.fork()
    if child:
        return child
    os.setsid()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guardian:
        os._exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ[PARENT_VARIABLE] = str(guardian)
    try:
        os.execvp(command[0], command)  # noqa: S606 - argv comes from the configuration file only
    except OSError as error:
        os.write(2, f"cannot start {os.path.basename(command[0])}: {error.strerror}\n".encode())
        os._exit(127)


def _reap(child: int) -> int | None:
    """Reap all that has ended; the command's status if it is among them."""
    found = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found = ended[1] if ended[0] == child else found
    return found


def _end_all(child: int) -> int:
    """Kill until nobody is left. Whoever loses its parent becomes our child, so this reaches everyone."""
    status = signal.SIGKILL.value
    with suppress(ChildProcessError):
        while True:
            _signal_all(signal.SIGKILL)
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                status = ended[1] if ended[0] == child else status
            select.poll().poll(POLL_MS)
    return status


def _signal_all(number: signal.Signals) -> None:
    for pid in _descendants():
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _descendants() -> list[int]:
    """Everyone below us, from /proc: parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text("latin-1").rpartition(") ")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [os.getpid()]
    for pid in found:
        found.extend(children.get(pid, ()))
    return found[1:]


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main(arguments: list[str]) -> None:
    """End as the command ended."""
    if arguments[:1] != ["--"] or not arguments[1:]:
        raise SystemExit("usage: guardian -- COMMAND...")
    status = guard(arguments[1:])
    if os.WIFSIGNALED(status):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])

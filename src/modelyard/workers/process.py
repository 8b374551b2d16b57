"""One worker process: started with a clean environment, watched, drained, and ended with everything it started.

Knows nothing about engines, models or memory. Must be used on the event loop's own thread: the parent-death signal
fires when the *thread* that forked ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from modelyard.engines.base import WorkerCommand
from modelyard.engines.worker_cell import PARENT_VARIABLE
from modelyard.errors import said
from modelyard.workers.marked import RUN_VARIABLE, WORKER_VARIABLE, kill_marked
from modelyard.workers.output import OutputTail

SOCKET_PATH_BYTES_MAX = 100  # the kernel's limit is 107, and engines report it badly
TERM_S = 3.0
KILL_S = 5.0
STOP_COMMAND_S = 5.0  # then TERM follows in any case
GUARDIAN_S = 2.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended."""

    code: int | None
    signal: int | None
    text: str

    @classmethod
    def of(cls, returncode: int) -> ExitStatus:
        """From `subprocess`' return code: negative is a signal."""
        if returncode >= 0:
            return cls(returncode, None, said("exit code {code}", code=returncode))
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = str(-returncode)
        return cls(None, -returncode, said("killed by signal {name}", name=name))


async def spawn(command: WorkerCommand, *, run_folder: Path, mark: str) -> Worker:
    """Start a worker in its own session. It sees exactly `command.environment` and our marks.

    `mark` names the run this worker belongs to; see `leftovers`. Raises `OSError` if the program cannot be started.
    """
    if isinstance(command.socket, Path):
        if len(os.fsencode(command.socket)) > SOCKET_PATH_BYTES_MAX:
            raise OSError(f"the socket path is over {SOCKET_PATH_BYTES_MAX} bytes: {command.socket}")
        command.socket.unlink(missing_ok=True)
    place = command.socket.stem if isinstance(command.socket, Path) else str(command.socket.number)
    name = f"{mark}.{place}.{time.monotonic_ns()}"
    marks = {RUN_VARIABLE: mark, WORKER_VARIABLE: name, PARENT_VARIABLE: str(os.getpid())}
    argv = command.argv
    if command.under_guardian:
        argv = (sys.executable, "-P", "-m", "modelyard.workers.guardian", "--", *argv)
    # Blocking, but a few milliseconds only (vfork): a thread would end, and the parent-death signal with it.
    environment = {**command.environment, **marks}
    process = subprocess.Popen(  # noqa: ASYNC220
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        cwd=run_folder,
        env=environment,
        start_new_session=True,
        umask=0o077,
    )
    try:
        return Worker(process, command, name, partial(_start_stop_command, command.stop_argv, environment, run_folder))
    except OSError:  # no descriptor left to watch it with: nobody would ever end it
        with process:
            process.kill()
        raise


def _start_stop_command(argv: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> subprocess.Popen[bytes]:
    """It carries the worker's marks: should it hang, it goes with the worker."""
    nothing = subprocess.DEVNULL
    return subprocess.Popen(
        argv, stdin=nothing, stdout=nothing, stderr=nothing, cwd=folder, env=environment, start_new_session=True
    )


class Worker:
    """A running worker. `exited` is resolved when it has ended and been reaped; `stop` ends its whole tree."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        command: WorkerCommand,
        name: str,
        start_stop_command: Callable[[], subprocess.Popen[bytes]],
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.pid = process.pid
        self.socket = command.socket
        self.ready_path = command.ready_path
        self.has_progress = command.has_progress
        self.started_at = time.time()
        self.exited: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._process = process
        self._name = name
        self._under_guardian = command.under_guardian
        self._stdin = process.stdin
        self._start_stop_command = start_stop_command if command.stop_argv else None
        self._output = OutputTail(os.dup(process.stdout.fileno()), command.secrets)
        process.stdout.close()
        self._stopping: asyncio.Task[ExitStatus] | None = None
        try:
            self._watch()
        except OSError:
            self._output.close()
            raise

    def last_lines(self) -> tuple[str, ...]:
        """What it said last, standard output and error together."""
        return self._output.lines()

    @property
    def line_count(self) -> int:
        """How many lines it ever wrote."""
        return self._output.line_count

    async def stop(self, *, term_s: float = TERM_S, kill_s: float = KILL_S) -> ExitStatus:
        """End it and everything it started: TERM, then after `term_s` KILL. Safe to call again, and after its end.

        Once begun it finishes, even if the caller is cancelled.
        """
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(term_s, kill_s))
        return await asyncio.shield(self._stopping)

    async def _stop(self, term_s: float, kill_s: float) -> ExitStatus:
        ended_by_itself = self.exited.done()  # what it had started may be younger than a moment
        if self._start_stop_command is not None and not ended_by_itself:
            await self._run_stop_command(self._start_stop_command)
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)  # a stopped process hears nothing until it goes on
        if not await self._ended_within(term_s):
            if self._under_guardian:
                self._close_stdin()  # the guardian kills what it guards, and only then itself
                await self._ended_within(min(GUARDIAN_S, kill_s))
            self._signal(signal.SIGKILL)
        marks = {WORKER_VARIABLE: frozenset((self._name,))}
        has_ended = await self._ended_within(kill_s)
        _killed, remaining = await asyncio.to_thread(
            kill_marked, marks, within_s=kill_s, looks=2 if ended_by_itself else 1
        )
        self._close_stdin()
        if isinstance(self.socket, Path):
            with suppress(OSError):
                self.socket.unlink()
        if remaining or not has_ended:
            _log.error("worker.unkillable", pid=self.pid, remaining=remaining)
        return self.exited.result() if has_ended else ExitStatus(None, None, "still there after KILL")

    async def _run_stop_command(self, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        """Whatever comes of it, TERM follows."""
        try:
            process = start()
        except OSError as problem:
            _log.warning("worker.stop_command_failed", pid=self.pid, problem=problem.strerror)
            return
        try:
            code = await asyncio.to_thread(process.wait, STOP_COMMAND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = await asyncio.to_thread(process.wait)
        if code:
            _log.warning("worker.stop_command_failed", pid=self.pid, exit=code)

    async def _ended_within(self, seconds: float) -> bool:
        await asyncio.wait((self.exited,), timeout=seconds)
        return self.exited.done()

    def _signal(self, number: signal.Signals) -> None:
        """To the process group, or to the guardian alone, which passes it on. Nothing once it has been reaped."""
        if self.exited.done():
            return
        with suppress(ProcessLookupError):
            if self._under_guardian and number == signal.SIGTERM:
                os.kill(self.pid, number)
            else:
                os.killpg(self.pid, number)

    def _watch(self) -> None:
        """Learn of the end without a SIGCHLD handler, which belongs to whoever runs the loop."""
        loop = asyncio.get_running_loop()
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(self.pid)
            loop.add_reader(self._pidfd, self._on_end)
        else:  # macOS
            waiting = loop.run_in_executor(None, self._process.wait)
            waiting.add_done_callback(lambda _future: self._on_end())

    def _on_end(self) -> None:
        returncode = self._process.poll()
        if returncode is None:
            return
        if hasattr(os, "pidfd_open"):
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
        self._output.close()
        if not self.exited.done():
            self.exited.set_result(ExitStatus.of(returncode))

    def _close_stdin(self) -> None:
        with suppress(OSError):
            self._stdin.close()

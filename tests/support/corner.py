"""A corner of this machine as a device of its own: only what one run's workers and one hog really hold is in use on it.

The bytes are real and read from procfs; what the rest of the machine does meanwhile does not show.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

from modelyard.clock import SystemClock
from modelyard.engines.base import Engine
from modelyard.engines.echo import Echo
from modelyard.events import EventBus
from modelyard.memory.devices import SystemDevices
from modelyard.memory.holders import SystemHolders
from modelyard.residency.manager import ResidencyManager
from modelyard.residency.state import ResidencyLimits
from modelyard.types.memory import RAM, DeviceReading, Holder, ProcessMemory
from modelyard.types.model import Model
from modelyard.units import GIB
from modelyard.workers.marked import RUN_VARIABLE, find_marked
from modelyard.workers.run_folder import RunFolder
from modelyard.workers.start import Starter, StartLimits

CLOCK = SystemClock()
NOBODY = 2**22 + 1  # more than any process id
_HOG = """
import sys
held = []
for line in sys.stdin:
    held.clear()
    if int(line):
        held.append(bytearray(b"x") * (int(line) * 1024**2))
    print("done", flush=True)
"""


class Hog:
    """Another program, which takes memory and gives it back."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process

    def hold(self, mib: int) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{mib}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"


@contextmanager
def hog() -> Iterator[Hog]:
    with subprocess.Popen([sys.executable, "-c", _HOG], stdin=-1, stdout=-1, text=True, bufsize=1) as process:
        yield Hog(process)
        assert process.stdin is not None
        process.stdin.close()


class Corner:
    """Reads the device, and who holds it."""

    def __init__(self, mark: str, others: Collection[int], total_bytes: int = GIB) -> None:
        self._machine = SystemDevices(gpus=False)
        self._mark, self._others, self._total_bytes = mark, others, total_bytes
        self.read_count = 0

    def read(self) -> tuple[DeviceReading, ...]:
        self.read_count += 1
        used = sum(self._machine.alone(pid).anonymous_bytes for pid in (*self.workers(), *self._others))
        return (DeviceReading(RAM, "a corner", self._total_bytes, max(0, self._total_bytes - used)),)

    def process(self, pid: int) -> ProcessMemory:
        return self._machine.process(pid)

    def workers(self) -> list[int]:
        """Every process of this run that is not reaped."""
        return [process.pid for process in find_marked({RUN_VARIABLE: frozenset((self._mark,))})]


class CornerHolders:
    """Of this machine's processes those that hold something of the corner."""

    def __init__(self, corner: Corner, others: Collection[int]) -> None:
        self._corner, self._others = corner, others

    def read(self, left_behind: Mapping[int, str], in_ledger: Collection[str]) -> tuple[Holder, ...]:
        # A hog is a child of this process, so it is looked for on behalf of a node that has no children here.
        found = SystemHolders(SystemDevices(gpus=False), NOBODY if self._others else None).read(left_behind, in_ledger)
        seen = {holder.pid: holder for holder in found}
        there = {*self._others, *self._corner.workers()} if left_behind else {*self._others}
        return tuple(seen[pid] for pid in sorted(there & seen.keys(), key=lambda pid: -sum(seen[pid].bytes.values())))


@asynccontextmanager
async def cornered(
    *others: int,
    engines: Sequence[Engine] = (),
    limits: StartLimits | None = None,
    events: EventBus | None = None,
    stop_s: float = 20.0,
    read_every_s: float = 0.05,
    memory_wait_s: float = 30.0,
) -> AsyncIterator[tuple[ResidencyManager, Corner]]:
    """A manager over a corner of one GiB, with real workers."""
    with RunFolder() as run:
        corner = Corner(run.mark, others)
        starter = Starter(engines or [Echo(os.environ)], run, corner.process, limits)
        manager = ResidencyManager(
            CLOCK, events or EventBus(), corner, starter,
            ResidencyLimits(headroom_bytes=0, residence_load_ratio=0.0, memory_wait_s=memory_wait_s),
            holders=CornerHolders(corner, others), read_every_s=read_every_s, memory_back_s=0.5, stop_s=stop_s,
        )  # fmt: skip
        task = asyncio.create_task(manager.run())
        try:
            yield manager, corner
        finally:
            await manager.close()
            await task


async def use(manager: ResidencyManager, model: Model, wait_s: float = 60.0) -> int:
    """Take a lease and give it back; the process id of the worker."""
    async with manager.lease(model, ticket="t", caller="me", deadline=CLOCK.monotonic() + wait_s) as lease:
        return lease.worker.pid

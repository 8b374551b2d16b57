"""What this machine says of its memory now: RAM within its limits, and what one process and its children hold.

Reads only; decides nothing. Tolerant: no cgroup, a process that has just gone are ordinary answers. Whoever reads GPUs
is handed in. Where the GPU uses main memory there is one device, RAM of the kind "unified". Limits are read in
memory/cgroups, processes in memory/processes.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import psutil

from modelyard.types.memory import RAM, DeviceReading, ProcessMemory

from .cgroups import memory_limits
from .processes import facts_of, tree

GPU_HELD_S = 0.2
_IS_APPLE = sys.platform == "darwin" and platform.machine() == "arm64"


class DeviceReader(Protocol):
    """Whoever can say what devices hold."""

    def read(self) -> tuple[DeviceReading, ...]:
        """Every device, RAM first."""
        ...

    def process(self, pid: int) -> ProcessMemory:
        """What a process and all below it hold; nothing if it is gone."""
        ...


class GpuReader(Protocol):
    """Whoever can say what GPUs hold."""

    @property
    def is_any(self) -> bool: ...

    @property
    def uses_main_memory(self) -> bool: ...

    def read(self) -> Iterable[DeviceReading]: ...

    def held(self) -> Mapping[int, Mapping[str, int]]: ...


class MachineDevices:
    """This machine's memory, and its GPUs if somebody reads them. `ram_limit_bytes` makes RAM look smaller."""

    def __init__(
        self, *, ram_limit_bytes: int | None = None, gpus: GpuReader | None = None, root: Path = Path("/")
    ) -> None:
        self._ram_limit_bytes = ram_limit_bytes
        self.root = root
        self._gpus = gpus
        self._is_unified = _IS_APPLE or (self._gpus is not None and self._gpus.uses_main_memory)
        self._gpu_held: tuple[float, Mapping[int, Mapping[str, int]]] = (float("-inf"), {})

    def read(self) -> tuple[DeviceReading, ...]:
        """Every device, RAM first."""
        return (self._ram(), *(self._gpus.read() if self._gpus is not None else ()))

    def process(self, pid: int) -> ProcessMemory:
        """What a process and all below it hold; nothing if it is gone."""
        anonymous, filed, on_gpus, on_gpu = 0, 0, self.gpu_held(), dict[str, int]()
        for member in tree(self.root, pid):
            facts = facts_of(self.root, member)
            if facts is not None:
                anonymous, filed = anonymous + facts.anonymous_bytes, filed + facts.file_bytes
            for device, count in on_gpus.get(member, {}).items():
                on_gpu[device] = on_gpu.get(device, 0) + count
        return ProcessMemory(anonymous + on_gpu.pop("", 0), filed, on_gpu)

    def alone(self, pid: int) -> ProcessMemory:
        """What one process holds in main memory, without those below it."""
        facts = facts_of(self.root, pid)
        return ProcessMemory(facts.anonymous_bytes, facts.file_bytes) if facts is not None else ProcessMemory()

    def gpu_held(self) -> Mapping[int, Mapping[str, int]]:
        """Process id -> device -> bytes, no older than `GPU_HELD_S`: who asks, asks for one worker after the other."""
        if self._gpus is None or not self._gpus.is_any:
            return {}
        read_at, held = self._gpu_held
        if time.monotonic() - read_at > GPU_HELD_S:
            read_at, held = self._gpu_held = time.monotonic(), self._gpus.held()
        return held

    def ram_group(self) -> str:
        """The control group whose limit leaves the least; empty if the machine itself leaves less."""
        tightest = min(memory_limits(self.root), key=lambda limit: limit.free_bytes, default=None)
        if tightest is None or tightest.free_bytes >= psutil.virtual_memory().available:
            return ""
        return tightest.group

    def _ram(self) -> DeviceReading:
        machine = psutil.virtual_memory()
        total, free, limited_by = machine.total, machine.available, ""
        for limit in memory_limits(self.root):
            if limit.max_bytes < total:
                total, limited_by = limit.max_bytes, "cgroup"
            free = min(free, limit.free_bytes)
        used = total - max(0, min(free, total))
        if self._ram_limit_bytes is not None and self._ram_limit_bytes < total:
            total, limited_by = self._ram_limit_bytes, "configuration"
        name, free = platform.machine() or "RAM", max(0, min(free, total))
        return DeviceReading(RAM, name, total, free, "unified" if self._is_unified else "ram", limited_by, used)

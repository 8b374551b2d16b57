"""What the machine's devices say now: RAM within its limits, GPUs, and what one process and its children hold.

Reads only; decides nothing and remembers nothing. Tolerant: no driver, no cgroup, a process that has just gone are
ordinary answers. Platform knowledge (procfs, NVML) for memory lives here; cgroups are in memory/cgroups.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import psutil
import pynvml

from modelyard.types.memory import RAM, DeviceReading, ProcessMemory
from modelyard.units import KIB

from .cgroups import memory_limits

TREE_COUNT_MAX = 4096  # processes looked at below one worker


class DeviceReader(Protocol):
    """Whoever can say what devices hold."""

    def read(self) -> tuple[DeviceReading, ...]:
        """Every device, RAM first."""
        ...

    def process(self, pid: int) -> ProcessMemory:
        """What a process and all below it hold; nothing if it is gone."""
        ...


class SystemDevices:
    """This machine's devices. `ram_limit_bytes` makes RAM look smaller; `gpus=False` ignores GPUs."""

    def __init__(self, *, ram_limit_bytes: int | None = None, gpus: bool = True, root: Path = Path("/")) -> None:
        self._ram_limit_bytes = ram_limit_bytes
        self._root = root
        self._gpus = _open_gpus() if gpus else ()

    def read(self) -> tuple[DeviceReading, ...]:
        """Every device, RAM first."""
        return (self._ram(), *(reading for gpu in self._gpus for reading in _read_gpu(*gpu)))

    def process(self, pid: int) -> ProcessMemory:
        """What a process and all below it hold; nothing if it is gone."""
        pids = frozenset(_tree(self._root, pid))
        anonymous, filed = 0, 0
        for member in pids:
            held = _resident(self._root, member)
            anonymous, filed = anonymous + held[0], filed + held[1]
        return ProcessMemory(anonymous, filed, _gpu_bytes(self._gpus, pids) if self._gpus else {})

    def _ram(self) -> DeviceReading:
        machine = psutil.virtual_memory()
        total, free, limited_by = machine.total, machine.available, ""
        for limit in memory_limits(self._root):
            if limit.max_bytes < total:
                total, limited_by = limit.max_bytes, "cgroup"
            free = min(free, limit.free_bytes)
        used = total - max(0, min(free, total))
        if self._ram_limit_bytes is not None and self._ram_limit_bytes < total:
            total, limited_by = self._ram_limit_bytes, "configuration"
        name, free = platform.machine() or "RAM", max(0, min(free, total))
        return DeviceReading(RAM, name, total, free, "ram", limited_by, used)


class FakeDevices:
    """Devices that say what they are told: `devices.used_bytes["ram"] = 5 * GIB`."""

    def __init__(self, total_bytes: Mapping[str, int], used_bytes: Mapping[str, int] | None = None) -> None:
        self.total_bytes = dict(total_bytes)
        self.used_bytes = dict.fromkeys(total_bytes, 0) | dict(used_bytes or {})
        self.processes: dict[int, ProcessMemory] = {}

    def read(self) -> tuple[DeviceReading, ...]:
        """Every device as told, RAM first."""
        names = sorted(self.total_bytes, key=lambda device: (device != RAM, device))
        return tuple(
            DeviceReading(
                device, f"fake {device}", self.total_bytes[device],
                max(0, self.total_bytes[device] - self.used_bytes.get(device, 0)),
                "ram" if device == RAM else "gpu",
            )
            for device in names
        )  # fmt: skip

    def process(self, pid: int) -> ProcessMemory:
        """What was set for that process, or nothing."""
        return self.processes.get(pid, ProcessMemory())


Gpu = tuple[str, object]  # our name, NVML's handle


@contextmanager
def _driver_errors_ignored() -> Iterator[None]:
    """A driver that is absent, restarting or does not support a question is no error of ours."""
    with suppress(pynvml.NVMLError):
        yield


def _open_gpus() -> tuple[Gpu, ...]:
    gpus: list[Gpu] = []
    with _driver_errors_ignored():
        pynvml.nvmlInit()
        for number in range(pynvml.nvmlDeviceGetCount()):
            gpus.append((f"gpu{number}", pynvml.nvmlDeviceGetHandleByIndex(number)))
    return tuple(gpus)


def _read_gpu(device: str, handle: object) -> Iterator[DeviceReading]:
    with _driver_errors_ignored():
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        name = pynvml.nvmlDeviceGetName(handle)
        yield DeviceReading(device, str(name), int(memory.total), int(memory.free), "gpu")


def _gpu_bytes(gpus: tuple[Gpu, ...], pids: frozenset[int]) -> dict[str, int]:
    held: dict[str, int] = {}
    for device, handle in gpus:
        with _driver_errors_ignored():
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                if process.pid in pids and process.usedGpuMemory:
                    held[device] = held.get(device, 0) + int(process.usedGpuMemory)
    return held


def _tree(root: Path, pid: int) -> Iterator[int]:
    """A process and all below it."""
    waiting, seen = [pid], {pid}
    while waiting and len(seen) <= TREE_COUNT_MAX:
        current = waiting.pop()
        yield current
        for child in _children(root, current):
            if child not in seen:
                seen.add(child)
                waiting.append(child)


def _children(root: Path, pid: int) -> list[int]:
    """Asked of the kernel per thread: looking through every process of the machine costs a hundred times more."""
    tasks = root / "proc" / str(pid) / "task"
    try:
        listed = [(task / "children").read_text() for task in tasks.iterdir()]
    except OSError:
        return _children_by_search(pid)
    return [int(number) for line in listed for number in line.split()]


def _children_by_search(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _resident(root: Path, pid: int) -> tuple[int, int]:
    """Anonymous and file-backed bytes. Shared memory counts as anonymous: it cannot be dropped either."""
    try:
        status = (root / "proc" / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return (0, 0) if (root / "proc" / "self").exists() else _resident_elsewhere(pid)
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)

    def size(name: str) -> int:
        return int(fields.get(name, "0 kB").split()[0]) * KIB

    return size("RssAnon") + size("RssShmem"), size("RssFile")


def _resident_elsewhere(pid: int) -> tuple[int, int]:
    try:
        return psutil.Process(pid).memory_info().rss, 0
    except psutil.Error:
        return 0, 0

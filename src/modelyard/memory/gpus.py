"""What the NVIDIA driver says of its GPUs: how full they are, and which process holds how much.

Reads only. A driver that is absent, restarting, or does not answer a question is no error: what it does not say is left
out. A GPU cut into slices is as many devices; one without memory of its own (it uses main memory) is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pynvml

from modelyard.types.memory import DeviceReading
from modelyard.units import MIB

SLICE_COUNT_MAX = 16


@dataclass(frozen=True, slots=True)
class _Gpu:
    device: str  # our name; empty for one that uses main memory
    handle: object


class Gpus:
    """The GPUs that were there at start."""

    def __init__(self, ram_total_bytes: int) -> None:
        self._gpus: list[_Gpu] = []
        with _driver_errors_ignored():
            pynvml.nvmlInit()
            for number in range(pynvml.nvmlDeviceGetCount()):
                for handle in _slices(pynvml.nvmlDeviceGetHandleByIndex(number)):
                    is_shared = _uses_main_memory(handle, ram_total_bytes)
                    self._gpus.append(_Gpu("" if is_shared else f"gpu{self._own_count}", handle))

    @property
    def _own_count(self) -> int:
        return sum(bool(gpu.device) for gpu in self._gpus)

    @property
    def is_any(self) -> bool:
        return bool(self._gpus)

    @property
    def uses_main_memory(self) -> bool:
        """Whether processor and GPU share one memory."""
        return any(not gpu.device for gpu in self._gpus)

    def read(self) -> Iterator[DeviceReading]:
        """Those with memory of their own."""
        for gpu in self._gpus:
            if gpu.device:
                with _driver_errors_ignored():
                    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu.handle)
                    name = pynvml.nvmlDeviceGetName(gpu.handle)
                    yield DeviceReading(gpu.device, str(name), int(memory.total), int(memory.free), "gpu")

    def held(self) -> dict[int, dict[str, int]]:
        """Process id -> device -> bytes; the device is empty for main memory that a GPU uses."""
        held: dict[int, dict[str, int]] = {}
        for gpu in self._gpus:
            for pid, count in _processes(gpu.handle).items():
                of_process = held.setdefault(pid, {})
                of_process[gpu.device] = of_process.get(gpu.device, 0) + count
        return held


@contextmanager
def _driver_errors_ignored() -> Iterator[None]:
    with suppress(pynvml.NVMLError):
        yield


def _slices(handle: object) -> list[object]:
    """The parts a GPU has been cut into (MIG), or itself. The whole would promise what no single part has."""
    parts: list[object] = []
    with _driver_errors_ignored():
        current, _pending = pynvml.nvmlDeviceGetMigMode(handle)
        if current:
            for number in range(min(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle), SLICE_COUNT_MAX)):
                with _driver_errors_ignored():  # places may be empty
                    parts.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number))
    return parts or [handle]


def _uses_main_memory(handle: object, ram_total_bytes: int) -> bool:
    """The driver has no answer for such a GPU's memory, or answers with the machine's."""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError as error:
        return bool(error.value == pynvml.NVML_ERROR_NOT_SUPPORTED)
    return abs(int(memory.total) - ram_total_bytes) <= MIB


def _processes(handle: object) -> dict[int, int]:
    """Some computes, some draws, some does both and is then listed twice with the same figure."""
    held: dict[int, int] = {}
    questions: tuple[Callable[[object], list[object]], ...] = (
        pynvml.nvmlDeviceGetComputeRunningProcesses,
        pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    )
    for question in questions:
        listed: dict[int, int] = {}
        with _driver_errors_ignored():
            for process in question(handle):
                pid, count = int(getattr(process, "pid", 0)), int(getattr(process, "usedGpuMemory", 0) or 0)
                listed[pid] = listed.get(pid, 0) + count
        for pid, count in listed.items():
            held[pid] = max(held.get(pid, 0), count)
    return {pid: count for pid, count in held.items() if count > 0}

"""Stands in for a GPU driver's library, which no machine without a GPU has. Its names are that library's."""

from __future__ import annotations

import os
from typing import TypeVar

from modelyard.units import GIB

T = TypeVar("T")


class Sizes:
    def __init__(self, total: int, free: int) -> None:
        self.total, self.free = total, free


class Process:
    def __init__(self, pid: int, used: int | None) -> None:
        self.pid, self.usedGpuMemory = pid, used


class Driver:
    """Two GPUs, each with a process of ours and one of somebody else; what it answers can be set."""

    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_UNKNOWN = 999

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(value)
            self.value = value

    def __init__(self) -> None:
        self.is_lost = False
        self.memory: dict[object, Sizes | Exception] = {0: Sizes(80 * GIB, 60 * GIB), 1: Sizes(80 * GIB, 61 * GIB)}
        mine = os.getpid()
        self.computing: dict[object, list[Process] | Exception] = {
            number: [Process(mine, 5 * GIB + number), Process(1, 7 * GIB), Process(mine, None)] for number in (0, 1)
        }
        self.drawing: dict[object, list[Process] | Exception] = {}
        self.slices: dict[int, list[str | None]] = {}

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return sum(isinstance(handle, int) for handle in self.memory)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:  # noqa: N802
        return number

    def nvmlDeviceGetName(self, _handle: object) -> str:  # noqa: N802
        return "NVIDIA H200"

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Sizes:  # noqa: N802
        if self.is_lost and handle == 0:
            raise self.NVMLError(self.NVML_ERROR_UNKNOWN)
        return answer(self.memory[handle])

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:  # noqa: N802
        if handle in self.slices:
            return 1, 1
        raise self.NVMLError(self.NVML_ERROR_NOT_SUPPORTED)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: int) -> int:  # noqa: N802
        return len(self.slices[handle])

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: int, number: int) -> str:  # noqa: N802
        part = self.slices[handle][number]
        if part is None:
            raise self.NVMLError(self.NVML_ERROR_UNKNOWN)
        return part

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[Process]:  # noqa: N802
        return answer(self.computing.get(handle, []))

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: object) -> list[Process]:  # noqa: N802
        return answer(self.drawing.get(handle, []))


def answer(set_to: T | Exception) -> T:
    if isinstance(set_to, Exception):
        raise set_to
    return set_to

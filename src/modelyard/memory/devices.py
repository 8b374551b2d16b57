"""What the machine's devices say now, GPUs and all, and devices that say what they are told.

RAM and processes are read in memory/machine, GPUs in memory/gpus.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

from modelyard.types.memory import RAM, DeviceReading, ProcessMemory

from .gpus import Gpus
from .machine import MachineDevices


class SystemDevices(MachineDevices):
    """This machine's devices. `ram_limit_bytes` makes RAM look smaller; `gpus=False` ignores GPUs."""

    def __init__(self, *, ram_limit_bytes: int | None = None, gpus: bool = True, root: Path = Path("/")) -> None:
        found = Gpus(psutil.virtual_memory().total) if gpus else None
        super().__init__(ram_limit_bytes=ram_limit_bytes, gpus=found, root=root)


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

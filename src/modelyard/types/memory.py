"""Bytes as values: devices, what a model needs, what a load or unload did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

RAM = "ram"  # the device id of main memory; GPUs are "gpu0", "gpu1", ...


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """One look at one device."""

    device: str
    name: str
    total_bytes: int  # for RAM the smaller of the machine and the cgroup limit
    free_bytes: int  # what a new allocation could get now
    kind: Literal["ram", "gpu", "unified"] = "ram"  # unified: main memory that the processor and the GPU share
    limited_by: str = ""  # "cgroup" or "configuration" where a limit is smaller than the machine
    used_bytes: int = -1  # in use by anybody; a total below what the device has says nothing about that

    def __post_init__(self) -> None:
        if self.used_bytes < 0:
            object.__setattr__(self, "used_bytes", self.total_bytes - self.free_bytes)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes a resident model occupies per device.

    `band_ratio` is how wrong a prediction may be: the planner reserves `bytes * (1 + band_ratio)`. If nobody can say
    (source `unknown`), `bytes` only names the devices it may use; it then gets them to itself, once, and is measured.
    """

    bytes: dict[str, int]
    source: Literal["measured", "oracle", "formula", "declared", "unknown"] = "formula"
    band_ratio: float = 0.0
    parts: dict[str, int] = field(default_factory=dict)  # weights, kv, compute, prompt_cache: what it is made of
    reserved_bytes: dict[str, int] = field(init=False, compare=False, repr=False)  # with the upper band

    def __post_init__(self) -> None:
        reserved = {device: int(count * (1 + self.band_ratio)) for device, count in self.bytes.items()}
        object.__setattr__(self, "reserved_bytes", reserved)

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes.values())

    @property
    def is_known(self) -> bool:
        return self.source != "unknown"


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """What one process holds: anonymous and file-backed RAM apart, since the second is reclaimable."""

    anonymous_bytes: int = 0
    file_bytes: int = 0
    gpu_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process of somebody else, and what it holds."""

    pid: int
    name: str
    bytes: dict[str, int]  # per device


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a load or an unload did to memory, per device. `freed_bytes` is negative for a load."""

    action: Literal["load", "unload"]
    model: str
    reason: str  # request, operator, eviction, expiry, crash, shutdown, ...
    before_bytes: dict[str, int]  # used, as the device reported
    after_bytes: dict[str, int]
    freed_bytes: dict[str, int]
    worker: ProcessMemory  # of the worker: just before it left, or once it was ready
    took_s: float
    leaked_bytes: int = 0  # expected back and not seen back

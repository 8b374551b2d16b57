"""Frozen snapshots of a node: what `ps`, `/admin/status` and reports are made of. Bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from .memory import DeviceReading, Holder


class Residency(StrEnum):
    """A model's relation to memory."""

    ABSENT = "absent"
    WAITING = "waiting"  # memory is promised; what is in the way is leaving
    LOADING = "loading"
    RESIDENT = "resident"
    DRAINING = "draining"  # takes no new work, finishes what it has
    LEAVING = "leaving"  # its process is ending


@dataclass(frozen=True, slots=True)
class ResidentStatus:
    """One model that holds or is promised memory."""

    model: str
    engine: str
    state: Residency
    epoch: int
    pinned: bool
    slots: int
    leases: int
    waiting: int
    context_length: int | None
    reserved_bytes: dict[str, int]
    measured_bytes: dict[str, int]
    footprint_source: str
    loaded_at: float | None  # seconds since 1970
    load_s: float | None
    expires_in_s: float | None  # None: never, or busy
    pid: int | None = None
    kind: str = "local"
    purpose: str = "chat"  # or embedding, rerank
    roles: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()  # what was given up so that it fits
    predicted_bytes: dict[str, int] = field(default_factory=dict)  # before the load, without the band
    peak_bytes: dict[str, int] = field(default_factory=dict)  # the most it was seen to use
    band_ratio: float = 0.0  # how wrong the prediction may be; it is reserved with this on top
    file_bytes: int = 0  # mapped files in RAM: not counted as measured, since the system takes them back at will
    phase: str = ""  # of a load: starting, loading, warming up, ready
    progress: float | None = None  # of a load, from 0 to 1
    eta_s: float | None = None  # until it is ready, from what its loads took before


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One device's ledger: headroom, foreign, reserved and free are the whole device."""

    reading: DeviceReading
    headroom_bytes: int
    budget_bytes: int
    reserved_bytes: int
    foreign_bytes: int
    held_bytes: dict[str, int] = field(default_factory=dict)  # reserved, by state; `promised` stands apart
    holders: tuple[Holder, ...] = ()  # who holds the foreign bytes, the largest first, as far as anybody can tell
    free_bytes: int = 0  # of the budget; below zero where others hold more than is left of it


@dataclass(frozen=True, slots=True)
class WaitStatus:
    """How it stands with one request, or one operator's wish, that waits for memory or a slot."""

    model: str
    position: int  # 1 is next
    reason: str  # loading, memory, busy, foreign, slot
    waited_s: float
    eta_s: float | None = None  # a guess from past loads and the pace of grants
    detail: str = ""  # who is in the way, or how far the load is


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """One request in flight."""

    id: str
    model: str
    caller: str
    phase: str  # queued, loading, prefill, generating
    age_s: float
    output_tokens: int
    prompt_ratio: float | None = None  # how much of the prompt has been read, from 0 to 1, where that is told
    wait: WaitStatus | None = None  # how it stands with it while it waits for memory or a slot


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node at one moment."""

    version: str
    started_at: float
    ready: bool
    draining: bool
    devices: tuple[DeviceStatus, ...] = ()
    residents: tuple[ResidentStatus, ...] = ()
    queue: int = 0
    waiting: tuple[WaitStatus, ...] = ()  # in the order in which their models get memory
    requests: tuple[RequestStatus, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)  # model -> why its last load failed
    config_problem: str = ""  # why the configuration as it is now written is not in force

"""Other nodes as values: what one look at a node found, and how it stands with it. Bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from .model import Kind, Model


class Health(StrEnum):
    """How a node is, and with it whether requests go there."""

    UNKNOWN = "unknown"  # not looked at yet: may be asked
    HEALTHY = "healthy"
    RECOVERING = "recovering"  # answers again; its share grows
    DOUBTFUL = "doubtful"  # something failed: asked only where nobody better is left, and probed
    OUT = "out"  # does not answer, or not with tokens
    MISCONFIGURED = "misconfigured"  # refuses our key, or is not what the configuration says
    LIMITED = "limited"  # said until when it wants no more


@dataclass(frozen=True, slots=True)
class ResidentCopy:
    """A model in a node's memory, as that node tells it."""

    node_model: str
    total_bytes: int = 0
    vram_bytes: int = 0
    context_length: int | None = None
    expires_in_s: float | None = None  # None: never, or it does not say
    state: str = "resident"  # a node of ours tells: loading, draining, ...


@dataclass(frozen=True, slots=True)
class NodeLook:
    """What one look at a node found. Looking loads nothing and keeps nothing alive."""

    version: str = ""
    models: tuple[Model, ...] = ()
    residents: tuple[ResidentCopy, ...] | None = None  # None: it does not say what is in memory
    free_bytes: int | None = None  # for models, if it says
    is_like_us: bool = False  # it may have nodes of its own, and we may be one of them


@dataclass(frozen=True, slots=True)
class FleetNodeStatus:
    """One node as we see it."""

    name: str
    kind: Kind
    url: str
    health: Health
    reason: str  # why it is not healthy
    since: float  # seconds since 1970
    weight: float
    draining: bool
    in_flight: int
    models_count: int
    version: str = ""
    residents: tuple[ResidentCopy, ...] = ()
    seen_s_ago: float | None = None  # age of what is told here; None: never seen
    next_probe_in_s: float | None = None
    cooling: dict[str, float] = field(default_factory=dict)  # model -> seconds until it is tried again there
    slots: int = 0
    shares_devices: bool = False  # its models are entries of our ledger
    is_like_us: bool = False

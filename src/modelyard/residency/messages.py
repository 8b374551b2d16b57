"""What the scheduler is told, and what it asks for. Plain values; whoever carries them out is none of its business.

Every event carries `now`, in seconds of a clock that never jumps. An epoch names one load of one model; what is said
of an old epoch changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelyard.errors import YardError
from modelyard.types.memory import DeviceReading
from modelyard.types.model import ModelSpec

from .state import ResidencyLimits

# Events: what happened.


@dataclass(frozen=True, slots=True)
class Requested:
    """A request wants a lease of this model."""

    now: float
    ticket: int
    spec: ModelSpec
    caller: str
    deadline: float
    keep_alive_s: float | None = None  # negative: for ever; 0: leave at once; None: as it was
    priority: int = 0  # of the caller; the model's own is added
    role: str = ""  # the role it was asked for by, if by one


@dataclass(frozen=True, slots=True)
class Adopted:
    """Another node brought this model into memory we share. Answered with `Adopt`, unless it is known already."""

    now: float
    spec: ModelSpec
    in_use: Mapping[str, int]
    slots: int = 1


@dataclass(frozen=True, slots=True)
class Left:
    """Another node took its model out by itself."""

    now: float
    model: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Released:
    """A lease has ended."""

    now: float
    ticket: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Whoever held this ticket is gone, whether it waited or had its lease already."""

    now: float
    ticket: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A worker is ready."""

    now: float
    model: str
    epoch: int
    slots: int
    held: Mapping[str, int]  # the reservation from here on, corrected by what was measured
    in_use: Mapping[str, int]  # what the devices count as used by it
    load_s: float


@dataclass(frozen=True, slots=True)
class LoadBroke:
    """A worker could not load; nothing of it is left."""

    now: float
    model: str
    epoch: int
    error: YardError
    is_memory: bool = False  # there was not enough memory: a smaller way to start it may do


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker that was up has ended, or must be given up."""

    now: float
    model: str
    epoch: int
    error: YardError


@dataclass(frozen=True, slots=True)
class Unloaded:
    """A worker's processes are gone, and its memory is back or counted as leaked."""

    now: float
    model: str
    epoch: int
    leaked_bytes: int = 0


@dataclass(frozen=True, slots=True)
class DevicesRead:
    """A look at the devices, and at what our own workers use of them: model -> (epoch, bytes)."""

    now: float
    readings: tuple[DeviceReading, ...]
    in_use: Mapping[str, tuple[int, Mapping[str, int]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadAsked:
    """An operator wants this model in memory; granted without a slot."""

    now: float
    ticket: int
    spec: ModelSpec
    deadline: float
    pinned: bool | None = None  # None: leave the pin as it is
    role: str = ""


@dataclass(frozen=True, slots=True)
class UnloadAsked:
    """An operator wants this model out of memory; with `force` its leases are broken.

    With a role only that role lets go of it; the model leaves when its last role has.
    """

    now: float
    model: str
    force: bool = False
    role: str = ""


@dataclass(frozen=True, slots=True)
class PinAsked:
    """An operator pins or unpins a model."""

    now: float
    model: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class RecycleAsked:
    """This load should be replaced by a fresh one at its next idle moment: it leaks, for instance."""

    now: float
    model: str
    epoch: int
    why: str


@dataclass(frozen=True, slots=True)
class Tick:
    """The time asked for by `WakeAt` has come."""

    now: float


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The node stops: nothing new; what runs may finish, unless forced."""

    now: float
    force: bool = False


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """The configuration gives other bounds. What is in memory stays until they matter to somebody."""

    now: float
    limits: ResidencyLimits


Event = (
    Requested
    | Adopted
    | Left
    | Released
    | Cancelled
    | Loaded
    | LoadBroke
    | WorkerDied
    | Unloaded
    | DevicesRead
    | LoadAsked
    | UnloadAsked
    | PinAsked
    | RecycleAsked
    | LimitsChanged
    | Tick
    | Shutdown
)

# Effects: what is asked for.


@dataclass(frozen=True, slots=True)
class Load:
    """Start a worker; answer with `Loaded` or `LoadBroke`."""

    model: str
    epoch: int
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class Adopt:
    """Keep account of a model that another node brought in; it is resident from the start."""

    model: str
    epoch: int
    spec: ModelSpec


@dataclass(frozen=True, slots=True)
class Unload:
    """End a worker, even one that is still loading; answer with `Unloaded`."""

    model: str
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The ticket has its lease, or, for `LoadAsked`, its model."""

    ticket: int
    model: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """The ticket gets an error and is forgotten."""

    ticket: int
    error: YardError


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send a `Tick` then. The last one asked for counts."""

    at: float


@dataclass(frozen=True, slots=True)
class Tell:
    """Something worth an event."""

    name: str
    fields: dict[str, object]


Effect = Load | Adopt | Unload | Grant | Refuse | WakeAt | Tell

"""What the scheduler remembers: limits, one record per model in memory, past failures, and what the devices hold.

Pure. Only the scheduler writes here. A model without a record is absent.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from modelyard.errors import LoadFailed, YardError
from modelyard.memory.planner import Ledger, foreign_bytes, raised
from modelyard.types.memory import DeviceReading
from modelyard.types.model import ModelSpec
from modelyard.types.status import Residency
from modelyard.units import GIB, MIB

# Looked up once: a member of an enum costs more than the rest of the questions below, which are asked all the time.
LOADING = Residency.LOADING
OPEN = (Residency.RESIDENT, Residency.DRAINING)


@dataclass(frozen=True, slots=True)
class ResidencyLimits:
    """Every bound the scheduler keeps."""

    policy: Literal["fit", "exclusive"] = "fit"  # exclusive: models of one kind at a time
    groups: Mapping[str, int] = field(default_factory=dict)  # how many models of a group may be in memory
    headroom_bytes: int = GIB  # of each device, never given to a model
    headroom_by_device: Mapping[str, int] = field(default_factory=dict)  # of these instead
    oldest_first: frozenset[str] = frozenset()  # groups whose members leave by when they were used, whatever they cost
    idle_ttl_s: float = 300.0  # negative: nothing expires that has none of its own
    vectors_idle_ttl_s: float = 300.0  # the same of models that embed or rank
    expires: bool = True  # whether anything does by itself; a request may say so in any case
    queue_max: int = 512
    bypass_count_max: int = 8  # a ticket overtaken this often makes its victims drain
    drain_after_s: float = 10.0  # so does one that has waited this long
    memory_wait_s: float = 30.0  # how long to wait for others to give memory back
    residence_load_ratio: float = 0.5  # a newcomer stays this share of its load time before another's need evicts it,
    residence_s_max: float = 5.0  # and no longer than this
    abandon_load_ratio: float = 0.5  # a load nobody waits for is given up before this share of its expected time
    abandon_s_min: float = 1.0
    backoff_s: float = 10.0  # after a failed load; doubles
    backoff_s_max: float = 300.0
    crash_count_max: int = 5  # worker ends within the window, after which nothing is started
    crash_window_s: float = 600.0
    growth_ratio: float = 0.1  # over what was measured when it was ready: more is growth,
    growth_bytes_min: int = 64 * MIB  # and less than this is not

    def has_rules(self, spec: ModelSpec) -> bool:
        """Whether others may be in this model's way for other reasons than bytes."""
        return self.policy != "fit" or spec.group in self.groups

    def idle_ttl_of(self, spec: ModelSpec) -> float:
        """How long a model stays that has no time of its own."""
        return self.idle_ttl_s if spec.purpose == "chat" else self.vectors_idle_ttl_s


@dataclass(slots=True, eq=False)
class Record:
    """One load of one model, from the decision to load until its processes are gone."""

    spec: ModelSpec
    epoch: int
    state: Residency  # loading, resident, draining or leaving
    started_at: float
    held: dict[str, int]  # the reservation; what the planner counts
    base: dict[str, int] = field(default_factory=dict)  # the reservation when the load ended; `held` never falls below
    in_use: dict[str, int] | None = None  # as last measured; None while nobody can tell
    slots: int = 0
    leases: int = 0  # never over `slots`; counts leases of this epoch only
    loaded_at: float = 0.0
    load_s: float = 0.0
    idle_since: float = 0.0  # the end of the last lease
    idle_ttl_s: float | None = None  # its own, as who asked last knew it; None: the limits'
    keep_alive_s: float | None = None  # what a request said instead; None: none did
    closed_from: int | None = None  # draining for the ticket of this order: later ones are not granted here
    leave_reason: str = ""  # set: a firm drain, or leaving; never unset
    peak: dict[str, int] = field(default_factory=dict)  # the most it was seen to use
    recycle_by: float | None = None  # to be replaced at its next idle moment, and draining from then on

    @property
    def is_open(self) -> bool:
        """In memory, and not ordered to go."""
        return self.state in OPEN and not self.leave_reason

    @property
    def is_staying(self) -> bool:
        """Keeps its memory unless somebody decides otherwise."""
        return self.state is LOADING or (self.state in OPEN and not self.leave_reason)

    def has_room(self, order: int) -> bool:
        """Whether a ticket of this age may have a slot now."""
        return self.is_open and self.leases < self.slots and (self.closed_from is None or order < self.closed_from)

    def measure(self, in_use: Mapping[str, int]) -> bool:
        """Take note of what it uses now, also while its last leases end; its reservation follows growth.

        Answers whether anything has changed.
        """
        if in_use == self.in_use or self.state not in OPEN:
            return False
        self.in_use = dict(in_use)
        self.held = raised(self.base, self.in_use)
        self.peak = raised(self.peak, self.in_use)
        return True

    def has_outgrown(self, limits: ResidencyLimits) -> bool:
        """Whether a worker of ours uses clearly more than was reserved for it when it was ready."""
        if self.spec.kind != "local":
            return False
        least, ratio = limits.growth_bytes_min, limits.growth_ratio
        return any(
            count > self.base.get(device, 0) + max(least, self.base.get(device, 0) * ratio)
            for device, count in (self.in_use or {}).items()
        )

    def leave(self, reason: str) -> None:
        """Its end is decided; nobody can tell from here on what it uses."""
        assert self.state is not Residency.LEAVING, f"{self.spec.name} leaves twice"
        self.state = Residency.LEAVING
        self.leave_reason = reason
        self.in_use = None


@dataclass(slots=True)
class Setback:
    """How far a model's loads got that broke because memory did not suffice. Forgotten when one goes well."""

    identity: str  # of what was wanted: other launch options begin anew
    at: float
    is_alone: bool = False  # idle others leave before the next try
    ways_broken: int = 0  # this many ways to start it are not tried again


class MemoryBooks:
    """What the devices said last, and how much of it is foreign."""

    def __init__(self, headroom_bytes: int, headroom_by_device: Mapping[str, int] | None = None) -> None:
        self.headroom_bytes = headroom_bytes
        self.headroom_by_device = dict(headroom_by_device or {})
        self.readings: dict[str, DeviceReading] = {}
        self.ledgers: dict[str, Ledger] = {}

    def keep_free(self, headroom_bytes: int, headroom_by_device: Mapping[str, int]) -> None:
        """Keep so much of every device free from now on."""
        self.headroom_bytes, self.headroom_by_device = headroom_bytes, dict(headroom_by_device)
        self.ledgers = {
            device: replace(ledger, headroom_bytes=self.headroom_by_device.get(device, headroom_bytes))
            for device, ledger in self.ledgers.items()
        }

    def doubt(self, devices: Iterable[str]) -> None:
        """A model of another node is gone, nobody knows since when; meanwhile others' memory may have passed for its.

        So what nobody accounts for is foreign, as far as it can be, until a load or an unload under way has ended.
        """
        for device in devices:
            if (ledger := self.ledgers.get(device)) is not None:
                self.ledgers[device] = replace(ledger, foreign_bytes=ledger.total_bytes)

    def update(self, records: Iterable[Record]) -> None:
        """Work out foreign use anew: after a reading, and whenever a worker came, went or changed."""
        known: dict[str, int] = {}
        unknown: dict[str, int] = {}
        for record in records:
            for device, held in record.held.items():
                used = (record.in_use or {}).get(device, 0)
                if record.in_use is None or (used == 0 and device != "ram"):  # some drivers tell nothing per process
                    unknown[device] = unknown.get(device, 0) + held
                else:
                    known[device] = known.get(device, 0) + used
        ledgers: dict[str, Ledger] = {}
        for device, reading in self.readings.items():
            old = self.ledgers.get(device)
            foreign = foreign_bytes(
                used=reading.total_bytes - reading.free_bytes,
                known=known.get(device, 0),
                unknown_max=unknown.get(device, 0),
                last=old.foreign_bytes if old is not None else 0,
            )
            if old is None or (old.foreign_bytes, old.total_bytes) != (foreign, reading.total_bytes):
                headroom = self.headroom_by_device.get(device, self.headroom_bytes)
                old = Ledger(device, reading.total_bytes, headroom, foreign)
            ledgers[device] = old
        self.ledgers = ledgers


@dataclass(slots=True)
class _Failure:
    error: YardError
    ends: deque[float]  # when its workers ended, the last few
    delay_s: float = 0.0
    retry_at: float = 0.0
    is_current: bool = True  # False once a load has gone well since


class Failures:
    """Who failed, why, and when to try again."""

    def __init__(self, limits: ResidencyLimits) -> None:
        self.limits = limits
        self._of: dict[str, _Failure] = {}

    def load_broke(self, model: str, now: float, error: YardError) -> None:
        """Wait before the next try: twice as long each time."""
        failure = self._ended(model, now, error)
        limits = self.limits
        failure.delay_s = min(max(limits.backoff_s, failure.delay_s * 2), limits.backoff_s_max)
        failure.retry_at = max(failure.retry_at, now + failure.delay_s)

    def died(self, model: str, now: float, error: YardError) -> None:
        """A worker that was up ended. The next request may start another at once, but not for ever."""
        self._ended(model, now, error)

    def loaded(self, model: str) -> None:
        """A load went well; a crash loop is still remembered."""
        failure = self._of.get(model)
        if failure is not None:
            failure.delay_s = 0.0
            failure.retry_at = self._loop_ends_at(failure)
            failure.is_current = False

    def refusal(self, model: str, now: float) -> YardError | None:
        """Why not to try now, with the time to wait; None if trying is fine."""
        failure = self._of.get(model)
        if failure is None or now >= failure.retry_at:
            return None
        cause = failure.error
        if not isinstance(cause, LoadFailed):
            cause = LoadFailed(model=model, problem=str(cause))
        cause = copy.copy(cause)
        cause.retry_after_s = failure.retry_at - now
        return cause

    def delay_s(self, model: str) -> float:
        """How long the last wait was; 0 once a load went well."""
        failure = self._of.get(model)
        return failure.delay_s if failure is not None else 0.0

    def reasons(self) -> dict[str, str]:
        """Per model why it failed last, if nothing went well since."""
        return {model: str(failure.error) for model, failure in sorted(self._of.items()) if failure.is_current}

    def _ended(self, model: str, now: float, error: YardError) -> _Failure:
        limits = self.limits
        failure = self._of.setdefault(model, _Failure(error, deque(maxlen=limits.crash_count_max)))
        failure.error = error
        failure.is_current = True
        failure.ends.append(now)
        failure.retry_at = max(failure.retry_at, self._loop_ends_at(failure))
        return failure

    def _loop_ends_at(self, failure: _Failure) -> float:
        """Until when it has ended too often; 0 if it has not."""
        is_looping = len(failure.ends) == self.limits.crash_count_max
        return failure.ends[0] + self.limits.crash_window_s if is_looping else 0.0

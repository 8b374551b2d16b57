"""Residency as people see it: frozen snapshots made of the scheduler's records. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from modelyard.clock import Clock
from modelyard.memory.planner import add
from modelyard.types.memory import Holder
from modelyard.types.status import DeviceStatus, Residency, ResidentStatus, WaitStatus

from .lease import Hosted
from .progress import remaining_s
from .scheduler import Scheduler
from .state import Record

PROMISED = "promised"  # to models that wait until others have left: beside what those hold, so not part of the sum
_HOLDING = (Residency.LOADING, Residency.RESIDENT, Residency.DRAINING, Residency.LEAVING)


def residents(
    scheduler: Scheduler, hosted: Mapping[int, Hosted], engines: Mapping[str, str], now: float
) -> tuple[ResidentStatus, ...]:
    """Every model that holds or is promised memory, by name."""
    there = [_resident(scheduler, record, hosted.get(record.epoch), now) for record in scheduler.records.values()]
    coming = [
        ResidentStatus(
            model=name,
            engine=engines.get(name, ""),
            state=Residency.WAITING,
            epoch=0,
            pinned=scheduler.is_pinned(line.spec),
            slots=0,
            leases=0,
            waiting=len(line.tickets()),
            context_length=None,
            reserved_bytes=dict(scheduler.promised[name]),
            measured_bytes={},
            footprint_source=line.spec.footprint.source,
            loaded_at=None,
            load_s=None,
            expires_in_s=None,
        )
        for name, line in scheduler.queue.lines.items()
        if name in scheduler.promised and name not in scheduler.records
    ]
    return tuple(sorted([*there, *coming], key=lambda one: one.model))


def devices(scheduler: Scheduler, holders_on: Callable[[str], tuple[Holder, ...]]) -> tuple[DeviceStatus, ...]:
    """Every device's ledger. Its parts add up: headroom, foreign, reserved and free are the whole device."""
    by_state: dict[Residency, dict[str, int]] = {state: {} for state in _HOLDING}
    for record in scheduler.records.values():
        by_state[record.state] = add(by_state[record.state], record.held)
    promised = add(*scheduler.promised.values())
    return tuple(
        DeviceStatus(
            reading=scheduler.books.readings[device],
            headroom_bytes=ledger.total_bytes - ledger.budget_bytes,
            budget_bytes=ledger.budget_bytes,
            reserved_bytes=(reserved := sum(held.get(device, 0) for held in by_state.values())),
            foreign_bytes=ledger.foreign_bytes,
            free_bytes=ledger.room_bytes - reserved,
            held_bytes={
                **{state.value: held.get(device, 0) for state, held in by_state.items()},
                PROMISED: promised.get(device, 0),
            },
            holders=holders_on(device),
        )
        for device, ledger in scheduler.books.ledgers.items()
    )


def _resident(scheduler: Scheduler, record: Record, hosted: Hosted | None, now: float) -> ResidentStatus:
    name = record.spec.name
    worker = hosted.worker if hosted is not None else None
    line = scheduler.queue.lines.get(name)
    expires_at = scheduler.expires_at(record)
    is_up = worker is not None
    phase, share, eta_s = _load(record, hosted, now)
    return ResidentStatus(
        model=name,
        engine=hosted.model.engine if hosted is not None else "",
        state=record.state,
        epoch=record.epoch,
        pinned=scheduler.is_pinned(record.spec),
        slots=record.slots,
        leases=record.leases,
        waiting=len(line.tickets()) if line is not None else 0,
        context_length=worker.context_length if worker is not None else None,
        reserved_bytes=dict(record.held),
        measured_bytes=dict(record.in_use or {}),
        footprint_source=record.spec.footprint.source,
        loaded_at=hosted.loaded_at if is_up and hosted is not None else None,
        load_s=record.load_s if is_up else None,
        expires_in_s=None if expires_at is None else max(0.0, expires_at - now),
        predicted_bytes=dict(record.spec.footprint.bytes) if record.spec.footprint.is_known else {},
        band_ratio=record.spec.footprint.band_ratio,
        peak_bytes=dict(record.peak),
        file_bytes=hosted.memory.file_bytes if hosted is not None else 0,
        degraded=record.spec.degraded,
        roles=tuple(sorted(scheduler.roles.get(name, ()))),
        kind=record.spec.kind,
        purpose=record.spec.purpose,
        phase=phase,
        progress=share,
        eta_s=eta_s,
        pid=worker.pid or None if worker is not None else None,  # another node's has none that we know
    )


def _load(record: Record, hosted: Hosted | None, now: float) -> tuple[str, float | None, float | None]:
    """Phase, progress and the time left of a load under way."""
    if record.state is not Residency.LOADING or hosted is None:
        return "", None, None
    phase, share = hosted.progress
    return phase or "starting", share, remaining_s(record.spec.load_s_expected, now - hosted.began_at, share)


def with_progress(told: WaitStatus, hosted: Hosted | None, clock: Clock) -> WaitStatus:
    """What somebody waits for, with what is seen of the load: how far it is, and its own pace."""
    if told.reason != "loading" or hosted is None:
        return told
    _phase, share = hosted.progress
    expected_s, elapsed_s = hosted.spec.load_s_expected, clock.monotonic() - hosted.began_at
    later_s = remaining_s(expected_s, elapsed_s, share) - max(0.0, expected_s - elapsed_s)
    return replace(told, detail=f"{share:.0%}", eta_s=None if told.eta_s is None else told.eta_s + later_s)

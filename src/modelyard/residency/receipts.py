"""What a load or an unload did to memory, as the devices saw it. Reads; decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Literal

import structlog

from modelyard.memory.planner import add, in_use
from modelyard.types.memory import DeviceReading, ProcessMemory, Receipt
from modelyard.units import MIB

POLL_S = 0.01
TOLERANCE_BYTES_MIN = 64 * MIB  # others come and go meanwhile
TOLERANCE_RATIO = 0.05

_log = structlog.get_logger()

Readings = tuple[DeviceReading, ...]


def used_bytes(readings: Readings) -> dict[str, int]:
    """Per device what is in use, by anybody and under whatever limit."""
    return {reading.device: reading.used_bytes for reading in readings}


def counted_bytes(readings: Readings) -> dict[str, int]:
    """Per device what is in use as the ledger counts it: under a limit of ours, only what cuts into that."""
    return {reading.device: reading.total_bytes - reading.free_bytes for reading in readings}


def measure(memory: Callable[[], ProcessMemory]) -> ProcessMemory:
    """What a worker holds; nothing if that cannot be found out. A measurement that fails must not fail a request."""
    try:
        return memory()
    except Exception:
        _log.exception("residency.measurement_failed")
        return ProcessMemory()


async def memory_back(
    read: Callable[[], Readings],
    before: dict[str, int],
    worker: ProcessMemory,
    wait_s: float,
    coming: Callable[[], dict[str, int]] = dict,
) -> tuple[Readings, int]:
    """Wait until what a worker held is back, at most `wait_s`. Answers the last look and the bytes still missing.

    `coming`: what may have been taken by loads of ours since `before`.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + wait_s
    while True:
        readings = await asyncio.to_thread(read)
        missing = _missing(add(before, coming()), counted_bytes(readings), worker)
        if not missing or loop.time() >= give_up_at:
            return readings, missing
        await asyncio.sleep(POLL_S)


def receipt(
    action: Literal["load", "unload"],
    model: str,
    reason: str,
    before: dict[str, int],
    after: dict[str, int],
    worker: ProcessMemory,
    took_s: float,
    leaked_bytes: int = 0,
) -> Receipt:
    """Before, after, and the difference, per device."""
    freed = {device: count - after.get(device, 0) for device, count in before.items()}
    return Receipt(action, model, reason, before, after, freed, worker, took_s, leaked_bytes)


def told(done: Receipt) -> dict[str, object]:
    """A receipt as the fields of an event."""
    return {
        "reason": done.reason,
        "before_bytes": done.before_bytes,
        "after_bytes": done.after_bytes,
        "freed_bytes": done.freed_bytes,
        "leaked_bytes": done.leaked_bytes,
        "worker": asdict(done.worker),
        "took_s": round(done.took_s, 3),
    }


def _missing(before: dict[str, int], now: dict[str, int], worker: ProcessMemory) -> int:
    """What should be back and is not. Small differences are other people's."""
    missing = 0
    for device, held in in_use(worker).items():
        expected = max(0, before.get(device, 0) - held)
        over = now.get(device, 0) - expected
        if over > max(TOLERANCE_BYTES_MIN, int(held * TOLERANCE_RATIO)) and held > 0:
            missing += min(over, held)
    return missing

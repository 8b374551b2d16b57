"""Whether several models can be in memory at the same time, from what the server says of them and of itself. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.client.replies import ModelEntry
from modelyard.types.status import NodeStatus, Residency


def fits_together(entries: Sequence[ModelEntry], status: NodeStatus) -> bool | None:
    """Whether all of them can be in memory at once, beside what has to stay there. None: that cannot be known.

    What nobody uses or pinned leaves for them, as it does for any model.
    """
    names = {entry.name for entry in entries}
    needed: dict[str, int] = {}
    for one in status.residents:
        if one.model not in names and not one.pinned and not one.leases and one.state is Residency.RESIDENT:
            for device, count in one.reserved_bytes.items():
                needed[device] = needed.get(device, 0) - count
    residents = {one.model for one in status.residents}
    for entry in entries:
        if entry.name in residents:
            continue
        footprint = entry.details.get("footprint")
        held = footprint.get("reserved_bytes") or footprint.get("bytes") if isinstance(footprint, dict) else None
        if not isinstance(held, dict):
            return None
        for device, count in held.items():
            needed[device] = needed.get(device, 0) + int(count)
    free = {one.reading.device: one.free_bytes for one in status.devices}
    return all(count <= max(0, free.get(device, 0)) for device, count in needed.items())

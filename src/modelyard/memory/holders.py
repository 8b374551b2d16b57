"""Who holds the memory that is not ours: the largest processes of others per device, by name.

Reads only, and only when asked: looking at every process of the machine is not free. Left out are this node, its
workers, and servers whose models stand in the ledger already. A worker that could not be ended is named with its model.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from modelyard.types.memory import RAM, Holder
from modelyard.units import MIB

from .cgroups import is_inside
from .processes import facts_of, largest, tree

HOLDERS_MAX = 8  # per device
LEAST_BYTES = 16 * MIB  # who holds less explains nothing
ANCESTORS_MAX = 16


class HolderReader(Protocol):
    """Whoever can say which processes hold memory."""

    def read(self, left_behind: Mapping[int, str], in_ledger: Collection[str]) -> tuple[Holder, ...]:
        """Processes of others, the largest first.

        `left_behind`: workers that could not be ended, by process id, with their model. `in_ledger`: names of
        servers whose models are entries of the ledger.
        """
        ...


class Machine(Protocol):
    """What is needed of this machine's devices."""

    @property
    def root(self) -> Path: ...

    def gpu_held(self) -> Mapping[int, Mapping[str, int]]: ...

    def ram_group(self) -> str: ...


class NoHolders:
    """Nobody can tell."""

    def read(self, left_behind: Mapping[int, str], in_ledger: Collection[str]) -> tuple[Holder, ...]:
        return ()


class SystemHolders:
    """This machine's processes."""

    def __init__(self, machine: Machine, own_pid: int | None = None) -> None:
        self._machine = machine
        self._own_pid = os.getpid() if own_pid is None else own_pid

    def read(self, left_behind: Mapping[int, str], in_ledger: Collection[str]) -> tuple[Holder, ...]:
        """Processes of others, the largest first; at most `HOLDERS_MAX` per device."""
        root, on_gpus = self._machine.root, self._machine.gpu_held()
        lost = {pid: model for top, model in left_behind.items() for pid in tree(root, top)}
        ours = set(tree(root, self._own_pid)) - lost.keys()
        held = {pid: {device: count for device, count in on_gpus[pid].items() if device} for pid in on_gpus}
        for pid, count in self._of_ram(ours, on_gpus, in_ledger).items():
            held.setdefault(pid, {})[RAM] = count
        holders: dict[int, Holder] = {}
        for device in sorted({device for counts in held.values() for device in counts}):
            others = [pid for pid, of in held.items() if of.get(device, 0) >= LEAST_BYTES and pid not in ours]
            for pid in sorted(others, key=lambda pid: (-held[pid][device], pid))[:HOLDERS_MAX]:
                if pid not in holders and not self._is_known(pid, in_ledger):
                    holders[pid] = Holder(pid, self._name(pid, lost), dict(held[pid]))
        return tuple(sorted(holders.values(), key=lambda one: (-sum(one.bytes.values()), one.pid)))

    def _of_ram(
        self, ours: Collection[int], on_gpus: Mapping[int, Mapping[str, int]], in_ledger: Collection[str]
    ) -> dict[int, int]:
        """The largest, of those that draw on the same limit as we do."""
        root, group = self._machine.root, self._machine.ram_group()
        shared = {pid: counts.get("", 0) for pid, counts in on_gpus.items()}  # main memory that a GPU uses
        found: dict[int, int] = {}
        for most, pid in sorted(((most + shared.get(pid, 0), pid) for most, pid in largest(root)), reverse=True):
            if most < LEAST_BYTES or (len(found) >= HOLDERS_MAX and most <= sorted(found.values())[-HOLDERS_MAX]):
                break
            if pid in ours or (group and not is_inside(root, pid, group)) or self._is_known(pid, in_ledger):
                continue
            facts = facts_of(root, pid)
            if facts is not None:
                found[pid] = facts.anonymous_bytes + shared.get(pid, 0)
        return found

    def _is_known(self, pid: int, in_ledger: Collection[str]) -> bool:
        """Whether a process, or one above it, is a server whose models are in the ledger."""
        for _ in range(ANCESTORS_MAX if in_ledger else 0):
            facts = facts_of(self._machine.root, pid)
            if facts is None:
                return False
            if facts.name.lower().removesuffix(".exe") in in_ledger:
                return True
            pid = facts.parent
        return False

    def _name(self, pid: int, lost: Mapping[int, str]) -> str:
        facts = facts_of(self._machine.root, pid)
        name = facts.name if facts is not None else "?"
        return f"{name} ({lost[pid]})" if pid in lost else name

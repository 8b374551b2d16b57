"""Looks at the devices while it matters, and notices when others take memory or give it back, and who they are.

Told, not asked, by the clock: while anything is in memory or waits for it, the devices are read once a second, so that
a decision never rests on figures older than two. Who holds what is looked up only when that changes, or for who asks.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from dataclasses import replace

import structlog

from modelyard.clock import Clock
from modelyard.errors import N_, InsufficientMemory, YardError
from modelyard.events import EventBus
from modelyard.memory.holders import HOLDERS_MAX, HolderReader
from modelyard.memory.planner import Ledger
from modelyard.types.memory import Holder
from modelyard.types.status import WaitStatus
from modelyard.units import MIB, format_bytes

from .hosting import Hosting
from .lease import Asked, Hosted
from .scheduler import Scheduler

READ_EVERY_S = 1.0
HOLDERS_EVERY_S = 3.0  # looking through all processes costs a hundred times a read
CHANGE_RATIO = 0.05  # of a device: less comes and goes all the time,
CHANGE_BYTES_MIN = 256 * MIB  # and less than this is no news either

_LARGEST_HINT = N_("The largest of them is {holder}, with {held}.")

_log = structlog.get_logger()


class DeviceWatch:
    """One node's eye on its devices."""

    def __init__(
        self,
        clock: Clock,
        events: EventBus,
        scheduler: Scheduler,
        hosting: Hosting,
        holders: HolderReader,
        *,
        every_s: float = READ_EVERY_S,
    ) -> None:
        self._clock, self._events, self._scheduler, self._hosting = clock, events, scheduler, hosting
        self._reader, self._every_s = holders, every_s
        self._told: dict[str, int] = {}  # device -> foreign bytes, as last told
        self._holders: tuple[Holder, ...] = ()
        self._found_at = float("-inf")
        self._finding = asyncio.Lock()

    async def run(self, on_failure: Callable[[Exception], None]) -> None:
        """Watch until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._every_s)
                if self._hosting.by_epoch or len(self._scheduler.queue):
                    await self._hosting.look()
                await self.notice()  # figures come in by other ways too: with each load, unload, and after a pause
        except Exception as failure:
            on_failure(failure)

    @property
    def is_stale(self) -> bool:
        """Whether there is no reading to decide by, or too old a one: nobody was here for a while."""
        if not self._scheduler.books.ledgers:  # the first one may be under way, and has not been told
            return True
        return self._clock.monotonic() - self._hosting.read_at > 2 * self._every_s

    async def fresh(self) -> None:
        """Bring figures and names up to date, for somebody who asks."""
        if self.is_stale:
            await self._hosting.look()
        await self.notice()
        await self._find(HOLDERS_EVERY_S)

    def holders_on(self, device: str) -> tuple[Holder, ...]:
        """Who holds memory of a device, as last found; the largest first."""
        there = [holder for holder in self._holders if holder.bytes.get(device)]
        return tuple(sorted(there, key=lambda one: (-one.bytes[device], one.pid)))[:HOLDERS_MAX]

    def named(self, wait: WaitStatus) -> WaitStatus:
        """How it stands with who waits; if others are in the way, with the largest of them: `gpu0: game 3.0 GiB`."""
        holders = self.holders_on(wait.detail) if wait.reason == "foreign" else ()
        if not holders:
            return wait
        held = format_bytes(holders[0].bytes[wait.detail])
        return replace(wait, detail=f"{wait.detail}: {holders[0].name} {held}")

    async def result(self, asked: Asked) -> Hosted:
        """A ticket's answer; a refusal because of others says who they are."""
        try:
            return await asked.result()
        except InsufficientMemory as error:
            ledger = self._scheduler.books.ledgers.get(str(error.fields.get("device")))
            if error.never_fits or ledger is None or ledger.foreign_bytes <= 0:
                raise
            await self._find(HOLDERS_EVERY_S)
            raise self._with_holders(error, ledger.device) from None

    async def notice(self) -> None:
        """Tell of each device on which others hold clearly more, or less, than when it was last told."""
        for device, ledger in self._scheduler.books.ledgers.items():
            was, now = self._told.setdefault(device, ledger.foreign_bytes), ledger.foreign_bytes
            if abs(now - was) <= max(CHANGE_BYTES_MIN, int(ledger.total_bytes * CHANGE_RATIO)):
                continue
            self._told[device] = now
            await self._find(0.0)
            self._tell("memory.foreign_grew" if now > was else "memory.foreign_shrank", ledger, was)

    async def _find(self, age_s_max: float) -> None:
        """Who holds what, off the loop's thread. Many may ask at once: one looks."""
        async with self._finding:
            if self._clock.monotonic() - self._found_at <= age_s_max:
                return
            others = {record.spec.kind for record in self._scheduler.records.values()} - {"local"}
            left_behind = dict(self._hosting.left_behind)
            try:
                self._holders = await asyncio.to_thread(self._reader.read, left_behind, frozenset(others))
            except Exception:
                _log.exception("memory.holders_not_read")  # a name that is missing must not fail a request
            self._found_at = self._clock.monotonic()

    def _with_holders(self, error: InsufficientMemory, device: str) -> YardError:
        holders = self.holders_on(device)
        if not holders:
            return error
        named: YardError = copy.copy(error)
        named.hints = (*error.hints[:1], _LARGEST_HINT, *error.hints[1:])
        named.fields = {
            **error.fields,
            "holder": holders[0].name,
            "held": format_bytes(holders[0].bytes[device]),
            "holders": [holder.name for holder in holders],
        }
        return named

    def _tell(self, name: str, ledger: Ledger, was: int) -> None:
        holders = self.holders_on(ledger.device)
        fields: dict[str, object] = {
            "device": ledger.device,
            "from_bytes": was,
            "to_bytes": ledger.foreign_bytes,
            "holder": holders[0].name if holders else "",
            "holder_bytes": holders[0].bytes[ledger.device] if holders else 0,
        }
        _log.info(name, **fields)
        self._events.publish(name, self._clock.wall(), **fields)

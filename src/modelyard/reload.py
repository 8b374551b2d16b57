"""Reads the configuration again when it changes or a signal asks for it, and hands on what differs.

Promises: a configuration is taken as a whole or not at all; a bad one leaves the old in force and says where it is
wrong; edits that come together are one change. Applies nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from modelyard.clock import Clock
from modelyard.config.changes import Changes, changes
from modelyard.config.settings import LoadedSettings
from modelyard.errors import N_, ConfigError, YardError
from modelyard.events import EventBus

POLL_S = 0.5
SETTLE_S = 0.1  # an editor writes a file in more than one step

Apply = Callable[[Changes, LoadedSettings], Awaitable[None]]
Stamps = tuple[tuple[int, int, int] | None, ...]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LastReload:
    """How the last reading went."""

    at: float  # seconds since 1970
    problem: str = ""  # why the old configuration stays
    changed: tuple[str, ...] = ()
    after_restart: tuple[str, ...] = ()


class ConfigWatch:
    """Watches the configuration of one node."""

    def __init__(
        self, loaded: LoadedSettings, apply: Apply, events: EventBus, clock: Clock, *, poll_s: float = POLL_S
    ) -> None:
        self.loaded = loaded
        self._started = loaded.settings
        self.last: LastReload | None = None
        self._apply, self._events, self._clock, self._poll_s = apply, events, clock, poll_s
        self._asked = asyncio.Event()

    @property
    def problem(self) -> str:
        """Why the configuration as it is now written is not in force; empty if it is."""
        return self.last.problem if self.last is not None else ""

    def ask(self) -> None:
        """Read it again, whether it looks changed or not."""
        self._asked.set()

    async def run(self) -> None:
        """Until cancelled."""
        if self.loaded.again is None:
            return
        seen = await asyncio.to_thread(_stamps, self.loaded.watched)
        while True:
            was_asked = await self._wait()
            now = await asyncio.to_thread(_stamps, self.loaded.watched)
            if not was_asked and now == seen:
                continue
            while (later := await self._settled()) != now:
                now = later
            seen = now
            await self.reload()

    async def reload(self) -> LastReload:
        """Read everything again, and have what differs applied. Raises nothing: a bad one is told and kept out."""
        assert self.loaded.again is not None, "only what was read can be read again"
        at = self._clock.wall()
        try:
            loaded = await asyncio.to_thread(self.loaded.again)
            found = changes(self.loaded.settings, loaded.settings, self._started)
            await self._apply(found, loaded)
        except YardError as error:
            return self._refused(at, error)
        except Exception as error:
            log.exception("config.reload_failed")
            problem = N_("{where}: it could not be taken up: {problem}")
            where = self.loaded.file or "configuration"
            return self._refused(at, ConfigError(problem, where=where, problem=type(error).__name__))
        self.loaded = loaded
        self.last = LastReload(at, "", found.names, found.after_restart)
        if found:
            log.info("config.reloaded", changed=found.names, after_restart=found.after_restart)
            self._events.publish("config.reloaded", at, changed=found.names, after_restart=found.after_restart)
        return self.last

    def _refused(self, at: float, error: YardError) -> LastReload:
        self.last = LastReload(at, str(error))
        log.error("config.reload_refused", code=error.code, problem=str(error))
        self._events.publish("config.reload_refused", at, problem=str(error))
        return self.last

    async def _wait(self) -> bool:
        """For the next time to look; True if somebody asked for it."""
        try:
            async with asyncio.timeout(self._poll_s):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True

    async def _settled(self) -> Stamps:
        await asyncio.sleep(SETTLE_S)
        return await asyncio.to_thread(_stamps, self.loaded.watched)


def _stamps(paths: tuple[Path, ...]) -> Stamps:
    """What changes when a file does; None where there is none."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            told = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((told.st_mtime_ns, told.st_size, told.st_ino))
    return tuple(found)

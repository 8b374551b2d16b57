"""HTTP to workers on this machine: one session per worker, one connection per request."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

import aiohttp

READ_BUFFER_BYTES = 64 * 1024


class RunningWorker(Protocol):
    """A worker process that has loaded its model."""

    @property
    def socket(self) -> Path: ...

    @property
    def exited(self) -> asyncio.Future[str]: ...

    def last_lines(self) -> tuple[str, ...]: ...


class WorkerSessions:
    """Sessions by socket. One whose worker has ended is closed when the next worker is first asked."""

    def __init__(self, connect_s: float) -> None:
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_s)
        self._sessions: dict[Path, tuple[RunningWorker, aiohttp.ClientSession]] = {}

    async def of(self, worker: RunningWorker) -> aiohttp.ClientSession:
        """The session of a worker; a socket's path is never used twice."""
        if worker.socket not in self._sessions:
            await self._close_ended()
        known = self._sessions.get(worker.socket)  # from here to the caller's request nothing is waited for
        if known is not None:
            return known[1]
        session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(worker.socket), force_close=True, limit=0),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=READ_BUFFER_BYTES,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
            headers={"Content-Type": "application/json", "Accept": "text/event-stream"},
        )
        self._sessions[worker.socket] = (worker, session)
        return session

    async def close(self) -> None:
        """Close all of them."""
        sessions = [session for _worker, session in self._sessions.values()]
        self._sessions.clear()
        for session in sessions:
            await session.close()

    async def _close_ended(self) -> None:
        """Each is taken out before it is waited for: several callers may be here, and any may be cancelled."""
        for path in list(self._sessions):
            known = self._sessions.get(path)
            if known is not None and known[0].exited.done():
                del self._sessions[path]
                await known[1].close()

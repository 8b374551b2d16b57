"""Brings one file into the store's partials, whatever the network does: from where it broke off, and never unverified.

Failures are tried again with growing pauses, as long as each try brings the file further. Bytes that are not the file
are thrown away and fetched once more; if they are wrong again, the registry is not to be believed. Disk work runs in
threads, so the loop never stands still.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from modelyard.errors import (
    N_,
    DigestMismatch,
    DiskFull,
    NotFound,
    StoreFailed,
    UpstreamError,
    UpstreamInvalid,
    UpstreamRefusedKey,
)
from modelyard.models.disk import Disk
from modelyard.models.partial import CHUNK_BYTES, InUse, Partial, Wanted

from .fetch import Fetcher, FileRequest

WRITE_BYTES = 1024**2
IN_USE_S = 0.5  # between two looks whether whoever has the file is done with it
PAUSE_S_MAX = 30.0
DIGEST_FAILURES_MAX = 2
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a failure without any progress is tried again, and how long the first pause is; it doubles."""

    attempts_max: int = 5
    backoff_s: float = 1.0

    def pause_s(self, failures: int, asked_s: float | None) -> float:
        """Before the next try.

        >>> [Retries(backoff_s=1.0).pause_s(n, None) for n in (1, 2, 3, 9)]
        [1.0, 2.0, 4.0, 30.0]
        """
        doubled_s = self.backoff_s * float(2 ** (failures - 1))
        return max(min(doubled_s, PAUSE_S_MAX), min(asked_s or 0.0, PAUSE_S_MAX))


@dataclass(frozen=True, slots=True)
class Told:
    """What a transfer tells while it goes on."""

    progress: Callable[[int], None]  # bytes of the file that are here
    notice: Callable[[str], None]  # why it goes on later


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file comes from: a server, or this very machine."""

    request: FileRequest | None = None
    local: Path | None = None


class Transfers:
    """Brings files into one folder of partials."""

    def __init__(
        self, folder: Path, disk: Disk, fetcher: Fetcher, retries: Retries, *, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        self._folder, self._disk, self._fetcher = folder, disk, fetcher
        self._retries, self._chunk_bytes = retries, chunk_bytes

    async def bring(self, wanted: Wanted, source: Source, told: Told, is_here: Callable[[], bool]) -> Partial | None:
        """The file, complete and verified; it waits in the partials. None: others have brought it into the store.

        Raises an `UpstreamError`, or `DiskFull`.
        """
        async with self._opened(wanted, told) as partial:
            if not partial.position and is_here():
                _forget_empty(partial, self._disk)
                return None
            with_local = source.local is not None
            failures = digest_failures = 0
            while not partial.is_done:
                began_at = partial.position
                try:
                    with disk_errors(wanted.label):
                        if with_local and source.local is not None:
                            await self._take(partial, source.local, told)
                        elif source.request is not None:
                            await self._receive(partial, source.request, told)
                        if await _in_thread(partial, partial.finish):
                            break
                    raise DigestMismatch(provider=_provider(source), file=wanted.label)
                except DigestMismatch:
                    digest_failures += 1
                    if with_local and source.request is not None:
                        with_local = False  # what this machine had is not it: fetch it
                    elif digest_failures >= DIGEST_FAILURES_MAX:
                        raise
                except (UpstreamRefusedKey, NotFound):
                    raise
                except UpstreamError as error:
                    if with_local:
                        if source.request is None:
                            raise
                        with_local = False
                        continue
                    failures = 1 if partial.position > began_at else failures + 1
                    if failures >= self._retries.attempts_max:
                        raise
                    pause_s = self._retries.pause_s(failures, error.retry_after_s)
                    told.notice(f"{error} Trying again in {pause_s:.0f} s.")
                    await asyncio.sleep(pause_s)
                told.progress(partial.position)
        return partial

    async def _receive(self, partial: Partial, request: FileRequest, told: Told) -> None:
        """Append what comes, from where the partial ends."""
        if partial.position >= partial.wanted.size_bytes:
            return
        waiting = bytearray()
        async with self._fetcher.get(request, partial.position) as body:
            if body.start != partial.position:  # it ignored where we are
                await _in_thread(partial, partial.restart)
            try:
                while data := await body.read():
                    waiting += data
                    if len(waiting) >= WRITE_BYTES:
                        await self._write(partial, waiting, told)
            finally:
                await self._write(partial, waiting, told)  # what has come is not fetched again

    async def _take(self, partial: Partial, path: Path, told: Told) -> None:
        """Copy from this machine. A link would tie the store to a file that others may write to."""
        while (left := partial.wanted.size_bytes - partial.position) > 0:
            try:
                data = await asyncio.to_thread(_read_at, path, partial.position)
            except OSError as problem:
                text = problem.strerror or str(problem)
                raise UpstreamInvalid(
                    N_("{provider} cannot be read: {problem}"), provider=str(path), problem=text, hints=()
                ) from problem
            if not data:
                return
            await _in_thread(partial, partial.append, data[:left])
            told.progress(partial.position)

    async def _write(self, partial: Partial, waiting: bytearray, told: Told) -> None:
        if waiting:
            data = bytes(waiting)
            waiting.clear()
            await _in_thread(partial, partial.append, data)
            told.progress(partial.position)

    @asynccontextmanager
    async def _opened(self, wanted: Wanted, told: Told) -> AsyncIterator[Partial]:
        """The partial, once nobody else has it."""
        is_told = False
        while True:
            partial = Partial(self._folder, self._disk, wanted, chunk_bytes=self._chunk_bytes)
            try:
                with disk_errors(wanted.label):
                    await _in_thread(partial, partial.open)
                told.progress(partial.position)
                yield partial
                return
            except InUse:
                if not is_told:
                    told.notice("somebody else is fetching this file")
                    is_told = True
            finally:
                partial.close()
            await asyncio.sleep(IN_USE_S)


def _forget_empty(partial: Partial, disk: Disk) -> None:
    """Take away what opening it has made."""
    disk.unlink(partial.journal)
    disk.unlink(partial.path)


async def _in_thread(partial: Partial, work: Callable[..., Result], *given: object) -> Result:
    """Disk work beside the loop. A cancellation waits for its end: a file is not closed under who writes to it."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *given))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        partial.is_stopped = True
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        task.exception()  # nobody waits for it any more
        raise
    finally:
        partial.is_stopped = False


def _read_at(path: Path, at: int) -> bytes:
    with path.open("rb") as file:
        file.seek(at)
        return file.read(WRITE_BYTES)


@contextmanager
def disk_errors(label: str) -> Iterator[None]:
    """The only place where what a disk refuses becomes our error."""
    try:
        yield
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(N_("The disk is full: {label} is only partly here."), label=label) from problem
        text = problem.strerror or str(problem)
        raise StoreFailed(N_("{label} cannot be written: {problem}"), label=label, problem=text) from problem


def _provider(source: Source) -> str:
    return source.request.registry if source.request is not None else str(source.local)

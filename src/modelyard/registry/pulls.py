"""Pulls into our store: one for all who want the same, told to each of them in Ollama's words.

The pull belongs to nobody who asked for it: it goes on as long as one of them listens, and stops with the last; what
has come stays for the next time. It ends with the model in the store under its name, or without that name existing.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import msgspec
import structlog

from modelyard.clock import Clock
from modelyard.errors import N_, DigestMismatch, DiskFull, ModelFileError, ShuttingDown, StoreFailed, YardError
from modelyard.models.manifest import Manifest, StoredFile, check_files
from modelyard.models.partials import forget, partial_files
from modelyard.models.store import NotHere, Store
from modelyard.units import format_bytes

from .plan import PlannedFile, PullPlan
from .reference import Reference
from .transfer import Told, Transfers, disk_errors

SPARE_RATIO = 0.05  # of the disk space that is needed, kept free on top
TELL_S = 0.2  # between two steps of the same file
CONFIG_BYTES_MAX = 4 * 1024**2
PUBLISH_TRIES_MAX = 3
SHOWN_CHARS = 12  # of a digest, as Ollama shows it

Step = Mapping[str, object]
log = structlog.get_logger()


class Planner(Protocol):
    """Whoever knows what a reference means."""

    async def plan(self, reference: Reference) -> PullPlan: ...


@dataclass(eq=False)
class _Shared:
    """One pull and whoever listens to it."""

    steps: list[Step] = field(default_factory=list)
    listeners: int = 0
    is_over: bool = False
    error: YardError | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def tell(self, step: Step) -> None:
        """A further step; progress of the same file takes the place of the last."""
        if self.steps and step.get("digest") and self.steps[-1].get("digest") == step["digest"]:
            self.steps[-1] = step
        else:
            self.steps.append(step)
        self._wake()

    def end(self, error: YardError | None = None) -> None:
        self.is_over, self.error = True, error
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Pulls:
    """A context manager: what is under way when it ends is stopped, and taken up by the next who asks."""

    def __init__(
        self,
        store: Store,
        planner: Planner,
        transfers: Transfers,
        clock: Clock,
        *,
        published: Callable[[], Awaitable[object]],
    ) -> None:
        """`published` is called after a model has got its name, before anybody is told of success."""
        self.store = store
        self._planner, self._transfers, self._clock, self._published = planner, transfers, clock, published
        self._shared: dict[Reference, _Shared] = {}
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for shared in self._shared.values():
            shared.end(ShuttingDown())
            if shared.task is not None:
                shared.task.cancel()
        await self._tasks.__aexit__(None, None, None)  # what ended the block goes on as it is, and in no group

    async def pull(self, reference: Reference) -> AsyncIterator[Step]:
        """Its steps from the beginning, also of a pull that others began. The last has the status `success`."""
        shared = self._shared.get(reference)
        if shared is None or shared.is_over:
            shared = self._shared[reference] = _Shared()
            shared.task = self._tasks.create_task(self._run(reference, shared))
        shared.listeners += 1
        place, told = 0, None
        try:
            while True:
                changed = shared.changed
                while place < len(shared.steps):
                    if shared.steps[place] is not told:
                        told = shared.steps[place]
                        yield told
                    elif place + 1 < len(shared.steps):
                        place += 1
                    else:
                        break
                if shared.is_over and (not shared.steps or told is shared.steps[-1]):
                    break
                if changed is shared.changed:
                    await changed.wait()
            if shared.error is not None:
                raise shared.error
        finally:
            shared.listeners -= 1
            if not shared.listeners and not shared.is_over and shared.task is not None:
                self._forget(reference, shared)
                shared.task.cancel()

    async def _run(self, reference: Reference, shared: _Shared) -> None:
        try:
            await self._pull(reference, shared)
            shared.end()
        except YardError as error:
            log.warning("pull.failed", source=reference.source, code=error.code, problem=str(error))
            shared.end(error)
        except asyncio.CancelledError:
            log.info("pull.stopped", source=reference.source)
            shared.end(ShuttingDown())
        except Exception:
            log.exception("pull.broke", source=reference.source)
            shared.end(YardError())
        finally:
            self._forget(reference, shared)

    def _forget(self, reference: Reference, shared: _Shared) -> None:
        """Whoever asks from now on begins anew."""
        if self._shared.get(reference) is shared:
            del self._shared[reference]

    async def _pull(self, reference: Reference, shared: _Shared) -> None:
        shared.tell({"status": "pulling manifest"})
        with disk_errors(reference.source):
            await asyncio.to_thread(self.store.prepare)
        plan = await self._planner.plan(reference)
        _check_files(plan.source, [_stored(one) for one in plan.files])
        began_at = self._clock.monotonic()
        for last in range(PUBLISH_TRIES_MAX - 1, -1, -1):
            await asyncio.to_thread(self._check_room, plan)
            arrived = [await self._bring(one, shared) for one in plan.files]
            shared.tell({"status": "verifying sha256 digest"})
            shared.tell({"status": "writing manifest"})
            manifest = Manifest(
                plan.name, tuple(file for file, _path in arrived), plan.source, plan.revision, plan.aliases,
                self._clock.wall(),
            )  # fmt: skip
            try:
                with disk_errors(plan.name):
                    waiting = {file.digest: path for file, path in arrived if path is not None}
                    await asyncio.to_thread(self.store.publish, manifest, waiting)
                break
            except NotHere:  # another pull, or an operator, was in between
                if not last:
                    raise StoreFailed(label=plan.name, problem=N_("its files are removed as they come")) from None
        await self._published()
        took_s = self._clock.monotonic() - began_at
        log.info("pull.done", source=plan.source, model=plan.name, size_bytes=manifest.size_bytes, took_s=took_s)
        shared.tell({"status": "success", "model": plan.name})

    async def _bring(self, file: PlannedFile, shared: _Shared) -> tuple[StoredFile, Path | None]:
        """One file, and where it waits; None for one that is in the store already."""
        wanted, digest = file.wanted, f"sha256:{file.wanted.sha256}"
        stored = _stored(file)
        told = _telling(shared, digest if wanted.sha256 else f"sha1:{wanted.git_sha1}", wanted.size_bytes, self._clock)
        if self._is_here(file):
            told.progress(wanted.size_bytes)
            return stored, None
        try:
            partial = await self._transfers.bring(wanted, file.source, told, lambda: self._is_here(file))
            if partial is None:
                told.progress(wanted.size_bytes)
                return stored, None
            stored = replace(stored, digest=partial.digest)
            if file.path == "config.json":
                await asyncio.to_thread(_check_config, partial.done, file.wanted.label)
        except (DigestMismatch, ModelFileError):
            await asyncio.to_thread(forget, self.store.partials, self.store.disk, wanted.key)
            raise
        return stored, partial.done

    def _is_here(self, file: PlannedFile) -> bool:
        return bool(file.wanted.sha256) and self.store.blob(_stored(file)) is not None

    def _check_room(self, plan: PullPlan) -> None:
        """Whether the disk can take it, before anything is fetched."""
        here = {one.key: one.completed_bytes for one in partial_files(self.store.partials)}
        wanted = {
            file.wanted.key: file.wanted.size_bytes for file in plan.files if self.store.blob(_stored(file)) is None
        }
        missing_bytes = sum(max(0, size_bytes - here.get(key, 0)) for key, size_bytes in wanted.items())
        free_bytes = shutil.disk_usage(self.store.root).free
        needed_bytes = int(missing_bytes * (1 + SPARE_RATIO))
        if needed_bytes > free_bytes:
            raise DiskFull(
                label=plan.source, needed=format_bytes(needed_bytes), free=format_bytes(free_bytes),
                folder=self.store.root,
            )  # fmt: skip


def _stored(file: PlannedFile) -> StoredFile:
    """As it will stand in the manifest; where only git's digest is known, with zeros until it has come."""
    return StoredFile(file.path, f"sha256:{file.wanted.sha256 or '0' * 64}", file.wanted.size_bytes)


def _check_files(source: str, files: Sequence[StoredFile]) -> None:
    try:
        check_files(files)
    except ValueError as problem:
        raise ModelFileError(path=source, problem=str(problem), hints=()) from problem


def _telling(shared: _Shared, digest: str, size_bytes: int, clock: Clock) -> Told:
    """Ollama's words for what happens to one file."""
    status = f"pulling {digest.partition(':')[2][:SHOWN_CHARS]}"
    completed_bytes, told_at = 0, float("-inf")

    def progress(count: int) -> None:
        nonlocal completed_bytes, told_at
        completed_bytes = count
        if count == size_bytes or clock.monotonic() - told_at >= TELL_S:
            told_at = clock.monotonic()
            shared.tell({"status": status, "digest": digest, "total": size_bytes, "completed": count})

    def notice(text: str) -> None:
        shared.tell({"status": text, "digest": digest, "total": size_bytes, "completed": completed_bytes})

    return Told(progress, notice)


def _check_config(path: Path, label: str) -> None:
    """Refuse what cannot be served without running code from the repository, before its weights are fetched."""
    with path.open("rb") as file:
        raw = file.read(CONFIG_BYTES_MAX + 1)
    try:
        config = msgspec.json.decode(raw) if len(raw) <= CONFIG_BYTES_MAX else None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        config = None
    if not isinstance(config, dict):
        raise ModelFileError(path=label, problem=N_("it is not a JSON object"), hints=())
    if "auto_map" in config:
        raise ModelFileError(
            path=label, problem=N_("the model needs program code of its own (auto_map), which is not run"), hints=()
        )

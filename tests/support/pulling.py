"""Pulls from a fake hub into a store, in this process: what is listed is handed in, so that no library is started."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from modelyard.clock import SystemClock
from modelyard.models.disk import Disk
from modelyard.models.partial import Wanted
from modelyard.models.store import Store
from modelyard.registry.fetch import Fetcher, FileRequest, Hosts
from modelyard.registry.plan import PlannedFile, PullPlan
from modelyard.registry.pulls import Pulls
from modelyard.registry.reference import HubReference, Reference
from modelyard.registry.transfer import Retries, Source, Transfers
from tests.support.fake_hub import COMMIT, FakeHub, git_digest, is_large

REFERENCE = HubReference("org/Tiny-GGUF")
NAME = "org/tiny"
CHUNK_BYTES = 64 * 1024


class Planned:
    """Knows one hub."""

    def __init__(self, hub: FakeHub, name: str = NAME, *, token: str = "") -> None:
        self.hub, self.name, self.asked, self.token = hub, name, 0, token or hub.key
        self.sizes: dict[str, int] = {}  # in place of the true ones
        self.paths: dict[str, str] = {}  # where a file is to stand

    async def plan(self, reference: Reference) -> PullPlan:
        self.asked += 1
        return PullPlan(self.name, (), reference.source, COMMIT, tuple(map(self._file, self.hub.files)))

    def _file(self, path: str) -> PlannedFile:
        data = self.hub.files[path]
        size_bytes = self.sizes.get(path, len(data))
        sha256 = hashlib.sha256(data).hexdigest() if is_large(path) else ""
        wanted = Wanted(size_bytes, sha256, "" if sha256 else git_digest(data), f"hf:org/{path}")
        url = f"{self.hub.url}/org/Tiny-GGUF/resolve/{COMMIT}/{path}"
        request = FileRequest(url, size_bytes, self.hub.url, self.token)
        return PlannedFile(self.paths.get(path, path), wanted, Source(request))


@asynccontextmanager
async def pulling(
    root: Path, hub: FakeHub, *, disk: Disk | None = None, hosts: Sequence[str] = (), attempts_max: int = 3,
    silence_s: float = 30.0, planner: Any = None, chunk_bytes: int = CHUNK_BYTES,
) -> AsyncIterator[Pulls]:  # fmt: skip
    """Whoever pulls from this hub, until the block ends."""
    store = Store(root, disk)
    fetcher = Fetcher(Hosts(hosts), silence_s=silence_s)
    transfers = Transfers(
        store.partials, store.disk, fetcher, Retries(attempts_max, backoff_s=0.01), chunk_bytes=chunk_bytes
    )
    async with Pulls(store, planner or Planned(hub), transfers, SystemClock(), published=_nobody) as pulls:
        yield pulls


async def _nobody() -> None:
    pass


async def pulled(pulls: Pulls, reference: Reference = REFERENCE) -> list[Mapping[str, object]]:
    """Every step of a pull, to its end."""
    return [step async for step in pulls.pull(reference)]


def there(root: Path) -> dict[str, dict[str, bytes]]:
    """Every model of a store with its files, each compared with its digest."""
    store, found = Store(root), {}
    for name in store.names():
        manifest = store.manifest(name)
        assert store.verify(name) == (), name
        found[name] = {one.path: (store.folder_of(manifest) / one.path).read_bytes() for one in manifest.files}
    return found


def kept_bytes(root: Path) -> int:
    """What is only partly here."""
    return sum(path.stat().st_size for path in (root / "partials").glob("*") if path.suffix in (".part", ".done"))

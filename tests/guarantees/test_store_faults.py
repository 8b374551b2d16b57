"""Whatever step of the disk fails, is the last, or is forgotten with the power: every model is as it was, or as it is
to be, and the same act done again does it.
"""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelyard.errors import YardError
from modelyard.models.manifest import Manifest, StoredFile
from modelyard.models.partial import Partial, Wanted
from modelyard.models.store import Store
from tests.support.counts import count, tell
from tests.support.faulty_disk import FaultyDisk, Killed, Mode
from tests.support.in_memory import in_memory

CHUNK_BYTES = 1000
BYTES = random.Random(1)
FILES = {name: BYTES.randbytes(size) for name, size in (("a.gguf", 2500), ("b.gguf", 3000), ("c.gguf", 700))}
OLD = {"a.gguf": FILES["a.gguf"], "b.gguf": FILES["b.gguf"]}
NEW = {"b.gguf": FILES["b.gguf"], "c.gguf": FILES["c.gguf"]}
Contents = Mapping[str, Mapping[str, bytes]]


def pull(store: Store, name: str, files: Mapping[str, bytes]) -> None:
    """What a pull does to the disk."""
    store.prepare()
    arrived, listed = {}, []
    for path, data in files.items():
        file = StoredFile(path, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
        listed.append(file)
        if store.blob(file) is not None:
            continue
        partial = Partial(store.partials, store.disk, Wanted(len(data), file.digest[7:]), chunk_bytes=CHUNK_BYTES)
        try:
            partial.open()
            while not partial.is_done:
                for at in range(partial.position, len(data), 600):
                    partial.append(data[at : at + 600])
                partial.finish()
            arrived[partial.digest] = partial.done
        finally:
            partial.close()
    store.publish(Manifest(name, tuple(listed), "test"), arrived)


def contents(store: Store) -> Contents:
    """Every model with its files, each compared with its digest."""
    found = {}
    sound, damaged = store.manifests()
    assert not damaged
    for name, manifest in sound.items():
        assert store.verify(name) == (), name
        folder = store.folder_of(manifest)
        found[name] = {file.path: (folder / file.path).read_bytes() for file in manifest.files}
    return found


@dataclass(frozen=True)
class Act:
    do: Callable[[Store], object]
    after: Contents


BEFORE: Contents = {"old": OLD, "other:q4": {"a.gguf": FILES["a.gguf"]}}
ACTS = {
    "pull": Act(lambda store: pull(store, "new", NEW), {**BEFORE, "new": NEW}),
    "pull another version": Act(lambda store: pull(store, "old", NEW), {**BEFORE, "old": NEW}),
    "copy": Act(lambda store: store.copy("old", "mine:v1"), {**BEFORE, "mine:v1": OLD}),
    "delete": Act(lambda store: store.remove("old"), {"other:q4": BEFORE["other:q4"]}),
}
MODES: tuple[Mode, ...] = ("error", "short", "kill", "power", "power zeros", "power some")


@pytest.fixture
def place() -> Iterator[Path]:
    with in_memory() as folder:
        yield folder


@pytest.fixture
def origin(place: Path) -> Path:
    root = place / "origin"
    for name, files in BEFORE.items():
        pull(Store(root), name, files)
    return root


def attempt(act: Act, origin: Path, place: Path, mode: Mode, fail_at: int, number: int) -> bool:
    """One run with one fault. False once there was no step left to fail."""
    root, attic = place / "store", place / "attic"
    for folder in (root, attic):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(origin, root)
    relinked(root)
    attic.mkdir()
    disk = FaultyDisk(attic, mode, fail_at, number)
    with suppress(OSError, YardError, Killed):
        act.do(Store(root, disk))
    if disk.has_failed and mode.startswith("power"):
        disk.lose_power()
    disk.close()

    store = Store(root)
    store.recover()
    found = contents(store)
    assert found in (BEFORE, act.after), f"step {fail_at}"
    if found != act.after:
        act.do(store)
    assert contents(store) == act.after, f"step {fail_at}, done again"
    needed = {f"sha256-{hashlib.sha256(data).hexdigest()}" for files in act.after.values() for data in files.values()}
    assert {path.name for path in store.blobs.iterdir()} == needed, f"step {fail_at}: nothing is left behind"
    return disk.has_failed


def relinked(root: Path) -> None:
    """`copytree` makes files of their own out of links."""
    shutil.rmtree(root / "models")
    (root / "models").mkdir()
    Store(root).recover()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ACTS)
def test_a_fault_at_any_step_leaves_every_model_whole(name: str, mode: Mode, origin: Path, place: Path) -> None:
    numbers = (errno.EIO, errno.ENOSPC, errno.EMFILE) if mode == "error" else (errno.ENOSPC,)
    points = 0
    for number in numbers[: count(1, 3)]:
        fail_at = 1
        while attempt(ACTS[name], origin, place, mode, fail_at, number):
            fail_at += 1
        points += fail_at - 1
    tell(f"{name}, {mode}: {points} points")

    assert points >= 8


@pytest.mark.parametrize("mode", MODES)
def test_two_faults_in_a_row_do_no_more_harm_than_one(mode: Mode, origin: Path, place: Path) -> None:
    """The second comes while the first is being cleared up."""
    for seed in range(count(20, 300)):
        draw = random.Random(seed)
        root, attic = place / f"s{seed}", place / f"a{seed}"
        shutil.copytree(origin, root)
        relinked(root)
        attic.mkdir()
        for _fault in range(2):
            disk = FaultyDisk(attic, mode, draw.randint(1, 40), errno.EIO)
            store = Store(root, disk)
            with suppress(OSError, YardError, Killed):
                store.recover()
                pull(store, "new", NEW)
            if disk.has_failed and mode.startswith("power"):
                disk.lose_power()
            disk.close()

        store = Store(root)
        store.recover()
        assert contents(store) in (BEFORE, ACTS["pull"].after), seed
        pull(store, "new", NEW)
        assert contents(store) == ACTS["pull"].after, seed
        shutil.rmtree(root)


@pytest.mark.parametrize("forgotten", ["sync", "sync_folder"])
def test_a_store_that_forgot_to_sync_would_be_found_out(
    forgotten: str, origin: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FaultyDisk, forgotten, lambda self, _what: self._step())

    found_out = 0
    modes: tuple[Mode, ...] = ("power zeros", "power some")
    for mode in modes:
        for fail_at in range(1, 60):
            try:
                attempt(ACTS["pull another version"], origin, place, mode, fail_at, errno.EIO)
            except (AssertionError, OSError, YardError):
                found_out += 1

    assert found_out > 0


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b'{"schema_version": 2}', b"\0" * 4096, b"[" * 100_000])
def test_a_damaged_manifest_affects_itself_alone_and_keeps_every_blob(damage: bytes, origin: Path) -> None:
    store = Store(origin)
    (origin / "manifests" / "other%3Aq4.json").write_bytes(damage)
    blobs = {path.name for path in store.blobs.iterdir()}

    store.recover()
    store.remove("old")

    assert store.names() == ("other:q4",)
    assert "other:q4" in store.manifests()[1]
    assert {path.name for path in store.blobs.iterdir()} == blobs, "nobody knows whose they are"
    store.remove("other:q4")
    assert not list(store.blobs.iterdir())
    pull(store, "other:q4", BEFORE["other:q4"])
    assert contents(store) == {"other:q4": BEFORE["other:q4"]}

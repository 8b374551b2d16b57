"""Model files on this disk, by digest: blobs, a manifest for each name, and for each model a folder as engines want it.

    blobs/sha256-…            the bytes, each file once
    manifests/NAME.json       which files a model is; to have one is to be in the store
    models/NAME/VERSION/…     the same bytes under the names that engines read, linked
    partials/…                what is on its way, see partial.py

Promises: a manifest is written last and removed first, each in one step that lasts, so a model is there as a whole or
not at all, whatever fails or ends in between. A damaged manifest harms its own model alone, and keeps every blob where
it is. Changes go through disk.py, one process at a time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from modelyard.errors import N_, BadRequest, ModelFileError, ModelNotFound

from .disk import Disk, lock, put, remove_tree
from .manifest import MANIFEST_BYTES_MAX, Manifest, StoredFile, canonical, decode, encode, file_name, name_of

VERSION_CHARS = 16
READ_BYTES = 1024**2
_ENDING = ".json"


class NotHere(Exception):
    """A file that should have been here is not: it must come again."""


class Store:
    """One folder. Every method may be called from any thread; those that change something wait for each other."""

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.root, self.disk = root, disk or Disk()
        self.blobs, self.partials = root / "blobs", root / "partials"
        self._manifests, self._models = root / "manifests", root / "models"

    # ---- what is there ----

    def names(self) -> tuple[str, ...]:
        """Every model's name, those with a damaged manifest included."""
        return tuple(sorted(self._listed()))

    def manifests(self) -> tuple[dict[str, Manifest], dict[str, str]]:
        """What can be read, by name; and of the rest what is wrong with it."""
        sound: dict[str, Manifest] = {}
        damaged: dict[str, str] = {}
        for name in self.names():
            try:
                sound[name] = self._read(name)
            except (OSError, ValueError) as problem:
                damaged[name] = f"its manifest is damaged: {problem}"
        return sound, damaged

    def manifest(self, name: str) -> Manifest:
        """The manifest of a model, or `ModelNotFound`, or `ModelFileError` for a damaged one."""
        name = _checked(name)
        try:
            return self._read(name)
        except FileNotFoundError:
            raise ModelNotFound(model=name) from None
        except (OSError, ValueError) as problem:
            raise ModelFileError(path=str(self._manifest_path(name)), problem=str(problem)) from None

    def folder_of(self, manifest: Manifest) -> Path:
        """Where a model's files stand."""
        version = manifest.digest.removeprefix("sha256:")[:VERSION_CHARS]
        return self._models / file_name(manifest.name) / version

    def blob_of(self, digest: str) -> Path | None:
        """The bytes of that digest, if they are here."""
        path = self._blob_path(digest)
        return path if path.is_file() and not path.is_symlink() else None

    def blob(self, file: StoredFile) -> Path | None:
        """A file's bytes, if they are here."""
        path = self._blob_path(file.digest)
        with suppress(OSError):
            if path.stat(follow_symlinks=False).st_size == file.size_bytes:
                return path
        return None

    def problem_of(self, manifest: Manifest) -> str:
        """Why a model cannot be used, by a look at its files; empty if nothing is wrong."""
        folder = self.folder_of(manifest)
        for one in manifest.files:
            try:
                size_bytes = (folder / one.path).stat().st_size
            except OSError as failure:
                return f"{one.path} cannot be read: {failure.strerror or failure}"
            if size_bytes != one.size_bytes:
                return f"{one.path} has {size_bytes} bytes instead of {one.size_bytes}"
        return ""

    def verify(self, name: str) -> tuple[str, ...]:
        """Read a model's files to their last byte; those whose digest is wrong, or that are not there."""
        manifest = self.manifest(name)
        folder = self.folder_of(manifest)
        return tuple(one.path for one in manifest.files if digest_of(folder / one.path) != one.digest)

    # ---- changes ----

    def prepare(self) -> None:
        """Make the folders, once; nothing else can be changed before."""
        for folder in (*reversed(self.root.parents), self.root):
            if not folder.exists():
                self.disk.make_folder(folder)
                self.disk.sync_folder(folder.parent)
        for folder in (self.blobs, self.partials, self._manifests, self._models):
            if not folder.is_dir():
                self.disk.make_folder(folder)
                self.disk.sync_folder(self.root)

    def publish(self, manifest: Manifest, arrived: Mapping[str, Path]) -> None:
        """Put a model into the store, in place of one of that name. `arrived` has verified files, by digest.

        Raises `NotHere` if a file is neither among them nor here already, `OSError`.
        """
        with self._changing():
            for one in manifest.files:
                self._take_in(one, arrived.get(one.digest))
            self.disk.sync_folder(self.blobs)
            self._lay_out(manifest)
            put(self.disk, self._manifest_path(manifest.name), encode(manifest))
            self._tidy()

    def copy(self, name: str, to: str) -> Manifest:
        """Give a model a second name; the bytes are shared."""
        with self._changing():
            manifest = replace(self.manifest(name), name=_checked(to), aliases=())
            if self._manifest_path(manifest.name).exists():
                raise BadRequest(N_("There is a model of that name already."), param="destination")
            self._lay_out(manifest)
            put(self.disk, self._manifest_path(manifest.name), encode(manifest))
        return manifest

    def remove(self, name: str) -> None:
        """Take a model out, with every byte that no other model has. Raises `ModelNotFound`."""
        name = _checked(name)
        with self._changing():
            path = self._manifest_path(name)
            if not path.exists():
                raise ModelNotFound(model=name)
            self.disk.unlink(path)
            self.disk.sync_folder(self._manifests)
            self._tidy()

    def recover(self) -> None:
        """Finish what was broken off: folders that lack files get them again, leftovers go. Harmless at any time."""
        if not self._manifests.is_dir():
            return
        with self._changing():
            for manifest in self.manifests()[0].values():
                if self.problem_of(manifest):
                    with suppress(OSError):
                        self._lay_out(manifest)
            self._tidy()

    def _take_in(self, file: StoredFile, arrived: Path | None) -> None:
        if self.blob(file) is not None:
            return
        if arrived is None:
            raise NotHere(file.path)
        target = self._blob_path(file.digest)
        self.disk.unlink(target)
        try:  # it keeps the other name until the manifest is written: whatever fails, it need not be fetched again
            self.disk.link(arrived, target)
        except (PermissionError, NotImplementedError):
            self.disk.rename(arrived, target)

    def _lay_out(self, manifest: Manifest) -> None:
        """The model's own folder, complete and lasting before its manifest is."""
        folder = self.folder_of(manifest)
        made: list[Path] = [self._models, folder.parent, folder]
        self.disk.make_folder(folder.parent)
        self.disk.make_folder(folder)
        for one in manifest.files:
            target, source = folder / one.path, self._blob_path(one.digest)
            for between in reversed(target.relative_to(folder).parents[:-1]):
                if folder / between not in made:
                    self.disk.make_folder(folder / between)
                    made.append(folder / between)
            if not target.exists() or target.stat().st_size != one.size_bytes:
                self.disk.unlink(target)
                try:
                    self.disk.link(source, target)
                except (PermissionError, NotImplementedError):
                    self.disk.symlink(source, target)
        for each in reversed(made):
            self.disk.sync_folder(each)

    def _tidy(self) -> None:
        """Remove what belongs to no model. What cannot be removed now is found again the next time."""
        with suppress(OSError):
            for path in self._manifests.glob(f"*{_ENDING}.new"):
                self.disk.unlink(path)
            sound, damaged = self.manifests()
            wanted = {self.folder_of(manifest) for manifest in sound.values()}
            for named in [path for path in self._models.iterdir() if path.name not in map(file_name, damaged)]:
                if named.is_symlink() or not named.is_dir():
                    self.disk.unlink(named)
                    continue
                for version in [path for path in named.iterdir() if path not in wanted]:
                    remove_tree(self.disk, version)
                if not any(named.iterdir()):
                    self.disk.remove_folder(named)
            if damaged:
                return  # nobody knows which blobs those models have
            needed = {self._blob_path(one.digest) for manifest in sound.values() for one in manifest.files}
            for blob in [path for path in self.blobs.iterdir() if path not in needed]:
                self.disk.unlink(blob)
            kept = {path.stat().st_ino for path in self.blobs.iterdir()}
            for done in [path for path in self.partials.glob("*.done") if path.stat().st_ino in kept]:
                self.disk.unlink(done)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time, over all processes. The lock goes with the process that holds it."""
        self.prepare()
        path = self.root / "lock"
        descriptor = self.disk.open(path)
        try:
            lock(descriptor, wait=True)
            yield
        finally:
            os.close(descriptor)

    # ---- paths ----

    def _listed(self) -> Iterator[str]:
        try:
            files = [path.name for path in self._manifests.iterdir()]
        except OSError:
            return
        for file in files:
            if file.endswith(_ENDING):
                with suppress(ValueError):
                    yield name_of(file.removesuffix(_ENDING))

    def _read(self, name: str) -> Manifest:
        descriptor = os.open(self._manifest_path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            manifest = decode(file.read(MANIFEST_BYTES_MAX + 1))
        if manifest.name != name:
            raise ValueError(N_("it is another model's"))
        return manifest

    def _manifest_path(self, name: str) -> Path:
        return self._manifests / f"{file_name(name)}{_ENDING}"

    def _blob_path(self, digest: str) -> Path:
        return self.blobs / digest.replace(":", "-", 1)


def digest_of(path: Path) -> str:
    """The digest of a file as it is on disk; empty for one that cannot be read."""
    hashed = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(READ_BYTES):
                hashed.update(piece)
    except OSError:
        return ""
    return f"sha256:{hashed.hexdigest()}"


def missing_bytes(store: Store, files: Sequence[StoredFile]) -> int:
    """What has still to come for these files to be here."""
    return sum({one.digest: one.size_bytes for one in files if store.blob(one) is None}.values())


def _checked(name: str) -> str:
    try:
        return canonical(name)
    except ValueError as problem:
        raise BadRequest(
            N_("{model} cannot be a name in the store: {problem}"), model=ascii(name[:100]), problem=problem
        ) from None

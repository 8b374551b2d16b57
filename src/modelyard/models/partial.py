"""A file on its way into the store: what has come so far, what is known to be good of it, and whether it is the one.

    KEY.part      the bytes so far; whoever writes them holds its lock
    KEY.journal   a line that says what it is and when it began, then a digest of each whole chunk that is safe on disk
    KEY.done      complete and verified; it waits to be given its place

KEY is the digest the file must have, so two pulls of one file are one. Bytes that were safe are not fetched again:
after a crash the file is read, and kept up to the first chunk that is not what it was. Nothing has its final name here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from modelyard.errors import N_

from .disk import Disk, is_same_file, lock

CHUNK_BYTES = 8 * 1024**2
JOURNAL_BYTES_MAX = 256 * 1024**2
KEY = re.compile(r"(?:sha256-[0-9a-f]{64}|git-[0-9a-f]{40})")
_LINE_BYTES = 65


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a file must be. One of the digests is known: SHA-256, or git's own for small files of a hub."""

    size_bytes: int
    sha256: str = ""  # 64 hexadecimal digits
    git_sha1: str = ""  # 40
    label: str = ""  # for people: where it comes from

    @property
    def key(self) -> str:
        """Raises `ValueError` if neither digest is one."""
        key = f"sha256-{self.sha256}" if self.sha256 else f"git-{self.git_sha1}"
        if not KEY.fullmatch(key):
            raise ValueError(N_("it has no digest"))
        return key


class InUse(Exception):
    """Somebody else is fetching this very file."""


class Partial:
    """Opened by whoever fetches it, and locked until it is closed. Not for use from two threads at once."""

    def __init__(self, folder: Path, disk: Disk, wanted: Wanted, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.is_stopped = False  # whoever waits for a long reading has left; set from any thread
        self.wanted, self.position, self.digest = wanted, 0, ""
        self._folder, self._disk, self._chunk_bytes = folder, disk, chunk_bytes
        self.path, self.journal = folder / f"{wanted.key}.part", folder / f"{wanted.key}.journal"
        self.done = folder / f"{wanted.key}.done"
        self._safe_bytes = 0  # so many were known to be good when this was opened
        self._descriptor = self._journal = -1

    @property
    def is_done(self) -> bool:
        """It is complete and verified; `digest` is its digest."""
        return bool(self.digest)

    def open(self) -> None:
        """Take it up where it is. Raises `InUse`, `OSError`; then, too, it is to be closed."""
        while True:
            self._descriptor = self._disk.open(self.path)
            if not lock(self._descriptor):
                raise InUse(self.wanted.key)
            if is_same_file(self._descriptor, self.path):
                break
            os.close(self._descriptor)  # whoever had it has finished it meanwhile
            self._descriptor = -1
        if self._is_done_already():
            self._disk.unlink(self.path)
            self._disk.unlink(self.journal)
            return
        self._journal = self._disk.open(self.journal)
        chunks, is_same_boot = self._read_journal()
        self._resume(chunks, is_same_boot=is_same_boot)

    def append(self, data: bytes) -> None:
        """More of the file, in order. Each whole chunk is safe before the next begins."""
        while data:
            room = self._chunk_bytes - self.position % self._chunk_bytes
            piece, data = data[:room], data[room:]
            self._disk.write(self._descriptor, piece, self.position)
            self._hash(piece)
            self.position += len(piece)
            if self.position % self._chunk_bytes == 0:
                self._end_chunk()

    def restart(self, at: int = 0) -> None:
        """Throw away what came after `at`, which ends a chunk that was safe."""
        self._begin_hash()
        self.position = 0
        for piece in self._pieces(at):
            self._hash(piece)
            self.position += len(piece)
        self._cut(at // self._chunk_bytes)

    def finish(self) -> bool:
        """Whether this is the file. Then it is sealed and kept as done; else what cannot be trusted is thrown away."""
        if self.position != self.wanted.size_bytes or not self._is_wanted():
            # Chunks that were safe before this time may be good; if it was they, there is a next time.
            keep_bytes, self._safe_bytes = self._safe_bytes, 0
            self.restart(keep_bytes if keep_bytes < self.position else 0)
            return False
        self._disk.sync(self._descriptor)
        self._disk.rename(self.path, self.done)
        self._disk.seal(self._descriptor)
        self._disk.unlink(self.journal)
        self._disk.sync_folder(self._folder)
        self.digest = f"sha256:{self._sha256.hexdigest()}"
        return True

    def close(self) -> None:
        """Keep what came for the next time."""
        for descriptor in (self._descriptor, self._journal):
            if descriptor >= 0:
                os.close(descriptor)
        self._descriptor = self._journal = -1

    # ---- opening ----

    def _resume(self, chunks: list[bytes], *, is_same_boot: bool) -> None:
        """Keep what is as it was when it was made safe; in the same boot also what came after that.

        A process that was killed has lost nothing it had written; a machine may have, and then nobody could tell.
        """
        self._begin_hash()
        size_bytes = min(os.fstat(self._descriptor).st_size, self.wanted.size_bytes)
        for number, piece in enumerate(self._pieces(size_bytes)):
            if number < len(chunks):
                if hashlib.sha256(piece).hexdigest().encode() != chunks[number]:
                    break
                self._safe_bytes += len(piece)
            elif not is_same_boot or number > len(chunks):
                break
            self._hash(piece)
            self.position += len(piece)
        self._cut(self._safe_bytes // self._chunk_bytes)
        if self.position - self._safe_bytes == self._chunk_bytes:
            self._end_chunk()

    def _cut(self, chunk_count: int) -> None:
        """The file ends here, and its journal after so many chunks."""
        self._disk.truncate(self._descriptor, self.position)
        self._disk.truncate(self._journal, self._header_bytes + chunk_count * _LINE_BYTES)

    def _is_done_already(self) -> bool:
        try:
            if self.done.stat(follow_symlinks=False).st_size != self.wanted.size_bytes:
                return False
        except OSError:
            return False
        self._begin_hash()
        with self.done.open("rb") as file:
            while piece := file.read(self._chunk_bytes):
                self._hash(piece)
        if not self._is_wanted():
            self._disk.unlink(self.done)
            return False
        self.position, self.digest = self.wanted.size_bytes, f"sha256:{self._sha256.hexdigest()}"
        return True

    def _read_journal(self) -> tuple[list[bytes], bool]:
        """Digests of chunks, and whether it began in this boot. Another file's journal, or a torn one, begins anew."""
        boot = self._disk.boot
        header = msgspec.json.encode(
            {
                "size_bytes": self.wanted.size_bytes, "chunk_bytes": self._chunk_bytes, "boot": boot,
                "label": self.wanted.label[:300],
            }
        )  # fmt: skip
        raw = os.pread(self._journal, JOURNAL_BYTES_MAX, 0)
        first, newline, rest = raw.partition(b"\n")
        known = decoded(first) if newline else {}
        if known.get("size_bytes") != self.wanted.size_bytes or known.get("chunk_bytes") != self._chunk_bytes:
            self._disk.truncate(self._journal, 0)
            self._disk.write(self._journal, header + b"\n", 0)
            self._disk.sync(self._journal)
            self._disk.sync_folder(self._folder)
            first, rest, known = header, b"", {}
        self._header_bytes = len(first) + 1
        is_same_boot = bool(boot) and known.get("boot") == boot
        if known and not is_same_boot and len(header) == len(first):
            self._disk.write(self._journal, header, 0)  # what comes from now on is of this boot
            self._disk.sync(self._journal)
        chunks = [rest[at : at + 64] for at in range(0, len(rest) - _LINE_BYTES + 1, _LINE_BYTES)]
        return chunks, is_same_boot

    def _pieces(self, size_bytes: int) -> Iterator[bytes]:
        at = 0
        while at < size_bytes:
            if self.is_stopped:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            piece = os.pread(self._descriptor, min(self._chunk_bytes, size_bytes - at), at)
            if not piece:
                return
            yield piece
            at += len(piece)

    # ---- digests ----

    def _begin_hash(self) -> None:
        self._sha256, self._git = hashlib.sha256(), None
        if not self.wanted.sha256:
            self._git = hashlib.sha1(b"blob %d\0" % self.wanted.size_bytes, usedforsecurity=False)
        self._chunk, self._chunk_filled = hashlib.sha256(), 0

    def _hash(self, data: bytes) -> None:
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)
        while data:
            room = self._chunk_bytes - self._chunk_filled
            piece, data = data[:room], data[room:]
            self._chunk.update(piece)
            self._chunk_filled += len(piece)
            if self._chunk_filled == self._chunk_bytes:
                self._last_chunk = self._chunk.hexdigest().encode()
                self._chunk, self._chunk_filled = hashlib.sha256(), 0

    def _is_wanted(self) -> bool:
        if self._git is not None:
            return self._git.hexdigest() == self.wanted.git_sha1
        return self._sha256.hexdigest() == self.wanted.sha256

    def _end_chunk(self) -> None:
        """First the bytes are safe, then the line that says so."""
        self._disk.sync(self._descriptor)
        number = self.position // self._chunk_bytes - 1
        self._disk.write(self._journal, self._last_chunk + b"\n", self._header_bytes + number * _LINE_BYTES)
        self._disk.sync(self._journal)


def decoded(line: bytes) -> dict[str, Any]:
    """What the first line of a journal says; nothing, if it cannot be read."""
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}

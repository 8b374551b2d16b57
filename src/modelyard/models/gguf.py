"""Reads GGUF headers without trusting them.

Every count, size and offset is checked against the length of the file before anything is allocated or skipped, so that
a hostile or cut file costs milliseconds and a few MiB. Weights are never read: sparse files are fine. Stricter than the
format where llama.cpp is (no nested arrays, tensors back to back). Knows what a GGUF file is, not what a model is.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from modelyard.errors import N_, ModelFileError, said

from .header import TENSOR_TYPES, GgufHeader, Skipped, TensorInfo, Value, product_of

HEADER_MAX_BYTES = 128 * 1024**2  # the largest vocabularies in use need 30 MiB
VALUE_COUNT_MAX = 4096
TENSOR_COUNT_MAX = 32_768
TEXT_COUNT_MAX = 1_200_000  # in all arrays together: the largest vocabulary and its merges are 800,000
KEY_MAX_BYTES = 1024
TEXT_KEPT_MAX_BYTES = 256 * 1024  # a chat template; a longer text is skipped and kept as its size
TEXTS_KEPT_MAX_BYTES = 4 * 1024**2  # all of them together
TENSOR_NAME_MAX_BYTES = 63  # llama.cpp's
ARRAY_KEPT_COUNT_MAX = 1024  # per-layer numbers; a longer array is kept as its count
ITEMS_KEPT_COUNT_MAX = 65_536  # of all arrays together
ALIGNMENT_MAX_BYTES = 64 * 1024
DIMENSIONS_MAX = 4
CHUNK_BYTES = 256 * 1024

_TEXT, _ARRAY, _BOOL = 8, 9, 7
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", _BOOL: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_VALUE_MIN_BYTES = 8 + 1 + 4 + 1
_TENSOR_MIN_BYTES = 8 + 1 + 4 + 8 + 4 + 8
_LENGTH = struct.Struct("<Q")


def read_header(path: Path) -> GgufHeader:
    """Read one file's header, or raise `ModelFileError` saying what is wrong with the file."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise _Damaged(N_("it is not a regular file"))
            return _Reader(file, file_bytes=about.st_size).header()
    except _Damaged as damage:
        raise ModelFileError(path=str(path), problem=str(damage)) from None
    except OSError as failure:
        raise ModelFileError(path=str(path), problem=failure.strerror or str(failure)) from failure


def read_split_header(paths: Sequence[Path]) -> GgufHeader:
    """Read the headers of a model's parts, in order, as one: the first part's values, everybody's tensors."""
    headers = [read_header(path) for path in paths]
    whole = headers[0]
    names = {tensor.name for header in headers for tensor in header.tensors}
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    stated = whole.count("split.tensors.count")
    if len(names) != len(tensors) or (stated is not None and stated != len(tensors)):
        raise ModelFileError(path=str(paths[0]), problem=N_("its parts do not belong together"))
    digest = hashlib.blake2b("".join(header.digest for header in headers).encode(), digest_size=16).hexdigest()
    size = sum(header.file_bytes for header in headers)
    return GgufHeader(whole.version, whole.values, tensors, whole.data_offset, size, digest)


class _Damaged(Exception):
    """What is wrong, in words."""


class _Reader:
    """Walks a header once, front to back, holding one chunk of it."""

    def __init__(self, file: BinaryIO, *, file_bytes: int) -> None:
        self._file = file
        self._file_bytes = file_bytes
        self._limit_bytes = min(file_bytes, HEADER_MAX_BYTES)
        self._chunk = b""
        self._at = 0  # in the chunk
        self._read_bytes = 0  # from the file
        self._hash = hashlib.blake2b(digest_size=16)
        self._texts_bytes = 0
        self._text_count = 0
        self._kept_count = 0

    @property
    def _position(self) -> int:
        return self._read_bytes - len(self._chunk) + self._at

    def header(self) -> GgufHeader:
        version, tensor_count, value_count = self._opening()
        values: dict[str, Value] = {}
        for _n in range(value_count):
            key = self._key()
            if key in values:
                raise _Damaged(said("the value {key} is there twice", key=_shown(key)))
            values[key] = self._value(key, self._number("<I"))
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= ALIGNMENT_MAX_BYTES or alignment & (alignment - 1):
            raise _Damaged(N_("its alignment is not a power of two between 8 and 65536"))
        tensors = tuple(self._tensors(tensor_count, alignment))
        position = self._position
        data_offset = position + -position % alignment
        self._check_data(tensors, data_offset)
        digest = self._hash.copy()
        digest.update(self._chunk[: self._at])
        return GgufHeader(version, MappingProxyType(values), tensors, data_offset, self._file_bytes, digest.hexdigest())

    def _opening(self) -> tuple[int, int, int]:
        if self._file_bytes < 24:
            raise _Damaged(N_("it is empty") if not self._file_bytes else N_("it is too short for a header"))
        magic = self._take(4)
        if magic != b"GGUF":
            raise _Damaged(N_("it does not begin with the letters GGUF"))
        version = self._number("<I")
        if version & 0xFFFF == 0:
            raise _Damaged(N_("it is written for big-endian machines"))
        if version not in (2, 3):
            raise _Damaged(said("its GGUF version is {version}; 2 and 3 can be read", version=version))
        tensor_count, value_count = self._number("<Q"), self._number("<Q")
        if value_count > VALUE_COUNT_MAX or tensor_count > TENSOR_COUNT_MAX:
            raise _Damaged(said("its header counts {value_count} values and {tensor_count} tensors, which is too many",
                            value_count=value_count, tensor_count=tensor_count))  # fmt: skip
        self._need(value_count * _VALUE_MIN_BYTES + tensor_count * _TENSOR_MIN_BYTES)
        return version, tensor_count, value_count

    def _value(self, key: str, kind: int) -> Value:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _TEXT:
            return self._text()
        if kind != _ARRAY:
            raise _Damaged(said("the value {key} has the unknown type {kind}", key=_shown(key), kind=kind))
        item_kind, count = self._number("<I"), self._number("<Q")
        if item_kind != _TEXT and item_kind not in _SCALARS:
            raise _Damaged(said("the array {key} has items of the unknown type {item_kind}",
                            key=_shown(key), item_kind=item_kind))  # fmt: skip
        if item_kind == _TEXT:
            self._text_count += count
            if self._text_count > TEXT_COUNT_MAX:
                raise _Damaged(said("the array {key} has {count} texts, which is too many",
                                key=_shown(key), count=count))  # fmt: skip
            self._need(count * _LENGTH.size)
            if self._keeps(key, count):
                texts = tuple(self._text() for _n in range(count))
                return tuple(text for text in texts if isinstance(text, str))
            self._skip_texts(count)
            return Skipped(count)
        code = _SCALARS[item_kind]
        size = struct.calcsize(code) * count
        self._need(size)
        if self._keeps(key, count):
            return struct.unpack(f"<{count}{code[1]}", self._take(size))
        self._skip(size)
        return Skipped(count)

    def _keeps(self, key: str, count: int) -> bool:
        """Whether an array is worth keeping: small, and no part of a vocabulary."""
        if (
            count > ARRAY_KEPT_COUNT_MAX
            or key.startswith("tokenizer.")
            or self._kept_count + count > ITEMS_KEPT_COUNT_MAX
        ):
            return False
        self._kept_count += count
        return True

    def _tensors(self, count: int, alignment: int) -> Iterator[TensorInfo]:
        expected, names = 0, set[str]()
        for _n in range(count):
            name = self._key(TENSOR_NAME_MAX_BYTES)
            dimensions = self._number("<I")
            if name in names or not 1 <= dimensions <= DIMENSIONS_MAX:
                twice = N_("is there twice")
                fault = twice if name in names else said("has {dimensions} dimensions", dimensions=dimensions)
                raise _Damaged(said("the tensor {name} {fault}", name=_shown(name), fault=fault))
            names.add(name)
            shape = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
            number, offset = self._number("<I"), self._number("<Q")
            kind = TENSOR_TYPES.get(number)
            if kind is None:
                raise _Damaged(said("the tensor {name} has the unknown type {number}",
                                name=_shown(name), number=number))  # fmt: skip
            weights = product_of(shape)
            if not weights or shape[0] % kind.block_weights:
                raise _Damaged(said("the tensor {name} has an impossible shape", name=_shown(name)))
            size = weights // kind.block_weights * kind.block_bytes
            if offset != expected:
                raise _Damaged(said("the tensor {name} begins at {offset} instead of {expected}",
                                name=_shown(name), offset=offset, expected=expected))  # fmt: skip
            if size > self._file_bytes:
                raise _Damaged(said("the tensor {name} needs {size} bytes; the file has {file_bytes}: cut?",
                                name=_shown(name), size=size, file_bytes=self._file_bytes))  # fmt: skip
            expected += size + -size % alignment
            yield TensorInfo(name, shape, kind, offset, size)

    def _check_data(self, tensors: tuple[TensorInfo, ...], data_offset: int) -> None:
        if not tensors:
            return
        end = data_offset + tensors[-1].offset + tensors[-1].size_bytes
        if end > self._file_bytes:
            raise _Damaged(said("its tensors end at {end}; the file has {file_bytes} bytes: it is cut",
                            end=end, file_bytes=self._file_bytes))  # fmt: skip

    def _key(self, max_bytes: int = KEY_MAX_BYTES) -> str:
        size = self._number("<Q")
        if not 1 <= size <= max_bytes:
            raise _Damaged(said("a name in its header has {size} bytes", size=size))
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise _Damaged(N_("a name in its header is not UTF-8")) from None

    def _text(self) -> str | Skipped:
        size = self._number("<Q")
        self._need(size)
        if size > TEXT_KEPT_MAX_BYTES or self._texts_bytes + size > TEXTS_KEPT_MAX_BYTES:
            self._skip(size)
            return Skipped(size)
        self._texts_bytes += size
        return self._take(size).decode(errors="replace")

    def _skip_texts(self, count: int) -> None:
        """Step over texts chunk by chunk: vocabularies have hundreds of thousands of them."""
        unpack, width = _LENGTH.unpack_from, _LENGTH.size
        left = count
        while left:
            self._fill(width)
            chunk, at, end = self._chunk, self._at, len(self._chunk) - width
            size = 0
            while left and at <= end:
                (size,) = unpack(chunk, at)
                at += width + size
                left -= 1
            if at > len(chunk):  # the last text goes on after this chunk, or claims to
                self._at = len(chunk)
                self._skip(at - len(chunk))
            else:
                self._at = at

    def _number(self, code: str) -> int:
        (number,) = struct.unpack(code, self._take(struct.calcsize(code)))
        return number  # type: ignore[no-any-return]

    def _need(self, size: int) -> None:
        left = self._limit_bytes - self._position
        if size > left:
            cut, large = N_("the file is cut"), N_("the header is too large")
            told = cut if self._limit_bytes == self._file_bytes else large
            raise _Damaged(said("its header claims {size} bytes where {left} are left: {told}",
                            size=size, left=left, told=told))  # fmt: skip

    def _fill(self, size: int) -> None:
        """Make `size` bytes available in the chunk. Only small sizes are asked for, or ones that will be kept."""
        if len(self._chunk) - self._at >= size:
            return
        self._need(size)
        self._hash.update(self._chunk[: self._at])
        parts = [self._chunk[self._at :]]
        have = len(parts[0])
        while have < size:
            part = self._file.read(min(max(CHUNK_BYTES, size - have), self._limit_bytes - self._read_bytes))
            if not part:
                raise _Damaged(N_("the file became shorter while it was read"))
            self._read_bytes += len(part)
            have += len(part)
            parts.append(part)
        self._chunk, self._at = b"".join(parts), 0

    def _take(self, size: int) -> bytes:
        self._fill(size)
        taken = self._chunk[self._at : self._at + size]
        self._at += size
        return taken

    def _skip(self, size: int) -> None:
        self._need(size)
        while size:
            step = min(size, CHUNK_BYTES)
            self._fill(step)
            self._at += step
            size -= step


def _shown(name: str) -> str:
    """A name from the file, fit for a log line."""
    return ascii(name if len(name) <= 64 else name[:64] + "...")

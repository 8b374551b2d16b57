"""Reads the headers of safetensors files without trusting them.

A header is a length and one JSON object. Its size, its shapes and its offsets are checked against the file before they
are believed; weights are never read. Knows what the format is, not what a model is.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from modelyard.errors import N_, ModelFileError, said

from .header import product_of

HEADER_MAX_BYTES = 32 * 1024**2  # the largest mixtures of experts need 4 MiB a file
TENSOR_COUNT_MAX = 200_000
DIMENSIONS_MAX = 8
NAME_CHARS_MAX = 512
NUMBER_MAX = 2**48
LENGTH = struct.Struct("<Q")

# Bits, since the narrowest types share a byte.
TYPE_BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor's entry."""

    name: str
    type: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def weight_count(self) -> int:
        return product_of(self.shape)


class _Entry(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_tensors(path: Path) -> tuple[StoredTensor, ...]:
    """The tensors of one file, or `ModelFileError` saying what is wrong with it."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for its writer.
        with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise _Damaged(N_("it is not a regular file"))
            raw = file.read(LENGTH.size)
            if len(raw) < LENGTH.size:
                raise _Damaged(N_("it is too short for a header"))
            (length,) = LENGTH.unpack(raw)
            if length > min(HEADER_MAX_BYTES, about.st_size - LENGTH.size):
                raise _Damaged(N_("its header is longer than the file, or than any model needs"))
            return _tensors(file.read(length), about.st_size - LENGTH.size - length)
    except _Damaged as damage:
        raise ModelFileError(path=str(path), problem=str(damage)) from None
    except OSError as failure:
        raise ModelFileError(path=str(path), problem=failure.strerror or str(failure)) from failure


class _Damaged(Exception):
    """What is wrong, in words."""


def _tensors(header: bytes, data_bytes: int) -> tuple[StoredTensor, ...]:
    """Every byte of the data belongs to exactly one tensor: nothing can be hidden in a gap or read twice."""
    try:
        entries = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        if len(entries) > TENSOR_COUNT_MAX:
            raise _Damaged(said("it has more than {tensor_count_max} tensors", tensor_count_max=TENSOR_COUNT_MAX))
        found = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in entries.items()}
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as problem:
        raise _Damaged(N_("its header is not what the format asks for")) from problem
    end = 0
    tensors: list[StoredTensor] = []
    for name, entry in sorted(found.items(), key=lambda item: item[1].data_offsets):
        begin, stop = entry.data_offsets
        if begin != end:
            raise _Damaged(said("the tensor {name} does not begin where the one before it ends", name=f"{name[:60]!a}"))
        tensors.append(StoredTensor(name, entry.dtype, tuple(entry.shape), _checked_bytes(name, entry)))
        end = stop
    if end != data_bytes:
        raise _Damaged(N_("it is cut") if end > data_bytes else N_("it is longer than its tensors"))
    return tuple(tensors)


def _checked_bytes(name: str, entry: _Entry) -> int:
    shown = ascii(name[:60])
    bits = TYPE_BITS.get(entry.dtype)
    if bits is None:
        raise _Damaged(said("the tensor {shown} is of an unknown type", shown=shown))
    if len(name) > NAME_CHARS_MAX or len(entry.shape) > DIMENSIONS_MAX:
        raise _Damaged(said("the tensor {shown} has a longer name or more dimensions than any tensor", shown=shown))
    if any(not 0 <= length <= NUMBER_MAX for length in entry.shape):
        raise _Damaged(said("the tensor {shown} has an impossible shape", shown=shown))
    begin, stop = entry.data_offsets
    if not 0 <= begin <= stop <= NUMBER_MAX or (stop - begin) * 8 != product_of(entry.shape) * bits:
        raise _Damaged(said("the tensor {shown} has another size than its shape says", shown=shown))
    return stop - begin

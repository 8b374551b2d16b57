"""GGUF headers as values and as bytes: right ones, and ones whose counts and offsets lie. Needs nothing but Python."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

# name -> (number in the file, weights per block, bytes per block)
TENSOR_TYPES: dict[str, tuple[int, int, int]] = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q8_0": (8, 32, 34),
    "Q4_K": (12, 256, 144),
    "MXFP4": (39, 32, 17),
}
UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
ALIGNMENT_BYTES = 32


@dataclass(frozen=True, slots=True)
class Value:
    """A typed header value. `items` is the element type of an array."""

    type: int
    value: object
    items: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's entry in the header; `shape` is in GGUF's order, fastest first."""

    name: str
    shape: tuple[int, ...]
    type: str = "F32"
    std: float = 0.02  # how far random weights spread; 0 means all ones

    @property
    def size_bytes(self) -> int:
        _number, weights, block_bytes = TENSOR_TYPES[self.type]
        return math.prod(self.shape) // weights * block_bytes


@dataclass(frozen=True, slots=True)
class Header:
    """A whole header as values; the counts can be made to lie."""

    values: Mapping[str, Value]
    tensors: tuple[Tensor, ...] = ()
    version: int = 3
    magic: bytes = b"GGUF"
    tensor_count: int | None = None
    value_count: int | None = None
    offsets: Mapping[str, int] = field(default_factory=dict)  # tensor name -> offset instead of the right one

    def encode(self) -> bytes:
        """The header's bytes, padded to where the tensor data begins."""
        parts = [self.magic, struct.pack("<I", self.version)]
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        value_count = len(self.values) if self.value_count is None else self.value_count
        parts.append(struct.pack("<QQ", tensor_count, value_count))
        for key, value in self.values.items():
            parts += [encode_text(key), struct.pack("<I", value.type), encode_value(value)]
        for tensor, offset in self._placed():
            parts.append(encode_text(tensor.name))
            parts.append(struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape))
            parts.append(struct.pack("<IQ", TENSOR_TYPES[tensor.type][0], self.offsets.get(tensor.name, offset)))
        whole = b"".join(parts)
        return whole + bytes(-len(whole) % ALIGNMENT_BYTES)

    def _placed(self) -> Iterator[tuple[Tensor, int]]:
        offset = 0
        for tensor in self.tensors:
            yield tensor, offset
            offset += padded(tensor.size_bytes)

    @property
    def data_bytes(self) -> int:
        return sum(padded(tensor.size_bytes) for tensor in self.tensors)


def padded(size_bytes: int) -> int:
    """The next multiple of the alignment."""
    return size_bytes + -size_bytes % ALIGNMENT_BYTES


def encode_text(text: str | bytes) -> bytes:
    """A length and its bytes, as GGUF writes text."""
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def encode_value(value: Value) -> bytes:
    """A value without its type."""
    if value.type == STRING:
        assert isinstance(value.value, str | bytes)
        return encode_text(value.value)
    if value.type == ARRAY:
        assert isinstance(value.value, list | tuple)
        head = struct.pack("<IQ", value.items, len(value.value))
        if value.items in (STRING, ARRAY):
            nested = (item if isinstance(item, Value) else Value(STRING, item) for item in value.value)
            return head + b"".join(encode_value(item) for item in nested)
        return head + struct.pack(f"<{len(value.value)}{_FORMATS[value.items]}", *value.value)
    return struct.pack(f"<{_FORMATS[value.type]}", value.value)


_FORMATS = {UINT8: "B", INT8: "b", UINT16: "H", INT16: "h", UINT32: "I", INT32: "i", FLOAT32: "f", BOOL: "?",
            UINT64: "Q", INT64: "q", FLOAT64: "d"}  # fmt: skip

"""GGUF files for tests: the generator's real ones, and a corpus of hostile ones."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tools.gguf_bytes import ARRAY, BOOL, FLOAT32, STRING, UINT8, UINT32, UINT64, Header, Tensor, Value, encode_text
from tools.gguf_files import (
    GEMMA3_4B,
    HALF_BILLION,
    MIXTRAL,
    QWEN2_1B,
    QWEN3_4B,
    SEVENTY_BILLION,
    TINY,
    Shape,
    text_of_tokens,
    write_half_billion,
    write_model,
    write_tiny_llama,
)

__all__ = [
    "ARRAY", "BOOL", "FLOAT32", "GEMMA3_4B", "HALF_BILLION", "HOSTILE", "MIXTRAL", "QWEN2_1B", "QWEN3_4B",
    "SEVENTY_BILLION", "SMALL", "STRING", "TINY", "UINT8", "UINT32", "UINT64", "Header", "Shape", "Tensor", "Value",
    "encode_text", "small_file", "text_of_tokens", "write_half_billion", "write_hostile", "write_model",
    "write_tiny_llama",
]  # fmt: skip

SMALL = Header(
    {
        "general.architecture": Value(STRING, "llama"),
        "general.name": Value(STRING, "Small"),
        "llama.block_count": Value(UINT32, 1),
        "llama.attention.head_count_kv": Value(ARRAY, [2, 0, 2], UINT32),
        "general.languages": Value(ARRAY, ["en", "zh"], STRING),
        "tokenizer.ggml.tokens": Value(ARRAY, ["a", "b", "c"], STRING),
    },
    (Tensor("token_embd.weight", (32, 4), "Q8_0"), Tensor("blk.0.attn_norm.weight", (32,))),
)


def small_file(header: Header = SMALL) -> bytes:
    """A whole small file: the header and room for its tensors."""
    return header.encode() + bytes(header.data_bytes)


def _with(key: str, value: Value) -> bytes:
    return small_file(replace(SMALL, values={**SMALL.values, key: value}))


def _values(count: int, raw: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, count) + raw


def _keyed(count: int, value: bytes) -> bytes:
    return _values(count, b"".join(encode_text(f"k{n}") + value for n in range(count)))


def _array(item_type: int, count: int, raw: bytes = b"") -> bytes:
    return _values(1, encode_text("a.b") + struct.pack("<IIQ", ARRAY, item_type, count) + raw)


def _tensor(name: str = "t", shape: tuple[int, ...] = (32,), number: int = 0, offset: int = 0) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + encode_text(name)
    head += struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, offset)
    return head + bytes(256)


def _twice(raw: bytes) -> bytes:
    return raw + raw


ENTRY = encode_text("a") + struct.pack("<II", UINT32, 7)
BIG = 2**64 - 1
HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "magic only": lambda: b"GGUF",
    "wrong magic": lambda: small_file(replace(SMALL, magic=b"GGML")),
    "version 1": lambda: small_file(replace(SMALL, version=1)),
    "version 4": lambda: small_file(replace(SMALL, version=4)),
    "big endian": lambda: small_file(replace(SMALL, version=0x03000000)),
    "zeros": lambda: bytes(4096),
    "tensor count 2^64-1": lambda: small_file(replace(SMALL, tensor_count=BIG)),
    "value count 2^64-1": lambda: small_file(replace(SMALL, value_count=BIG)),
    "tensor count one too many": lambda: small_file(replace(SMALL, tensor_count=3))[: len(SMALL.encode())],
    "value count one too many": lambda: small_file(replace(SMALL, value_count=7)),
    "counts larger than the file": lambda: small_file(replace(SMALL, value_count=4000, tensor_count=30_000)),
    "key of no length": lambda: _values(1, encode_text("") + struct.pack("<II", UINT32, 1)),
    "key longer than the file": lambda: _values(1, struct.pack("<Q", 900) + b"abcdefgh"),
    "key of 2^63 bytes": lambda: _values(1, struct.pack("<Q", 2**63) + b"abcdefgh"),
    "key not UTF-8": lambda: _values(1, encode_text(b"\xff\xfe\xfd") + struct.pack("<II", UINT32, 1)),
    "value of unknown type": lambda: _values(1, encode_text("a") + struct.pack("<II", 13, 1)),
    "value of type 2^32-1": lambda: _values(1, encode_text("a") + struct.pack("<II", 2**32 - 1, 1)),
    "value twice": lambda: _values(2, _twice(ENTRY)),
    "text longer than the file": lambda: _values(1, encode_text("a") + struct.pack("<IQ", STRING, 10**6) + b"x"),
    "text of 2^64-1 bytes": lambda: _values(1, encode_text("a") + struct.pack("<IQ", STRING, BIG) + b"x"),
    "array of 2^64-1 numbers": lambda: _array(UINT8, BIG, bytes(64)),
    "array of 2^61 numbers, whose bytes overflow": lambda: _array(UINT64, 2**61, bytes(64)),
    "array of a million numbers in a small file": lambda: _array(UINT32, 10**6, bytes(64)),
    "array of a million texts in a small file": lambda: _array(STRING, 10**6, bytes(64)),
    "array whose last text is too long": lambda: _array(STRING, 2, encode_text("ab") + struct.pack("<Q", 2**40)),
    "array of arrays": lambda: _array(ARRAY, 1, struct.pack("<IQI", UINT32, 1, 1)),
    "array of unknown items": lambda: _array(77, 1, bytes(64)),
    "arrays nested a thousand deep": lambda: _array(ARRAY, 1, struct.pack("<IQ", ARRAY, 1) * 1000),
    "five million empty texts": lambda: _array(STRING, 5_000_000, bytes(8 * 5_000_000)),
    "alignment 0": lambda: _with("general.alignment", Value(UINT32, 0)),
    "alignment 3": lambda: _with("general.alignment", Value(UINT32, 3)),
    "alignment 2^31": lambda: _with("general.alignment", Value(UINT32, 2**31)),
    "alignment a text": lambda: _with("general.alignment", Value(STRING, "32")),
    "tensor without dimensions": lambda: _tensor(shape=()),
    "tensor with five dimensions": lambda: _tensor(shape=(1, 1, 1, 1, 1)),
    "tensor with 2^32-1 dimensions": lambda: _values(0, b"")[:8] + struct.pack("<QQQ", 1, 0, 1) + b"t" + b"\xff" * 200,
    "tensor with a dimension 0": lambda: _tensor(shape=(0, 4)),
    "tensor whose size overflows": lambda: _tensor(shape=(2**62, 2**62, 4)),
    "tensor of half a block": lambda: _tensor(shape=(33,), number=8),
    "tensor of unknown type": lambda: _tensor(number=99),
    "tensor of a removed type": lambda: _tensor(number=4),
    "tensor with a name of 64 bytes": lambda: _tensor(name="n" * 64),
    "tensor beyond the end": lambda: _tensor(offset=2**40),
    "tensor at an odd offset": lambda: _tensor(offset=3),
    "tensor larger than the file": lambda: _tensor(shape=(4096,)),
    "tensors that overlap": lambda: small_file(replace(SMALL, offsets={"blk.0.attn_norm.weight": 0})),
    "tensor twice": lambda: small_file(replace(SMALL, tensors=(SMALL.tensors[0], SMALL.tensors[0]))),
    "data cut by a byte": lambda: SMALL.encode() + bytes(sum(tensor.size_bytes for tensor in SMALL.tensors) - 9),
    "header cut": lambda: SMALL.encode()[:150],
}  # fmt: skip

# Valid as far as they go, and made to cost as much as possible.
COSTLY: dict[str, Callable[[], bytes]] = {
    "as many words as possible": lambda: _array(STRING, 1_200_000, (encode_text("abcdefgh") * 1_200_000)),
    "as many kept numbers as possible": lambda: _keyed(
        3900, struct.pack("<IIQ", ARRAY, FLOAT32, 1024) + bytes(4096)
    ),
    "as many texts as possible": lambda: _keyed(400, struct.pack("<I", STRING) + encode_text(b"x" * 262_144)),
    "as many tensors as possible": lambda: small_file(
        Header({}, tuple(Tensor(f"t{n:062}"[:63], (1, 1, 1, 1)) for n in range(32_768)))
    ),
}  # fmt: skip


def write_hostile(folder: Path, *, is_costly: bool = False) -> list[Path]:
    """Write the corpus, one file each."""
    paths = []
    for number, make in enumerate((COSTLY if is_costly else HOSTILE).values()):
        path = folder / f"hostile-{number:02}.gguf"
        path.write_bytes(make())
        paths.append(path)
    return paths

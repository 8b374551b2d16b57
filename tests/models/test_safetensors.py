"""Safetensors headers: what a sound one says, and that no hostile one is believed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.demo import gguf_path
from modelyard.errors import ModelFileError
from modelyard.models.safetensors import read_tensors
from tests.support.safetensors_files import write_safetensors

TWO: dict[str, tuple[str, tuple[int, ...]]] = {"a": ("F32", (2, 3)), "b": ("BF16", (4,))}


def raw_file(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


def test_tensors_are_told_with_their_sizes(tmp_path: Path) -> None:
    tensors = read_tensors(write_safetensors(tmp_path / "m.safetensors", TWO))

    assert [(one.name, one.type, one.shape, one.size_bytes) for one in tensors] == [
        ("a", "F32", (2, 3), 24),
        ("b", "BF16", (4,), 8),
    ]


def test_a_real_file_is_read() -> None:
    tensors = read_tensors(gguf_path().parent / "yardling-hf" / "model.safetensors")

    assert sum(one.weight_count for one in tensors) == 3_150_080


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 23]}, "another size"),
        ({"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 24]}, "another size"),
        ({"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}, "impossible shape"),
        ({"dtype": "F99", "shape": [2, 3], "data_offsets": [0, 24]}, "unknown type"),
        ({"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}, "more dimensions"),
        ({"dtype": "F32", "shape": [2, 3], "data_offsets": [8, 32]}, "does not begin"),
        ({"dtype": "F32", "shape": [2, 3], "data_offsets": [24, 0]}, "does not begin"),
        ({"dtype": "F32", "shape": "2x3", "data_offsets": [0, 24]}, "not what the format"),
        ({"dtype": "F32", "shape": [2, 3]}, "not what the format"),
        ([], "not what the format"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, entry: object, problem: str) -> None:
    path = raw_file(tmp_path / "m.safetensors", json.dumps({"a": entry}).encode(), b"\0" * 24)

    with pytest.raises(ModelFileError, match=problem):
        read_tensors(path)


@pytest.mark.parametrize(
    ("header", "length", "problem"),
    [
        (b"{}", 2**63, "longer than the file"),
        (b"{}", 3, "longer than the file"),
        (b"[" * 200_000, None, "not what the format"),
        (b'{"a":' * 100_000, None, "not what the format"),
        (b'\xff\xfe"', None, "not what the format"),
        (b"", None, "not what the format"),
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: bytes, length: int | None, problem: str) -> None:
    with pytest.raises(ModelFileError, match=problem):
        read_tensors(raw_file(tmp_path / "m.safetensors", header, length=length))


def test_a_cut_file_and_one_with_more_are_told_apart(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "m.safetensors", TWO)
    whole = path.read_bytes()

    path.write_bytes(whole[:-1])
    with pytest.raises(ModelFileError, match="it is cut"):
        read_tensors(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ModelFileError, match="longer than its tensors"):
        read_tensors(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused_in_words(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw)

    with pytest.raises(ModelFileError):
        read_tensors(path)

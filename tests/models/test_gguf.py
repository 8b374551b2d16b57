"""The header reader: what it reads, and that no file, however hostile, can hurt it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.errors import ModelFileError
from modelyard.models.gguf import read_header, read_split_header
from modelyard.models.header import TENSOR_TYPES, Skipped
from tests.support.counts import count
from tests.support.gguf_files import (
    GEMMA3_4B,
    HOSTILE,
    SEVENTY_BILLION,
    SMALL,
    STRING,
    UINT32,
    Header,
    Tensor,
    Value,
    small_file,
    write_hostile,
    write_model,
    write_tiny_llama,
)


def test_a_header_is_read_as_the_reference_library_reads_it(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")

    header = read_header(path)

    reference = gguf.GGUFReader(path)
    assert header.data_offset == reference.data_offset
    assert [(t.name, t.shape, t.type.name, t.size_bytes, header.data_offset + t.offset) for t in header.tensors] == [
        (t.name, tuple(int(n) for n in t.shape), t.tensor_type.name, t.n_bytes, t.data_offset)
        for t in reference.tensors
    ]
    assert set(header.values) == {name for name in reference.fields if not name.startswith("GGUF.")}
    assert header.text("general.name") == "Tiny Llama"
    assert header.count("llama.context_length") == 4096


def test_every_tensor_type_has_the_size_the_reference_library_gives_it() -> None:
    for number, kind in TENSOR_TYPES.items():
        reference = gguf.GGMLQuantizationType(number)
        assert (kind.name, (kind.block_weights, kind.block_bytes)) == (reference.name, gguf.GGML_QUANT_SIZES[reference])


def test_small_arrays_are_kept_and_vocabularies_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(small_file())

    header = read_header(path)

    assert header.values["llama.attention.head_count_kv"] == (2, 0, 2)
    assert header.values["general.languages"] == ("en", "zh")
    assert header.values["tokenizer.ggml.tokens"] == Skipped(3)
    assert header.items("tokenizer.ggml.tokens") == 3
    assert header.items("general.languages") == 2
    assert header.items("general.name") == 0


def test_a_missing_or_wrong_value_is_no_number(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    path.write_bytes(small_file())

    header = read_header(path)

    assert header.count("general.name") is None
    assert header.count("nothing") is None
    assert header.text("llama.block_count") == ""


@pytest.mark.parametrize("shape", [SEVENTY_BILLION, GEMMA3_4B], ids=["70B", "large vocabulary"])
def test_a_sparse_file_of_any_size_is_read_without_its_weights(tmp_path: Path, shape: object) -> None:
    assert isinstance(shape, type(SEVENTY_BILLION))
    path = write_model(tmp_path / "sparse.gguf", shape, quantization="Q4_K", is_sparse=True)

    header = read_header(path)

    assert header.file_bytes == path.stat().st_size
    assert header.items("tokenizer.ggml.tokens") == shape.vocabulary
    last = header.tensors[-1]
    assert header.data_offset + last.offset + last.size_bytes <= header.file_bytes


def test_the_digest_changes_with_the_header_and_not_with_the_weights(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one.gguf", "two.gguf", "three.gguf"))
    one.write_bytes(small_file())
    two.write_bytes(small_file()[:-1] + b"x")
    three.write_bytes(small_file().replace(b"Small", b"Smell"))

    digests = [read_header(path).digest for path in (one, two, three)]

    assert digests[0] == digests[1] != digests[2]


def test_a_text_too_long_to_keep_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    values = {"general.license": Value(STRING, "x" * 400_000), "after": Value(UINT32, 5)}
    path.write_bytes(small_file(Header(values)))

    header = read_header(path)

    assert header.values == {"general.license": Skipped(400_000), "after": 5}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_words(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(HOSTILE[name]())

    with pytest.raises(ModelFileError) as caught:
        read_header(path)

    assert caught.value.fields["problem"]
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


LIMITED = """
import json, resource, sys, time
from pathlib import Path
from modelyard.errors import ModelFileError
from modelyard.models.gguf import read_header
data = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + 64 * 1024**2,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
spent = {}
for name in sys.argv[1:]:
    began = time.process_time()
    try:
        read_header(Path(name))
    except ModelFileError:
        pass
    spent[name] = time.process_time() - began
print(json.dumps(spent))
"""


@pytest.mark.parametrize("is_costly", [False, True], ids=["hostile", "costly"])
def test_no_file_costs_more_than_two_seconds_or_64_mib(tmp_path: Path, *, is_costly: bool) -> None:
    paths = write_hostile(tmp_path, is_costly=is_costly)

    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *paths], capture_output=True, text=True, timeout=120, check=False
    )

    assert done.returncode == 0, done.stderr[-2000:]
    spent: dict[str, float] = json.loads(done.stdout)
    assert len(spent) == len(paths)
    assert max(spent.values()) < 2.0


def refuses_or_tells_the_truth(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    try:
        header = read_header(path)
    except ModelFileError:
        return
    for tensor in header.tensors:
        assert header.data_offset + tensor.offset + tensor.size_bytes <= len(raw)


def test_a_header_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "cut.gguf", small_file()
    needed = len(SMALL.encode()) + sum(tensor.size_bytes for tensor in SMALL.tensors)

    for length in range(0, needed - 32, 3):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            read_header(path)


def test_flipped_bits_never_do_more_than_refuse(tmp_path: Path) -> None:
    path, whole, dice = tmp_path / "flipped.gguf", small_file(), random.Random(20)

    for _n in range(count(600, 200_000)):
        raw = bytearray(whole)
        for _flip in range(dice.choice((1, 1, 2, 8))):
            raw[dice.randrange(len(SMALL.encode()))] ^= 1 << dice.randrange(8)
        refuses_or_tells_the_truth(path, bytes(raw))


@settings(max_examples=count(200, 20_000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.integers(0, 8), st.integers(0, 8))
def test_any_bytes_after_the_opening_never_do_more_than_refuse(
    tmp_path: Path, raw: bytes, tensors: int, values: int
) -> None:
    opening = Header({}, tensor_count=tensors, value_count=values).encode()[:24]

    refuses_or_tells_the_truth(tmp_path / "any.gguf", opening + raw)


def test_what_is_not_a_file_is_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)

    for path in (pipe, tmp_path, tmp_path / "absent.gguf"):
        with pytest.raises(ModelFileError):
            read_header(path)


def part(number: int, names: tuple[str, ...], *, total: int = 3) -> bytes:
    values = {
        "general.architecture": Value(STRING, "llama"),
        "split.no": Value(UINT32, number),
        "split.count": Value(UINT32, 2),
        "split.tensors.count": Value(UINT32, total),
    }
    return small_file(Header(values, tuple(Tensor(name, (32,)) for name in names)))


def test_the_parts_of_a_model_are_read_as_one(tmp_path: Path) -> None:
    one, two = tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"
    one.write_bytes(part(0, ("a", "b")))
    two.write_bytes(part(1, ("c",)))

    header = read_split_header([one, two])

    assert [tensor.name for tensor in header.tensors] == ["a", "b", "c"]
    assert header.file_bytes == one.stat().st_size + two.stat().st_size


@pytest.mark.parametrize("second", [part(1, ("b",)), part(1, ("c", "d"))], ids=["same tensor", "one too many"])
def test_parts_of_different_models_are_refused(tmp_path: Path, second: bytes) -> None:
    one, two = tmp_path / "m-00001-of-00002.gguf", tmp_path / "m-00002-of-00002.gguf"
    one.write_bytes(part(0, ("a", "b")))
    two.write_bytes(second)

    with pytest.raises(ModelFileError, match="do not belong together"):
        read_split_header([one, two])

"""Finding models in folders: what is found, what it is called, and that no folder can hurt the scan."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from modelyard.models import scan as scan_module
from modelyard.models.catalog import Catalog
from modelyard.models.describe import describe
from modelyard.models.scan import scan
from modelyard.types.model import Capability, Model, ModelRef
from tests.support.gguf_files import (
    SMALL,
    STRING,
    TINY,
    UINT32,
    Header,
    Tensor,
    Value,
    small_file,
    write_tiny_llama,
)


def write_small(path: Path, header: Header = SMALL) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(small_file(header))
    return path


def with_values(**values: Value) -> Header:
    return replace(SMALL, values={**SMALL.values, **{key.replace("__", "."): value for key, value in values.items()}})


PROJECTOR = Header(
    {"general.architecture": Value(STRING, "clip"), "general.type": Value(STRING, "mmproj")},
    (Tensor("v.patch_embd.weight", (32, 8)),),
)


def part(number: int, count: int) -> Header:
    values = {"split.no": Value(UINT32, number), "split.count": Value(UINT32, count)}
    return replace(SMALL, values={**SMALL.values, **values}, tensors=(Tensor(f"blk.0.part{number}.weight", (32,)),))


def only(folder: Path) -> Model:
    result = scan([folder])
    assert not result.problems
    (model,) = result.models
    return model


def test_a_model_is_described_by_its_header(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "Tiny-Chat-F16.gguf", context_length=2048)

    model = only(tmp_path)

    assert (model.name, model.engine, model.format, model.architecture) == (
        "tiny-chat-f16",
        "llamacpp",
        "gguf",
        "llama",
    )
    assert model.files == (path,)
    assert model.size_bytes == path.stat().st_size
    assert model.modified_at == path.stat().st_mtime
    assert model.quantization == "F16"
    assert model.context_length == 2048
    assert model.parameter_count == 139_584
    assert model.capabilities == {Capability.CHAT, Capability.COMPLETION}
    assert model.problem == ""
    assert model.facts is not None
    assert len(model.facts.layers) == TINY.layers
    assert model.metadata["title"] == "Tiny Llama"


def test_a_model_without_a_template_cannot_chat_and_one_with_tools_in_it_can_use_them(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "plain.gguf", chat_template=None)
    write_tiny_llama(tmp_path / "tools.gguf", chat_template="{% if tools %}{{ tools }}{% endif %}")

    plain, tools = scan([tmp_path]).models

    assert plain.capabilities == {Capability.COMPLETION}
    assert tools.capabilities == {Capability.COMPLETION, Capability.CHAT, Capability.TOOLS}


@pytest.mark.parametrize(
    ("pooling", "able"),
    [(1, Capability.EMBED), (3, Capability.EMBED), (4, Capability.RERANK), (0, Capability.COMPLETION)],
)
def test_pooling_decides_between_embedding_reranking_and_text(tmp_path: Path, pooling: int, able: Capability) -> None:
    write_small(tmp_path / "m.gguf", with_values(llama__pooling_type=Value(UINT32, pooling)))

    assert able in only(tmp_path).capabilities


@pytest.mark.parametrize(
    ("file", "name", "aliases"),
    [
        ("Qwen2.5-0.5B-Instruct-Q4_K_M.gguf", "qwen2.5-0.5b-instruct-q4_k_m", {"qwen2.5-0.5b-instruct:q4_k_m"}),
        ("Qwen2.5-0.5B-Instruct-GGUF/model.gguf", "qwen2.5-0.5b-instruct", {"qwen2.5-0.5b-instruct-gguf"}),
        ("Qwen2.5-0.5B-Instruct-GGUF/x-q8_0.gguf", "x-q8_0", {"qwen2.5-0.5b-instruct-gguf", "qwen2.5-0.5b-instruct"}),
        ("phi/ggml-model-Q4_0.gguf", "phi", set()),
        ("models--Qwen--Qwen3-4B-GGUF/snapshots/0a1b/Qwen3-4B-Q8_0.gguf", "qwen3-4b-q8_0", {"qwen/qwen3-4b-gguf"}),
        ("My Model (v2).GGUF", "my-model-v2", set()),
        ("weird:name@x.gguf", "weird-name-x", set()),
    ],
)
def test_a_model_is_named_after_its_file_or_folder(tmp_path: Path, file: str, name: str, aliases: set[str]) -> None:
    write_small(tmp_path / "top" / file)

    model = only(tmp_path / "top")

    assert model.name == name
    assert aliases <= set(model.aliases)
    for called in (model.name, *model.aliases):
        assert ModelRef.parse(called)
        assert called == called.lower()


def test_a_folder_with_one_model_can_be_scanned_itself(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen2.5-0.5B-Instruct-GGUF"
    write_small(folder / "model-q4_0.gguf")

    assert only(folder).name == "qwen2.5-0.5b-instruct"


def test_a_single_file_can_be_named_instead_of_a_folder(tmp_path: Path) -> None:
    path = write_small(tmp_path / "one.gguf")
    write_small(tmp_path / "two.gguf")

    assert only(path).name == "one"


def test_the_name_without_quantisation_belongs_to_nobody_when_there_are_several(tmp_path: Path) -> None:
    write_small(tmp_path / "m" / "phi-q4_0.gguf")
    write_small(tmp_path / "m" / "phi-q8_0.gguf")

    models = scan([tmp_path]).models

    assert {model.name: model.aliases for model in models} == {
        "phi-q4_0": ("phi:q4_0",),
        "phi-q8_0": ("phi:q8_0",),
    }


def test_models_of_the_same_file_name_get_names_of_their_own(tmp_path: Path) -> None:
    for folder in ("a", "b", "c/a"):
        write_small(tmp_path / folder / "phi.gguf")

    names = [model.name for model in scan([tmp_path]).models]

    assert names == ["a/phi", "a/phi-2", "b/phi"]
    assert all(ModelRef.parse(name) for name in names)


def test_a_folder_scanned_twice_gives_its_models_once(tmp_path: Path) -> None:
    write_small(tmp_path / "sub" / "phi.gguf")

    assert len(scan([tmp_path, tmp_path / "sub"]).models) == 1


def test_the_parts_of_a_split_model_are_one_model(tmp_path: Path) -> None:
    paths = [write_small(tmp_path / f"big-q4_0-{n + 1:05}-of-00003.gguf", part(n, 3)) for n in range(3)]

    model = only(tmp_path)

    assert model.name == "big-q4_0"
    assert model.files == tuple(paths)
    assert model.size_bytes == sum(path.stat().st_size for path in paths)
    assert model.problem == ""


def test_a_split_model_with_a_missing_part_is_listed_with_its_problem(tmp_path: Path) -> None:
    for number in (0, 2):
        write_small(tmp_path / f"big-{number + 1:05}-of-00003.gguf", part(number, 3))

    model = only(tmp_path)

    assert model.name == "big"
    assert model.problem == "part 2 of 3 is missing"


def test_a_projector_is_no_model_and_belongs_to_the_model_beside_it(tmp_path: Path) -> None:
    write_tiny_llama(tmp_path / "vision.gguf")
    projector = write_small(tmp_path / "mmproj-vision-f16.gguf", PROJECTOR)

    model = only(tmp_path)

    assert model.name == "vision"
    assert model.metadata["projector"] == str(projector)
    assert Capability.IMAGES in model.capabilities
    assert model.facts is not None
    assert model.facts.projector_bytes == projector.stat().st_size


def test_a_damaged_file_is_listed_with_its_problem(tmp_path: Path) -> None:
    whole = write_tiny_llama(tmp_path / "cut.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:-1000])
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "text.gguf").write_text("version https://git-lfs.github.com/spec/v1\n")

    models = {model.name: model for model in scan([tmp_path]).models}

    assert "cut" in models["cut"].problem
    assert models["empty"].problem == "it is empty"
    assert "GGUF" in models["text"].problem
    assert all(model.facts is None and model.identity for model in models.values())


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (with_values(general__type=Value(STRING, "adapter")), "LoRA"),
        (with_values(llama__block_count=Value(UINT32, 0)), "0 layers"),
        (with_values(llama__block_count=Value(UINT32, 2**31)), "layers"),
        (replace(SMALL, tensors=()), "no weights"),
        (replace(SMALL, values={}), "no architecture"),
    ],
)
def test_a_sound_file_that_is_no_model_is_listed_with_the_reason(tmp_path: Path, header: Header, problem: str) -> None:
    write_small(tmp_path / "odd.gguf", header)

    assert problem in only(tmp_path).problem


def test_the_identity_changes_with_the_file(tmp_path: Path) -> None:
    path = write_small(tmp_path / "m.gguf")
    before = only(tmp_path).identity
    os.utime(path, (1, 1))
    touched = only(tmp_path).identity
    path.write_bytes(path.read_bytes().replace(b"Small", b"Smell"))
    os.utime(path, (1, 1))

    assert len({before, touched, only(tmp_path).identity}) == 3


def test_an_unchanged_model_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small(tmp_path / "same.gguf")
    write_small(tmp_path / "changed.gguf")
    first = scan([tmp_path])
    os.utime(tmp_path / "changed.gguf", (1, 1))
    read: list[str] = []

    def counted(name: str, files: tuple[Path, ...], *, projector: Path | None, problem: str) -> Model:
        read.append(name)
        return describe(name, files, projector=projector, problem=problem)

    monkeypatch.setattr(scan_module, "describe", counted)
    second = scan([tmp_path], first.models)

    assert read == ["changed"]
    assert second.models[1] == first.models[1]


def test_a_folder_that_is_not_there_is_a_problem_and_the_others_are_scanned(tmp_path: Path) -> None:
    write_small(tmp_path / "here" / "m.gguf")

    result = scan([tmp_path / "absent", tmp_path / "here"])

    assert [problem.path for problem in result.problems] == [tmp_path / "absent"]
    assert "No such file" in result.problems[0].problem
    assert [model.name for model in result.models] == ["m"]


SCAN_AS_NOBODY = """
import os, sys
from pathlib import Path
from modelyard.models.scan import scan
if os.getuid() == 0:
    os.setuid(65534)  # root may read everything
for problem in scan([Path(sys.argv[1])]).problems:
    print(problem.path, problem.problem)
"""


def test_a_folder_without_permission_is_a_problem() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        closed = Path(name) / "closed"
        closed.mkdir(mode=0)

        said = subprocess.run([sys.executable, "-c", SCAN_AS_NOBODY, name], capture_output=True, text=True, check=True)

    assert said.stdout == f"{closed} cannot be read: Permission denied\n"


def test_links_to_files_are_followed_and_links_out_of_the_folder_or_in_circles_are_not(tmp_path: Path) -> None:
    outside = write_small(tmp_path / "outside" / "linked.gguf")
    top = tmp_path / "top"
    write_small(top / "sub" / "own.gguf")
    (top / "link.gguf").symlink_to(outside)
    (top / "folder").symlink_to(tmp_path / "outside")
    (top / "sub" / "circle").symlink_to(top)
    (top / "broken.gguf").symlink_to(tmp_path / "nothing")

    models = {model.name: model.problem for model in scan([top]).models}

    assert set(models) == {"link", "own", "broken"}
    assert models["link"] == models["own"] == ""
    assert models["broken"] == "cannot be read: No such file or directory"


def test_depth_and_count_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small(tmp_path.joinpath(*"abcdefghij") / "deep.gguf")
    for number in range(5):
        write_small(tmp_path / "many" / f"m{number}.gguf")
    monkeypatch.setattr(scan_module, "FILE_COUNT_MAX", 3)

    result = scan([tmp_path])

    assert len(result.models) == 3
    assert sorted("deep" in problem.problem for problem in result.problems) == [False, True]


def test_hidden_and_other_files_are_left_alone(tmp_path: Path) -> None:
    write_small(tmp_path / ".hidden" / "m.gguf")
    write_small(tmp_path / ".m.gguf")
    (tmp_path / "readme.md").write_text("no model")
    (tmp_path / "m.gguf.part").write_bytes(b"GG")

    assert scan([tmp_path]).models == ()


def test_what_a_scan_finds_can_be_resolved_by_every_name(tmp_path: Path) -> None:
    write_small(tmp_path / "Qwen2.5-0.5B-Instruct-GGUF" / "Qwen2.5-0.5B-Instruct-Q4_K_M.gguf")
    catalog = Catalog(scan([tmp_path]).models)

    for text in ("qwen2.5-0.5b-instruct", "Qwen2.5-0.5B-Instruct:Q4_K_M", "qwen2.5-0.5b-instruct-gguf:latest"):
        assert catalog.resolve(text).name == "qwen2.5-0.5b-instruct-q4_k_m"

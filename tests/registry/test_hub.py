"""The hub's own library asks a hub on a real socket; what that hub may answer, and what becomes of it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from modelyard.errors import (
    BadRequest,
    ConfigError,
    ExtraMissing,
    ModelFileError,
    NotFound,
    UpstreamInvalid,
    UpstreamRefusedKey,
    UpstreamUnreachable,
    YardError,
)
from modelyard.registry.choosing import HubFile, choose
from modelyard.registry.hub import Hub
from modelyard.registry.reference import HubReference, parse
from tests.support.fake_hub import COMMIT, FakeHub, git_digest

TOKEN = "hf_for_this_hub_alone"
FILES = {
    "README.md": b"# x", "config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle", "modeling_evil.py": b"import os", ".gitattributes": b"x",
}  # fmt: skip
REFERENCE = HubReference("org/Tiny-GGUF")


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with FakeHub(FILES, token=TOKEN) as running:
        yield running


def environment(hub: FakeHub, home: Path, **further: str) -> Mapping[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), **further}


async def test_what_a_repository_has_is_asked_with_the_token_and_chosen_from(hub: FakeHub, tmp_path: Path) -> None:
    plan = await Hub(environment(hub, tmp_path, HF_TOKEN=TOKEN, MODELYARD_KEY="not for it")).plan(REFERENCE)

    found = {one.path: one.wanted for one in plan.files}
    assert set(found) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert found["config.json"].git_sha1 == git_digest(FILES["config.json"])
    assert found["model.safetensors"].sha256
    assert (plan.name, plan.revision) == ("org/tiny", COMMIT)
    sources = [one.source.request for one in plan.files]
    assert all(one and one.url.startswith(f"{hub.url}/org/Tiny-GGUF/resolve/{COMMIT}/") for one in sources)
    assert {one.token for one in sources if one} == {TOKEN}
    (asked,) = hub.requests
    assert (asked.path, asked.headers["authorization"]) == ("/api/models/org/Tiny-GGUF", f"Bearer {TOKEN}")


REFUSALS: dict[str, tuple[int, dict[str, str], type[YardError]]] = {
    "gated": (403, {"x-error-code": "GatedRepo"}, UpstreamRefusedKey),
    "no such repository": (404, {"x-error-code": "RepoNotFound"}, NotFound),
    "broken": (500, {}, UpstreamInvalid),
    "in circles": (307, {"location": "/api/models/org/Tiny-GGUF"}, UpstreamInvalid),
    "sent to another server": (302, {"location": "http://127.0.0.2:1/x"}, UpstreamInvalid),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_hub_that_refuses_is_understood(name: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.listing_status, hub.listing_headers, kind = REFUSALS[name]

    with pytest.raises(YardError) as failure:
        await Hub(environment(hub, tmp_path, HF_TOKEN=TOKEN)).plan(REFERENCE)

    assert type(failure.value) is kind, failure.value
    assert TOKEN not in f"{failure.value} {failure.value.fields}"


LISTINGS: dict[str, Any] = {
    "huge": {"sha": COMMIT, "siblings": [], "padding": "x" * (33 * 1024**2)},
    "not an object": [1, 2],
    "no commit": {"id": "org/x", "sha": "main/../..", "siblings": []},
}


@pytest.mark.parametrize("name", LISTINGS)
async def test_a_list_that_makes_no_sense_is_refused(name: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.listing = LISTINGS[name]

    with pytest.raises(UpstreamInvalid):
        await Hub(environment(hub, tmp_path, HF_TOKEN=TOKEN)).plan(REFERENCE)


async def test_offline_the_librarys_cache_is_enough_and_nobody_is_asked(hub: FakeHub, tmp_path: Path) -> None:
    offline = Hub(environment(hub, tmp_path, HF_HUB_OFFLINE="1"))
    with pytest.raises(UpstreamUnreachable, match="HF_HUB_OFFLINE"):
        await offline.plan(REFERENCE)

    cache = tmp_path / "hf" / "hub" / "models--org--Tiny-GGUF"
    for folder in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (cache / folder).mkdir(parents=True)
    digest = "ab" * 32
    (cache / "blobs" / digest).write_bytes(b"GGUF")
    (cache / "refs" / "main").write_text(COMMIT)
    (cache / f"snapshots/{COMMIT}/x-Q4_K_M.gguf").symlink_to(f"../../blobs/{digest}")
    (cache / f"snapshots/{COMMIT}/evil-Q8_0.gguf").symlink_to("/etc/passwd")
    plan = await offline.plan(REFERENCE)

    (file,) = plan.files
    assert (file.path, file.wanted.sha256, file.source.request) == ("x-Q4_K_M.gguf", digest, None)
    assert file.source.local == (cache / "blobs" / digest).resolve()
    assert hub.requests == []


async def test_without_the_library_the_command_that_installs_it_is_told(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError('not installed')\n")

    with pytest.raises(ExtraMissing) as failure:
        await Hub(environment(hub, tmp_path, PYTHONPATH=str(tmp_path))).plan(REFERENCE)

    assert failure.value.suggestions == ('Install them: pip install "modelyard[hub]"',)


async def test_a_token_goes_over_tls_or_not_at_all(hub: FakeHub, tmp_path: Path) -> None:
    given = {**environment(hub, tmp_path, HF_TOKEN=TOKEN), "HF_ENDPOINT": "http://hub.example.org"}

    with pytest.raises(ConfigError, match="https"):
        await Hub(given).plan(REFERENCE)


# ---- which files ----


def listed(*paths: str) -> list[HubFile]:
    return [HubFile(path, 10, sha256="a" * 64) for path in paths]


def chosen(text: str, *paths: str) -> list[str]:
    reference = parse(text)
    assert isinstance(reference, HubReference)
    return [one.path for one in choose(reference, listed(*paths)).files]


QUANTS = (
    "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-F16.gguf", "UD-Q4_K_XL/m-UD-Q4_K_XL-00001-of-00002.gguf",
    "UD-Q4_K_XL/m-UD-Q4_K_XL-00002-of-00002.gguf", "mmproj-m-f16.gguf", "mmproj-m-Q8_0.gguf", "m-imatrix.gguf",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("hf:a/m", ["m-Q4_K_M.gguf", "mmproj-m-f16.gguf"]),
        ("hf:a/m:q8_0", ["m-Q8_0.gguf", "mmproj-m-f16.gguf"]),
        ("hf:a/m:UD-Q4_K_XL", [*QUANTS[3:5], "mmproj-m-f16.gguf"]),
        ("hf.co/a/m:m-F16.gguf", ["m-F16.gguf", "mmproj-m-f16.gguf"]),
    ],
)
def test_one_set_of_gguf_files_with_its_projector_is_taken(text: str, paths: list[str]) -> None:
    assert chosen(text, *QUANTS) == paths


def test_a_wish_that_cannot_be_met_names_what_there_is() -> None:
    with pytest.raises(BadRequest) as failure:
        chosen("hf:a/m:q2_k", *QUANTS)

    assert "f16, q4_k_m, q8_0, ud-q4_k_xl" in str(failure.value)


@pytest.mark.parametrize("paths", [("pytorch_model.bin", "config.json"), ("README.md",), ("../m-Q4_K_M.gguf",),
                                   ("/m.gguf", "C:\\m.gguf"), ("model.safetensors",), ()])  # fmt: skip
def test_nothing_that_may_be_taken_is_an_error_that_says_why(paths: tuple[str, ...]) -> None:
    with pytest.raises(ModelFileError):
        chosen("hf:a/m", *paths)


def test_sentence_transformers_folders_come_whole() -> None:
    paths = ["config.json", "modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors", "model.safetensors",
             "onnx/model.onnx", "openvino/x.json", "train.py", "2_Dense/pytorch_model.bin"]  # fmt: skip

    assert sorted(chosen("hf:a/m", *paths)) == sorted(paths[:5])

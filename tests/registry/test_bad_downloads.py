"""What is not the file never gets its name, whatever a hub or a network makes of it; what is lost is fetched again."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from modelyard.errors import (
    DigestMismatch,
    ModelFileError,
    NotFound,
    UpstreamInvalid,
    UpstreamOverloaded,
    UpstreamRefusedKey,
    UpstreamTimeout,
    YardError,
)
from tests.support.fake_hub import FakeHub, FileFault
from tests.support.pulling import CHUNK_BYTES, NAME, REFERENCE, Planned, kept_bytes, pulled, pulling, there

FILE = "tiny.gguf"
DATA = random.Random(7).randbytes(5 * CHUNK_BYTES + 1234)
WHOLE = {NAME: {FILE: DATA}}


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with FakeHub({FILE: DATA}) as running:
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


HARMLESS = {
    "cut": FileFault(cut_at=200_000),
    "cut at once": FileFault(cut_at=0),
    "short": FileFault(end_at=100_000),
    "one bit is another": FileFault(flip_at=150_000),
    "longer": FileFault(more_bytes=10),
    "an error page with status 200": FileFault(html=True),
    "an error page that looks like data": FileFault(html_unsized=True),
    "another part": FileFault(wrong_range=True),
    "busy": FileFault(status=503),
    "limited": FileFault(status=429, headers={"retry-after": "0"}),
    "a server error": FileFault(status=500),
}


@pytest.mark.parametrize("name", HARMLESS)
async def test_what_goes_wrong_once_is_made_good(name: str, hub: FakeHub, root: Path) -> None:
    hub.fail(FILE, HARMLESS[name])
    async with pulling(root, hub) as pulls:
        steps = await pulled(pulls)

    assert steps[-1]["status"] == "success"
    assert there(root) == WHOLE
    assert kept_bytes(root) == 0


LASTING: dict[str, tuple[FileFault, type[YardError]]] = {
    "cut": (FileFault(cut_at=0), UpstreamInvalid),
    "one bit is another": (FileFault(flip_at=150_000), DigestMismatch),
    "an error page with status 200": (FileFault(html=True), UpstreamInvalid),
    "an error page that looks like data": (FileFault(html_unsized=True), YardError),
    "longer": (FileFault(more_bytes=10), UpstreamInvalid),
    "short": (FileFault(end_at=0), UpstreamInvalid),
    "busy": (FileFault(status=503), UpstreamOverloaded),
    "gone": (FileFault(status=404), NotFound),
    "refused": (FileFault(status=403), UpstreamRefusedKey),
    "in circles": (FileFault(location="/org/Tiny-GGUF/resolve/main/tiny.gguf"), UpstreamInvalid),
}


@pytest.mark.parametrize("name", LASTING)
async def test_what_stays_wrong_never_has_the_name_and_is_not_kept(name: str, hub: FakeHub, root: Path) -> None:
    hub.always, kind = LASTING[name]
    if hub.always.location:
        hub.always = FileFault(location=f"{hub.url}/cdn/{FILE}")
    async with pulling(root, hub) as pulls:
        with pytest.raises(YardError) as failure:
            await pulled(pulls)

        assert there(root) == {}
        assert not list((root / "models").iterdir())
        if kind is DigestMismatch:
            assert kept_bytes(root) == 0
        hub.always = FileFault()
        await pulled(pulls)  # nothing that was left stands in the way

    assert isinstance(failure.value, kind) or name == "cut"
    assert there(root) == WHOLE


async def test_a_server_that_does_not_know_ranges_sends_it_all_again(hub: FakeHub, root: Path) -> None:
    hub.fail(FILE, FileFault(cut_at=200_000), FileFault(ignores_range=True))
    async with pulling(root, hub) as pulls:
        await pulled(pulls)

    assert there(root) == WHOLE
    assert hub.requests[1].headers["range"].startswith("bytes=")
    assert hub.sent_bytes == len(DATA) + 200_000


async def test_after_a_wrong_bit_only_what_came_with_it_is_fetched_again(hub: FakeHub, root: Path) -> None:
    hub.fail(FILE, FileFault(cut_at=4 * CHUNK_BYTES), FileFault(flip_at=10))
    async with pulling(root, hub) as pulls, aclosing(pulls.pull(REFERENCE)) as steps:  # type: ignore[type-var]
        async for step in steps:
            if step.get("completed"):
                break  # whoever listens leaves in the middle
    async with pulling(root, hub) as pulls:
        await pulled(pulls)

    assert there(root) == WHOLE
    assert hub.sent_bytes <= len(DATA) * 1.5


async def test_a_silent_download_is_begun_anew(hub: FakeHub, root: Path) -> None:
    hub.fail(FILE, FileFault(stall_at=100_000))
    async with pulling(root, hub, silence_s=0.2) as pulls:
        steps = await pulled(pulls)
        hub.always, hub.files = FileFault(stall_at=0), {"other.gguf": b"GGUF" * 10}
        with pytest.raises(UpstreamTimeout):
            await pulled(pulls)

    assert any("Trying again" in str(step["status"]) for step in steps)
    assert there(root) == WHOLE


async def test_a_model_that_wants_its_own_code_run_is_refused_before_its_weights_come(root: Path) -> None:
    files = {"config.json": b'{"auto_map": {"AutoModel": "evil.Model"}}', "model.safetensors": b"x" * 100_000}
    async with FakeHub(files) as hub, pulling(root, hub) as pulls:
        with pytest.raises(ModelFileError, match="auto_map"):
            await pulled(pulls)

        assert not [one for one in hub.requests if one.path.endswith(".safetensors")]
    assert there(root) == {}
    assert kept_bytes(root) == 0


@pytest.mark.parametrize("path", ["../evil.gguf", "/etc/evil.gguf", "a/../../x.gguf", ".hidden.gguf", "a\\b.gguf", ""])
async def test_no_file_stands_where_a_list_of_files_may_not_put_it(path: str, hub: FakeHub, root: Path) -> None:
    planner = Planned(hub)
    planner.paths[FILE] = path
    async with pulling(root, hub, planner=planner) as pulls:
        with pytest.raises(ModelFileError):
            await pulled(pulls)

    outside = list(root.parent.rglob("*evil*"))
    assert (there(root), outside, hub.requests) == ({}, [], [])


@pytest.mark.parametrize("size_bytes", [len(DATA) - 1, len(DATA) + 1, 0])
async def test_a_size_that_is_not_the_files_is_noticed(size_bytes: int, hub: FakeHub, root: Path) -> None:
    planner = Planned(hub)
    planner.sizes[FILE] = size_bytes
    async with pulling(root, hub, planner=planner) as pulls:
        with pytest.raises(YardError):
            await pulled(pulls)

    assert there(root) == {}

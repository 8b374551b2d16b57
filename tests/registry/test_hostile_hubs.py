"""Where files may come from, and where a token goes: to the hub alone, whatever the hub or anybody on the way says."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from modelyard.errors import YardError
from modelyard.registry.fetch import Hosts
from tests.support.fake_hub import FakeHub, FileFault
from tests.support.pulling import NAME, Planned, pulled, pulling, there

FILE, TOKEN = "tiny.gguf", "hf_never_tell"
DATA = random.Random(3).randbytes(100_000)


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with FakeHub({FILE: DATA}, token=TOKEN) as running:
        yield running


@pytest.fixture
async def other() -> AsyncIterator[FakeHub]:
    """Another server: it has the file, too, and takes anybody."""
    async with FakeHub({FILE: DATA}) as running:
        yield running


def address(server: FakeHub) -> str:
    return server.url.removeprefix("http://")


async def test_an_allowed_host_sends_the_file_and_never_sees_the_token(
    hub: FakeHub, other: FakeHub, tmp_path: Path
) -> None:
    hub.redirect = f"{other.url}/cdn/{{path}}?signature=1"
    other.fail(FILE, FileFault(cut_at=50_000))
    async with pulling(tmp_path / "store", hub, hosts=[address(other)]) as pulls:
        await pulled(pulls)

    assert there(tmp_path / "store") == {NAME: {FILE: DATA}}
    assert [one.headers["authorization"] for one in hub.requests] == [f"Bearer {TOKEN}"] * 2
    assert not any(TOKEN in str(one.headers) + one.path for one in other.requests)


async def test_a_token_does_not_come_back_by_way_of_another_host(hub: FakeHub, other: FakeHub, tmp_path: Path) -> None:
    hub.redirect = f"{other.url}/cdn/{{path}}"
    other.always = FileFault(location=f"{hub.url}/cdn/{FILE}")
    planner, hub.key = Planned(hub, token=TOKEN), ""  # it lets everybody in
    async with pulling(tmp_path / "store", hub, hosts=[address(other)], planner=planner) as pulls:
        await pulled(pulls)

    assert ["authorization" in one.headers for one in hub.requests] == [True, False]


async def test_a_redirect_within_the_hub_keeps_the_token(hub: FakeHub, tmp_path: Path) -> None:
    hub.redirect = "/cdn/{path}"
    async with pulling(tmp_path / "store", hub) as pulls:
        await pulled(pulls)

    assert [one.headers["authorization"] for one in hub.requests] == [f"Bearer {TOKEN}"] * 2


ELSEWHERE = (
    "http://{other}/cdn/{{path}}",  # not in the list
    "//{other}/cdn/{{path}}",
    "http://{hub}@{other}/cdn/{{path}}",
    "http://user:secret@{hub}/cdn/{{path}}",
    "https://{hub}/cdn/{{path}}",  # the same host, and another origin
    "http://169.254.169.254/latest/meta-data/",
    "http://10.0.0.1/cdn/{{path}}",
    "http://[::ffff:127.0.0.1]:80/cdn/{{path}}",
    "http://0x7f000001/x", "http://localhost:1/x", "http://127.0.0.1.evil.example/x",
    "file:///etc/passwd", "ftp://{hub}/x", "gopher://{hub}/x", "http:///x", "http://", "javascript:1", "",
    "http://{hub}:99999/x", "http://{hub}/x y", "http://[bad/x",
)  # fmt: skip


@pytest.mark.parametrize("location", ELSEWHERE)
async def test_a_redirect_to_anybody_else_is_not_followed(
    location: str, hub: FakeHub, other: FakeHub, tmp_path: Path
) -> None:
    hub.redirect = location.format(hub=address(hub), other=address(other)) or " "
    async with pulling(tmp_path / "store", hub, attempts_max=1) as pulls:
        with pytest.raises(YardError) as failure:
            await pulled(pulls)

    assert other.requests == []
    assert TOKEN not in f"{failure.value} {failure.value.fields}"
    assert there(tmp_path / "store") == {}


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("https://huggingface.co/x", True), ("https://cdn-lfs.hf.co/x", True), ("https://hf.co:443/x", True),
        ("https://HF.CO/x", True), ("https://a.b.hf.co/x", True),
        ("http://hf.co/x", False), ("https://hf.co:8443/x", False), ("https://evilhf.co/x", False),
        ("https://hf.co.evil.example/x", False), ("https://evil.example/hf.co", False), ("https://u@hf.co/x", False),
        ("https://hf.co./x", False), ("https://127.0.0.1/x", False), ("https://[::1]/x", False), ("hf.co/x", False),
        ("https://hf.co\\@evil.example/x", False), ("https://evil.example#.hf.co", False),
        ("https://evil.example?.hf.co", False), ("https://xn--hf-co.example/x", False),
    ],
)  # fmt: skip
def test_a_host_is_allowed_by_its_whole_name_over_tls(url: str, is_allowed: bool) -> None:
    hosts = Hosts(("huggingface.co", "*.huggingface.co", "hf.co", "*.hf.co"))

    assert hosts.allow(url) is is_allowed

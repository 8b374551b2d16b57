"""Files over TLS: from whom the certificate says, and how one server is trusted says nothing about another."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelyard.errors import UpstreamUnreachable
from modelyard.providers.node_address import Address
from modelyard.registry.plan import PlannedFile, PullPlan
from modelyard.registry.reference import Reference
from modelyard.registry.transfer import Source
from tests.guarantees.test_certificates import Identity, authority, identity
from tests.support.fake_hub import FakeHub
from tests.support.pulling import NAME, Planned, pulled, pulling, there

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
FILE, DATA = "tiny.gguf", random.Random(9).randbytes(300_000)


class Trusted(Planned):
    """Knows by which certificate the hub is known."""

    def __init__(self, hub: FakeHub, **trust: Any) -> None:
        super().__init__(hub)
        self._trust = trust

    async def plan(self, reference: Reference) -> PullPlan:
        plan = await super().plan(reference)
        return replace(plan, files=tuple(map(self._trusting, plan.files)))

    def _trusting(self, file: PlannedFile) -> PlannedFile:
        assert file.source.request is not None
        trust = Address.parse(self.hub.url, **self._trust)
        return replace(file, source=Source(replace(file.source.request, trust=trust)))


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    folder = tmp_path_factory.mktemp("certificates")
    return identity(folder, "right", authority(folder, "ours"))


@pytest.mark.parametrize("way", ["authority", "pinned"])
async def test_a_trusted_certificate_lets_a_file_through(way: str, right: Identity, tmp_path: Path) -> None:
    hub = FakeHub({FILE: DATA})
    hub.tls = right.serving()
    async with hub:
        trust = {"ca_file": right.authority} if way == "authority" else {"fingerprint": right.fingerprint}
        async with pulling(tmp_path / "store", hub, planner=Trusted(hub, **trust)) as pulls:
            await pulled(pulls)

    assert there(tmp_path / "store") == {NAME: {FILE: DATA}}


async def test_a_strange_certificate_does_not(right: Identity, tmp_path: Path) -> None:
    hub = FakeHub({FILE: DATA})
    hub.tls = right.serving()
    async with hub, pulling(tmp_path / "store", hub, attempts_max=1) as pulls:
        with pytest.raises(UpstreamUnreachable, match="certificate"):
            await pulled(pulls)

    assert hub.requests == []


async def test_what_is_trusted_of_the_hub_is_not_trusted_of_whom_it_sends_us_to(
    right: Identity, tmp_path: Path
) -> None:
    hub, other = FakeHub({FILE: DATA}), FakeHub({FILE: DATA})
    hub.tls = other.tls = right.serving()
    async with hub, other:
        hub.redirect = f"{other.url}/cdn/{{path}}"
        hosts = [other.url.removeprefix("https://")]
        planner = Trusted(hub, ca_file=right.authority)
        async with pulling(tmp_path / "store", hub, hosts=hosts, planner=planner, attempts_max=1) as pulls:
            with pytest.raises(UpstreamUnreachable):
                await pulled(pulls)

    assert (len(hub.requests), other.requests) == (1, [])

"""Nodes over TLS: a certificate that is not the pinned one, or not signed by the given authority, gets no prompt."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from modelyard.testing import FakeOllama, FakeOpenAI
from modelyard.testing.server import FakeServer
from tests.support.fleet import Fleet, fleet

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")
KEY = "sk-sesame-open-tls"
Kind = type[FakeOllama] | type[FakeOpenAI]


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate, its key, and who signed it."""

    certificate: Path
    key: Path
    authority: Path

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(self.certificate.read_text())).hexdigest()

    def serving(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=30)


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def authority(folder: Path, name: str) -> Path:
    certificate = folder / f"{name}.pem"
    openssl("req", "-x509", *NEW_KEY, "-days", "2", "-subj", f"/CN={name}", "-keyout", folder / f"{name}.key",
            "-out", certificate, "-addext", "basicConstraints=critical,CA:TRUE")  # fmt: skip
    return certificate


def identity(folder: Path, name: str, signed_by: Path, *, host: str = "IP:127.0.0.1", days: int = 2) -> Identity:
    wish, certificate, key = folder / f"{name}.csr", folder / f"{name}.pem", folder / f"{name}.key"
    openssl("req", *NEW_KEY, "-subj", f"/CN={name}", "-addext", f"subjectAltName={host}", "-keyout", key, "-out", wish)
    openssl("x509", "-req", "-in", wish, "-CA", signed_by, "-CAkey", signed_by.with_suffix(".key"), "-CAcreateserial",
            "-days", str(days), "-copy_extensions", "copy", "-out", certificate)  # fmt: skip
    return Identity(certificate, key, signed_by)


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    folder = tmp_path_factory.mktemp("certificates")
    ours, others = authority(folder, "ours"), authority(folder, "others")
    return {
        "right": identity(folder, "right", ours),
        "stranger": identity(folder, "stranger", others),
        "other-host": identity(folder, "other-host", ours, host="DNS:elsewhere.example"),
        "expired": identity(folder, "expired", ours, days=-1),
    }


@asynccontextmanager
async def showing(
    given: dict[str, tuple[Kind, Identity, dict[str, str]]], folder: Path
) -> AsyncIterator[tuple[dict[str, FakeServer], Fleet]]:
    """Nodes that show a certificate each, and a server of ours that is told for each whom to trust."""
    secret = folder / "key"
    secret.write_text(KEY)
    nodes: dict[str, FakeServer] = {}
    async with AsyncExitStack() as stack:
        listed = []
        for name, (kind, shown, trust) in given.items():
            node = nodes[name] = kind(["m"], key=KEY)
            node.tls = shown.serving()
            await stack.enter_async_context(node)
            dialect = "ollama" if kind is FakeOllama else "openai"
            listed.append(
                {"name": name, "kind": dialect, "url": node.url, "look_s": 1, "key": f"file:{secret}", **trust}
            )
        yield nodes, await stack.enter_async_context(fleet({}, {"nodes": listed}))


def trusting(way: str, one: Identity) -> dict[str, str]:
    ways = {"pinned": {"fingerprint": one.fingerprint}, "authority": {"ca_file": str(one.authority)}, "system": {}}
    return ways[way]


async def test_the_right_certificate_is_accepted(identities: dict[str, Identity], tmp_path: Path) -> None:
    right = identities["right"]
    given = {
        f"{way}-{kind.__name__.lower()}": (kind, right, trusting(way, right))
        for way in ("pinned", "authority") for kind in (FakeOllama, FakeOpenAI)
    }  # fmt: skip
    async with showing(given, tmp_path) as (nodes, yard):
        answers = [await yard.ask(f"m@{name}", stream=stream) for name in nodes for stream in (True, False)]

    assert all(one.is_whole for one in answers)
    assert {len(node.questions) for node in nodes.values()} == {2}


async def test_a_wrong_certificate_gets_no_prompt_and_no_key(identities: dict[str, Identity], tmp_path: Path) -> None:
    right = identities["right"]
    wrong = [
        ("pinned", "stranger"), ("pinned", "other-host"), ("authority", "stranger"), ("authority", "other-host"),
        ("authority", "expired"), ("system", "right"),
    ]  # fmt: skip
    given = {
        f"{way}-{shown}-{kind.__name__.lower()}": (kind, identities[shown], trusting(way, right))
        for way, shown in wrong for kind in (FakeOllama, FakeOpenAI)
    }  # fmt: skip
    async with showing(given, tmp_path) as (nodes, yard):
        await asyncio.gather(*(yard.until(name, health="out") for name in nodes))
        reasons = {(await yard.node(name))["reason"] for name in nodes}
        answers = [await yard.ask(f"m@{name}") for name in nodes]
        problems = {
            one["node"]: one["problem"] for one in yard.server.log_events()
            if one["event"] == "node.health" and one["problem"]
        }  # fmt: skip
        log = yard.server.text()

    assert all(reason.startswith("looks fail: connect (") for reason in reasons)
    assert not any(one.is_whole for one in answers)
    assert {name: node.requests for name, node in nodes.items() if node.requests} == {}  # none: each carries the key
    for name, problem in problems.items():
        why = "not the one that is pinned" if name.startswith("pinned") else "certificate verify failed"
        assert why in problem, name
    assert problems.keys() == nodes.keys()
    assert KEY not in log


async def test_a_node_that_shows_another_certificate_than_before_is_left(
    identities: dict[str, Identity], tmp_path: Path
) -> None:
    right = identities["right"]
    async with showing({"far": (FakeOllama, right, trusting("pinned", right))}, tmp_path) as (nodes, yard):
        node = nodes["far"]
        before = await yard.ask()
        await node.stop()
        asked = len(node.requests)
        node.tls = identities["stranger"].serving()
        await node.start()
        after = [await yard.ask() for _ in range(3)]
        await yard.until("far", health="out")

    assert before.is_whole
    assert {one.code for one in after} <= {"upstream_unreachable", "no_node_available"}
    assert node.requests[asked:] == []

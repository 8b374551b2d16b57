"""`modelyard pull` and `rm` where no server runs, and how far a pull is, for people."""

from __future__ import annotations

import socket
from hashlib import sha256
from pathlib import Path

import pytest

from modelyard.cli.pull_progress import ProgressLine, Rate
from modelyard.cli.session import Session
from modelyard.cli.terminal import Terminal
from modelyard.models.disk import Disk
from modelyard.models.manifest import Manifest, StoredFile
from modelyard.models.partial import Partial, Wanted
from modelyard.models.store import Store

from .conftest import run


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """A store with one model and one broken-off file, and no server at the default address."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 11435)) == 0:
            pytest.skip("a server runs at the default address")
    monkeypatch.setenv("MODELYARD_PULL__STORE", str(tmp_path / "store"))
    store = Store(tmp_path / "store")
    store.prepare()
    for size, is_whole in ((100, True), (50, False)):
        data = bytes(range(size))
        wanted = Wanted(size, sha256(data).hexdigest(), label=f"hf:org/of-{size}")
        partial = Partial(store.partials, Disk(), wanted)
        partial.open()
        partial.append(data if is_whole else data[:20])
        if is_whole:
            assert partial.finish()
            file = StoredFile("m.gguf", partial.digest, size)
            store.publish(Manifest("org/m", (file,)), {partial.digest: partial.done})
        partial.close()
    return store


def test_a_model_is_removed_without_a_server(store: Store) -> None:
    removed, again = run("rm", "Org/M:latest"), run("rm", "org/m")

    assert (removed.exit_code, again.exit_code) == (0, 5), removed.output
    assert store.names() == ()
    assert not list(store.blobs.iterdir())


def test_what_is_partly_here_is_listed_and_removed(store: Store) -> None:
    listed = run("pull", "--partials", "-o", "plain")
    unknown = run("rm", "--partials", "nosuch")
    removed = run("rm", "--partials", "sha256-")
    empty = run("pull", "--partials")

    assert "hf:org/of-50" in listed.stdout
    assert "broken off" in listed.stdout
    assert (unknown.exit_code, "begins with nosuch" in unknown.output) == (5, True)
    assert "1 file is removed" in removed.output
    assert "Nothing is partly here." in empty.output
    assert store.names() == ("org/m",)


@pytest.mark.parametrize("words", [("pull",), ("rm",)])
def test_a_name_is_asked_for(words: tuple[str, ...]) -> None:
    result = run(*words)

    assert result.exit_code == 2
    assert "Which model?" in result.output


@pytest.mark.parametrize("name", ["hf:", "hf:a", "hf:../x", "hf:a/b:../../x", "ollama:../x", "hf:a/b@../x"])
def test_what_is_no_reference_is_refused_at_once(name: str, store: Store) -> None:
    result = run("pull", name)

    assert result.exit_code == 1
    assert "is not a model" in result.output


def test_a_plain_name_needs_a_server(store: Store) -> None:
    result = run("pull", "llama3.1:8b@studio")

    assert result.exit_code == 4
    assert "modelyard serve" in result.output


def test_progress_is_told_now_and_then_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    line = ProgressLine(Session(Terminal("en", {}), {}))
    for at in range(12):
        line.show({"status": "pulling ab", "digest": "sha256:ab", "total": 1200, "completed": 100 * at}, now=float(at))

    told = capsys.readouterr().err.splitlines()
    assert told == ["pulling ab: 0 % of 1.2 KiB", "pulling ab: 83 % of 1.2 KiB, 100 B/s, about 2.0 s"]


def test_a_rate_forgets_what_is_long_ago_and_what_began_anew() -> None:
    rate = Rate()
    for at, count in ((0.0, 0), (1.0, 1000), (10.0, 1100), (11.0, 1200)):
        rate.add(count, at)
    slow = rate.per_s
    rate.add(0, 12.0)

    assert slow == pytest.approx(100.0, rel=0.2)
    assert rate.per_s == 0.0

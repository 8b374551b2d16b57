"""The store: what it lists, what it shares, what it refuses to have for a name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from modelyard import demo
from modelyard.errors import BadRequest, ModelFileError, ModelNotFound, YardError
from modelyard.models.manifest import Manifest, StoredFile, canonical, check_files, decode, encode, file_name, name_of
from modelyard.models.store import Store, digest_of
from modelyard.models.stored import stored_models
from modelyard.registry.reference import HubReference, NodeReference, parse
from modelyard.types.model import Capability
from tests.guarantees.test_paths import BAIT, names


def put(store: Store, name: str, *files: tuple[str, Path], aliases: tuple[str, ...] = ()) -> Manifest:
    """A model of these files, which stay where they are."""
    store.prepare()
    arrived: dict[str, Path] = {}
    listed: list[StoredFile] = []
    for path, source in files:
        waiting = store.partials / f"{len(listed)}-{source.name}.done"
        shutil.copy(source, waiting)
        listed.append(StoredFile(path, digest_of(source), source.stat().st_size))
        arrived[listed[-1].digest] = waiting
    manifest = Manifest(name, tuple(listed), "test", aliases=aliases, pulled_at=1.0)
    store.publish(manifest, arrived)
    return manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


GGUF = demo.gguf_path()
FOLDER = GGUF.parent / "yardling-hf"


def test_a_gguf_file_and_a_folder_are_models_of_the_catalog(store: Store) -> None:
    put(store, "org/one:q4", ("one-q4.gguf", GGUF), aliases=("one", "both"))
    put(
        store, "org/two", *((path.name, path) for path in sorted(FOLDER.iterdir()) if path.is_file()), aliases=("both",)
    )

    one, two = stored_models(store)
    assert (one.name, one.format, one.problem, one.aliases) == ("org/one:q4", "gguf", "", ("one",))
    assert (two.name, two.format, two.problem, two.aliases) == ("org/two", "safetensors", "", ())
    assert one.is_stored
    assert Capability.COMPLETION in one.capabilities & two.capabilities


def test_a_damaged_manifest_is_listed_with_what_is_wrong(store: Store) -> None:
    put(store, "fine", ("a.gguf", GGUF))
    (store.root / "manifests" / "broken.json").write_bytes(b"\0\0")

    broken, fine = stored_models(store)
    assert (broken.name, fine.problem) == ("broken", "")
    assert "manifest" in broken.problem
    with pytest.raises(ModelFileError):
        store.manifest("broken")


def test_a_file_that_somebody_cut_is_a_problem_of_its_model(store: Store) -> None:
    manifest = put(store, "cut", ("a.gguf", GGUF))
    path = store.folder_of(manifest) / "a.gguf"
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.truncate(1000)

    (model,) = stored_models(store)
    assert "1000 bytes" in model.problem
    assert store.verify("cut") == ("a.gguf",)


def test_a_copy_shares_the_bytes_and_outlives_the_first(store: Store) -> None:
    manifest = put(store, "first", ("a.gguf", GGUF))
    copy = store.copy("first", "Second:Latest")
    same = (store.folder_of(manifest) / "a.gguf").samefile(store.folder_of(copy) / "a.gguf")
    with pytest.raises(BadRequest):
        store.copy("first", "second")

    store.remove("first")

    assert same
    assert (store.names(), store.verify("second")) == (("second",), ())
    with pytest.raises(ModelNotFound):
        store.remove("first")


def test_a_folder_that_somebody_removed_comes_back(store: Store) -> None:
    put(store, "first", ("a.gguf", GGUF))
    shutil.rmtree(store.root / "models")
    (store.root / "models").mkdir()

    assert stored_models(store)[0].problem
    store.recover()
    assert stored_models(store)[0].problem == ""


def test_links_in_the_store_lead_nowhere(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.gguf").write_bytes(b"GGUF")
    manifest = put(store, "first", ("a.gguf", GGUF))
    (store.root / "manifests" / "linked.json").symlink_to("/etc/passwd")
    (store.folder_of(manifest).parent / "old").symlink_to(outside, target_is_directory=True)
    (store.root / "models" / "stray").symlink_to(outside, target_is_directory=True)

    assert store.manifests()[1].keys() == {"linked"}
    store.recover()
    store.remove("linked")
    store.remove("first")

    assert (outside / "kept.gguf").read_bytes() == b"GGUF"
    assert Path("/etc/passwd").stat().st_size > 0


def test_nothing_anybody_writes_is_a_path_out_of_the_store(store: Store, tmp_path: Path) -> None:
    store.prepare()
    put(store, "own", ("a.gguf", GGUF))
    before = set(tmp_path.rglob("*"))
    corpus = names(tmp_path / f"{BAIT}-outside")
    kept = 0
    for name in corpus:
        for act in (store.manifest, store.remove, store.verify):
            with pytest.raises((BadRequest, ModelNotFound)):
                act(name)
        try:
            store.copy("own", name)
        except YardError:
            continue
        kept += 1
        store.remove(name)

    assert len(corpus) >= 300
    assert set(tmp_path.rglob("*")) == before, f"{kept} of them were names"


def test_every_name_has_one_file_and_every_file_one_name() -> None:
    for name in names(Path("/outside")):
        try:
            known = canonical(name)
        except ValueError:
            continue
        assert name_of(file_name(known)) == known
        assert "/" not in file_name(known)


@pytest.mark.parametrize("start", ["hf:", "hf.co/", "hf:a/b:", "hf:a/b@", "ollama:", "ollama:x@"])
def test_no_reference_leads_out_of_a_registry(start: str) -> None:
    for name in names(Path("/outside")):
        try:
            found = parse(start + name)
        except ValueError:
            continue
        match found:
            case HubReference(repository, what, revision):
                parts = [*repository.split("/"), *what.split("/"), *revision.split("/")]
                assert repository.count("/") == 1
            case NodeReference(model, node):
                parts = [*model.split("/"), node]
            case None:
                continue
        assert not {"..", "."} & set(parts), name
        assert not set("\\\0%;#?\n ") & set("".join(parts)), name


@pytest.mark.parametrize(
    "files",
    [
        [], [("../a", "0" * 64, 1)], [("/a", "0" * 64, 1)], [("a", "0" * 63, 1)], [("a", "0" * 64, -1)],
        [("a", "0" * 64, 2**60)], [("a", "0" * 64, 1), ("A", "1" * 64, 1)], [("a", "0" * 64, 1), ("a/b", "1" * 64, 1)],
        [("a\0", "0" * 64, 1)], [("a/../b", "0" * 64, 1)], [("a" * 300, "0" * 64, 1)], [("a/b/c/d/e", "0" * 64, 1)],
        [(f"f{number}", "0" * 64, 1) for number in range(1001)],
    ],
)  # fmt: skip
def test_a_manifest_that_would_do_harm_is_none(files: list[tuple[str, str, int]]) -> None:
    listed = tuple(StoredFile(path, f"sha256:{digest}", size) for path, digest, size in files)

    with pytest.raises(ValueError, match=r"it has|path|digest|size|folder"):
        check_files(listed)
    with pytest.raises(ValueError, match=r"it has|path|digest|size|folder"):
        decode(encode(Manifest("x", listed)))


def test_a_manifest_comes_back_as_it_went() -> None:
    manifest = Manifest(
        "org/x:q4", (StoredFile("a b.gguf", f"sha256:{'0' * 64}", 5),), "hf:org/x", "c0ffee", ("x",), 2.5
    )

    assert decode(encode(manifest)) == manifest

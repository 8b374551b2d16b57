"""The models folder of an Ollama server on this machine: read, copied, compared; nothing outside of it is opened."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from modelyard import demo
from modelyard.clock import SystemClock
from modelyard.config.node_settings import NodeSettings
from modelyard.config.pull_settings import PullSettings
from modelyard.errors import BadRequest, DigestMismatch, ModelFileError, NodeNotFound, NotFound, YardError
from modelyard.models.store import Store
from modelyard.models.stored import opened_store, stored_models
from modelyard.registry.reference import NodeReference
from modelyard.types.model import Capability
from modelyard.wiring.pulls import Servers, pulls

WEIGHTS = "application/vnd.ollama.image.model"
DATA = demo.gguf_path().read_bytes()


def ollama(folder: Path, model: str = "library/tiny/latest", data: bytes = DATA, **layer: object) -> None:
    """A models folder as Ollama makes it."""
    digest = hashlib.sha256(data).hexdigest()
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    (folder / "blobs" / f"sha256-{digest}").write_bytes(data)
    path = folder / "manifests" / "registry.ollama.ai" / model
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = [
        {"mediaType": WEIGHTS, "digest": f"sha256:{digest}", "size": len(data), **layer},
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "0" * 64, "size": 5},
    ]
    path.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))


async def pulled(tmp_path: Path, reference: NodeReference, *nodes: NodeSettings) -> Store:
    environment = {**os.environ, "OLLAMA_MODELS": str(tmp_path / "ollama")}
    settings = PullSettings(store=tmp_path / "store")
    store = opened_store(settings.store or tmp_path)

    async def published() -> None:
        pass

    servers = Servers(lambda: nodes, environment)
    async with pulls(settings, store, environment, SystemClock(), nodes=servers.plan, published=published) as own:
        async for _step in own.pull(reference):
            pass
    return store


@pytest.mark.parametrize("node", ["", "studio"])
async def test_a_model_is_copied_under_its_own_name(node: str, tmp_path: Path) -> None:
    ollama(tmp_path / "ollama")
    studio = NodeSettings(name="studio", url="http://127.0.0.1:11434")

    store = await pulled(tmp_path, NodeReference("tiny", node), studio)

    (model,) = stored_models(store)
    assert (model.name, model.problem, model.files[0].name) == ("tiny", "", "tiny.gguf")
    assert Capability.COMPLETION in model.capabilities
    blobs = list((tmp_path / "ollama").rglob("sha256-*"))
    assert [path.stat().st_nlink for path in blobs] == [1], "a copy: theirs stays theirs"


async def test_a_blob_that_is_not_what_its_name_says_is_not_taken(tmp_path: Path) -> None:
    ollama(tmp_path / "ollama")
    (blob,) = (tmp_path / "ollama" / "blobs").iterdir()
    blob.write_bytes(DATA[:1000] + b"!" + DATA[1001:])

    with pytest.raises(DigestMismatch):
        await pulled(tmp_path, NodeReference("tiny"))

    assert Store(tmp_path / "store").names() == ()


@pytest.mark.parametrize(
    "digest", ["sha256:../../../../etc/passwd", "sha256:" + "0" * 63, "md5:" + "0" * 64, "/etc/passwd"]
)
async def test_a_digest_is_no_path(digest: str, tmp_path: Path) -> None:
    ollama(tmp_path / "ollama", digest=digest)

    with pytest.raises(ModelFileError):
        await pulled(tmp_path, NodeReference("tiny"))


async def test_a_manifest_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    ollama(tmp_path / "ollama")
    (tmp_path / "ollama/manifests/registry.ollama.ai/library/tiny/evil").symlink_to("/etc/passwd")

    with pytest.raises(YardError):
        await pulled(tmp_path, NodeReference("tiny:evil"))


async def test_who_cannot_give_files_is_told_of_with_a_way_out(tmp_path: Path) -> None:
    ollama(tmp_path / "ollama")
    far = NodeSettings(name="far", url="http://10.1.2.3:11434")

    with pytest.raises(BadRequest, match="hands out none") as failure:
        await pulled(tmp_path, NodeReference("tiny", "far"), far)
    with pytest.raises(NodeNotFound):
        await pulled(tmp_path, NodeReference("tiny", "nobody"), far)
    with pytest.raises(NotFound):
        await pulled(tmp_path, NodeReference("other"))

    assert any("modelyard pull tiny@far" in hint for hint in failure.value.suggestions)

"""The models folder of an Ollama server on this machine as a registry: its manifests say what a model is made of.

Read only. What is taken is copied and verified by digest; nothing that a manifest names is opened but a blob of that
folder, named by 64 hexadecimal digits. An Ollama server has no way to hand out files over the network: then the node
can only be told to fetch the model itself.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from modelyard.errors import N_, BadRequest, ModelFileError, NotFound
from modelyard.models.manifest import FILE_BYTES_MAX, MANIFEST_BYTES_MAX, canonical
from modelyard.models.partial import Wanted
from modelyard.types.model import ModelRef

from .plan import PlannedFile, PullPlan
from .reference import NodeReference
from .transfer import Source

REGISTRY, LIBRARY = "registry.ollama.ai", "library"
SYSTEM_FOLDERS = (Path("/usr/share/ollama/.ollama/models"), Path("/var/lib/ollama/models"))
_KINDS = {
    "application/vnd.ollama.image.model": "{stem}.gguf",
    "application/vnd.ollama.image.projector": "mmproj-{stem}.gguf",
}
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class _Layer(msgspec.Struct):
    mediaType: Annotated[str, Meta(max_length=200)]  # noqa: N815 - Ollama's word
    digest: Annotated[str, Meta(max_length=80)]
    size: Annotated[int, Meta(ge=0, le=FILE_BYTES_MAX)]


class _Image(msgspec.Struct):
    layers: Annotated[list[_Layer], Meta(max_length=64)]


def ollama_folders(environment: Mapping[str, str], home: Path) -> tuple[Path, ...]:
    """Where an Ollama server of this machine may keep its models; OLLAMA_MODELS alone, if it is set."""
    if environment.get("OLLAMA_MODELS"):
        return (Path(environment["OLLAMA_MODELS"]),)
    return (home / ".ollama" / "models", *SYSTEM_FOLDERS)


class OllamaFolder:
    """The folders of this machine, and which nodes are on it."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    async def plan(self, reference: NodeReference) -> PullPlan:
        """What to copy for this model."""
        return await asyncio.to_thread(self._planned, reference)

    def _planned(self, reference: NodeReference) -> PullPlan:
        folder, image = self._image(reference)
        stem = re.sub(r"[^\w.+-]", "-", canonical(reference.model), flags=re.ASCII)
        files = tuple(
            PlannedFile(
                _KINDS[layer.mediaType].format(stem=stem),
                Wanted(layer.size, digest[1], label=f"{reference.source} {layer.digest[:19]}"),
                Source(local=folder / "blobs" / f"sha256-{digest[1]}"),
            )
            for layer in image.layers
            if layer.mediaType in _KINDS and (digest := _DIGEST.fullmatch(layer.digest))
        )
        if not any(file.path == f"{stem}.gguf" for file in files):
            problem = N_("Ollama's manifest names no model file")
            raise ModelFileError(path=reference.source, problem=problem, hints=())
        unique = {file.path: file for file in files}  # of several projectors one is used
        return PullPlan(canonical(reference.model), (), reference.source, "", tuple(unique.values()))

    def _image(self, reference: NodeReference) -> tuple[Path, _Image]:
        below = manifest_path(reference.model)
        readable = False
        for folder in self._folders:
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                os.listdir(folder / "manifests")
                readable = True
                path = folder / "manifests" / below
                if path.is_symlink():
                    continue
                with path.open("rb") as file:
                    raw = file.read(MANIFEST_BYTES_MAX + 1)
                try:
                    return folder, msgspec.json.decode(raw, type=_Image)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
                    raise ModelFileError(
                        path=reference.source, problem=N_("Ollama's manifest cannot be read"), hints=()
                    ) from problem
        if not readable:
            raise BadRequest(
                N_("This machine has no models folder of an Ollama server that we may read."),
                hints=(N_("Set OLLAMA_MODELS to it, where it is elsewhere."),), param="model",
            )  # fmt: skip
        raise NotFound(N_("Ollama on this machine has no {model}."), hints=(), model=reference.model)


def manifest_path(model: str) -> Path:
    """Where Ollama keeps the manifest of a model, below its manifests.

    >>> manifest_path("llama3.1:8b").as_posix(), manifest_path("hf.co/a/b:q").as_posix()
    ('registry.ollama.ai/library/llama3.1/8b', 'hf.co/a/b/q')
    """
    ref = ModelRef.parse(model)
    parts = ref.name.split("/")
    if len(parts) == 1:
        parts = [REGISTRY, LIBRARY, *parts]
    elif len(parts) == 2:
        parts = [REGISTRY, *parts]
    return Path(*parts, ref.tag)

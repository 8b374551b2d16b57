"""Which files of a repository are taken, and what the model is then called. Pure.

Of GGUF files one quantisation, with all its parts and the projector beside it; else the safetensors and what describes
them. Never pickled weights, never program code, whatever is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from modelyard.errors import N_, BadRequest, ModelFileError, said
from modelyard.models.manifest import checked_path
from modelyard.models.names import base_and_tag, plain

from .reference import HubReference

# Without a wish: the first of these that there is. The best for most machines, as measured by many people.
PREFERRED = (
    "q4_k_m",
    "q4_k_s",
    "q5_k_m",
    "q4_0",
    "q8_0",
    "q6_k",
    "mxfp4",
    "mxfp4_moe",
    "iq4_xs",
    "q3_k_m",
    "f16",
    "bf16",
)
PROJECTORS = ("f16", "bf16", "q8_0", "f32")
DESCRIBING = (".json", ".txt", ".model", ".jinja", ".tiktoken")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
LISTED_COUNT_MAX = 30
_PARTS = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}")
_MODEL = re.compile(r"model(?:-\d{5}-of-\d{5})?\.safetensors")
_MODULE = re.compile(r"\d+_[A-Za-z]+")  # a folder of sentence-transformers


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file as a hub lists it."""

    path: str
    size_bytes: int
    sha256: str = ""
    git_sha1: str = ""
    local: str = ""  # where this machine has it already, by the hub's own cache


@dataclass(frozen=True, slots=True)
class Chosen:
    """What to take, and what to call it."""

    name: str
    aliases: tuple[str, ...]
    files: tuple[HubFile, ...]


def choose(reference: HubReference, files: Sequence[HubFile]) -> Chosen:
    """Raises `BadRequest` where a wish cannot be met, `ModelFileError` where nothing can be taken."""
    safe = [file for file in files if _is_safe(file.path)]
    sets = _gguf_sets(safe)
    if sets:
        tag, parts = _one_set(reference, sets)
        projector = _projector(safe, parts[0].path)
        return _named(reference, tag, (*parts, *projector))
    if reference.what:
        raise BadRequest(
            N_("{repository} has no GGUF files, so nothing to choose from by {what}."),
            hints=(N_("Leave out what stands after the colon, and its safetensors are taken."),),
            repository=reference.repository, what=reference.what,
        )  # fmt: skip
    return _named(reference, "", _safetensors(reference, safe, files))


def _is_safe(path: str) -> bool:
    try:
        checked_path(path)
    except ValueError:
        return False
    return not path.lower().endswith((".py", *PICKLED))


# ---- GGUF ----


def _gguf_sets(files: Sequence[HubFile]) -> dict[str, list[HubFile]]:
    """GGUF files by what is one model: a file, or the parts of one."""
    sets: dict[str, list[HubFile]] = {}
    for file in sorted(files, key=lambda one: one.path):
        path = PurePosixPath(file.path)
        if path.suffix.lower() != ".gguf" or _is_projector(file.path) or "imatrix" in path.stem.lower():
            continue
        match = _PARTS.fullmatch(path.stem)
        sets.setdefault(str(path.with_name(match["stem"] if match else path.stem)), []).append(file)
    return sets


def _one_set(reference: HubReference, sets: dict[str, list[HubFile]]) -> tuple[str, list[HubFile]]:
    tags = {key: _tag(key) for key in sets}
    wanted = reference.what.lower()
    if not wanted:
        for tag in PREFERRED:
            for key in sorted(sets, key=len):
                if tags[key] == tag:
                    return tag, sets[key]
        if len(sets) == 1:
            key = next(iter(sets))
            return tags[key], sets[key]
        raise _which(reference, tags)
    if wanted.endswith(".gguf"):
        for key, parts in sets.items():
            if any(part.path.lower() == wanted or part.path.lower().endswith(f"/{wanted}") for part in parts):
                return tags[key] or plain(PurePosixPath(key).name), parts
        raise _which(reference, tags)
    plainly = wanted.replace("-", "_")
    exact = [key for key in sorted(sets, key=len) if tags[key].replace("-", "_") == plainly]
    near = [key for key in sorted(sets, key=len) if f"_{plainly}_" in f"_{re.sub(r'[-./]', '_', key.lower())}_"]
    for key in (*exact, *near):
        return wanted, sets[key]
    raise _which(reference, tags)


def _tag(key: str) -> str:
    """The quantisation in a file's name, else in its folder's."""
    path = PurePosixPath(key)
    for text in (path.name, *(f"x-{part}" for part in reversed(path.parts[:-1]))):
        tag = base_and_tag(plain(text))[1]
        if tag:
            return tag
    return ""


def _which(reference: HubReference, tags: dict[str, str]) -> BadRequest:
    there = sorted({tag or f"{PurePosixPath(key).name}.gguf" for key, tag in tags.items()})
    return BadRequest(
        N_("Which file of {repository}? It has {there}."),
        hints=(N_("Say which: `modelyard pull hf:{repository}:{first}`."),), param="model",
        repository=reference.repository, there=", ".join(there[:LISTED_COUNT_MAX]), first=there[0],
    )  # fmt: skip


def _is_projector(path: str) -> bool:
    return PurePosixPath(path).suffix.lower() == ".gguf" and "mmproj" in PurePosixPath(path).stem.lower()


def _projector(files: Sequence[HubFile], beside: str) -> tuple[HubFile, ...]:
    """What turns images into what the model reads: from its own folder, else from the top."""
    found = [file for file in files if _is_projector(file.path)]
    own = [file for file in found if PurePosixPath(file.path).parent == PurePosixPath(beside).parent]
    for tag in (*PROJECTORS, ""):
        for file in own or found:
            if (
                not tag
                or tag in re.split(r"[-_.]", file.path.lower().replace("q8_0", "q8-0"))
                or (tag == "q8_0" and "q8_0" in file.path.lower())
            ):
                return (file,)
    return ()


# ---- safetensors ----


def _safetensors(reference: HubReference, safe: Sequence[HubFile], files: Sequence[HubFile]) -> tuple[HubFile, ...]:
    top = [file for file in safe if file.path.endswith(".safetensors") and "/" not in file.path]
    weights = [file for file in top if _MODEL.fullmatch(file.path)] or top
    if any(file.path == "model.safetensors" for file in weights):
        weights = [file for file in weights if file.path == "model.safetensors"]
    if not weights:
        pickled = [file.path for file in files if file.path.lower().endswith(PICKLED)]
        problem = N_("it has neither GGUF files nor safetensors")
        if pickled:
            file = ascii(pickled[0][:60])
            problem = said("its weights are pickled ({file}), which may run code when read", file=file)
        raise ModelFileError(
            path=reference.source, problem=problem,
            hints=(N_("Look for a repository of the same model with GGUF or safetensors files."),),
        )  # fmt: skip
    if not any(file.path == "config.json" for file in safe):
        raise ModelFileError(path=reference.source, problem=N_("it has no config.json"), hints=())
    return (*(file for file in safe if _describes(file.path)), *weights)


def _describes(path: str) -> bool:
    folder, _slash, name = path.rpartition("/")
    if folder:
        return bool(_MODULE.fullmatch(folder)) and name.endswith((*DESCRIBING, ".safetensors"))
    return name.endswith(DESCRIBING) and not name.endswith(".onnx.json")


# ---- names ----


def _named(reference: HubReference, tag: str, files: tuple[HubFile, ...]) -> Chosen:
    """The model is called after its repository, and the quantisation is its tag.

    The shorter names are its own only as long as no other model wants them.
    """
    repository = reference.repository.lower()
    short = re.sub(r"[-_.]gguf$", "", repository)
    names = [short, repository, short.rpartition("/")[2], f"hf.co/{repository}"]
    ending = f":{tag.lower()}" if tag else ""
    name = f"{short}{ending}"
    aliases = [f"{each}{ending}" for each in names] + (names if tag else [])
    return Chosen(name, tuple(alias for alias in dict.fromkeys(aliases) if alias != name), files)

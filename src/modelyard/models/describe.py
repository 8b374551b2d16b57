"""From files and their header to a `Model`: what it is called inside, how it is packed, what it can do.

A file that cannot be read becomes a model with a problem: it is listed, so that people see why it is not served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from modelyard.errors import N_, ModelFileError
from modelyard.types.facts import ModelFacts
from modelyard.types.model import Capability, Model

from .facts import ENCODERS, facts_of
from .gguf import read_header, read_split_header
from .header import GgufHeader

ENGINE = "llamacpp"
POOLING_NONE, POOLING_RANK = 0, 4
RANK_HEADS = ("cls.weight", "cls.output.weight")  # without one, an engine's scores are null
NOT_SERVED = {"adapter": "it is a LoRA adapter", "imatrix": "it is an importance matrix", "mmproj": "it is a projector"}
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
    40: "Q1_0",
}  # fmt: skip
TITLE_CHARS_MAX = 120


def describe(name: str, files: Sequence[Path], *, projector: Path | None = None, problem: str = "") -> Model:
    """The model these files are, the first one first. `problem` is one that is known already."""
    size_bytes, modified_at, stamp = 0, 0.0, hashlib.sha256()
    try:
        for path in [*files, *([projector] if projector else [])]:
            about = path.stat()
            size_bytes += about.st_size
            modified_at = max(modified_at, about.st_mtime)
            stamp.update(f"{path.name}\0{about.st_size}\0{about.st_mtime_ns}\0".encode(errors="surrogateescape"))
        header = read_header(files[0]) if len(files) == 1 else read_split_header(files)
        problem = problem or unservable(header)
        projector_bytes = projector.stat().st_size if projector else 0
        facts = None if problem else facts_of(header, projector_bytes=projector_bytes)
    except ModelFileError as damage:
        header, facts, problem = None, None, problem or str(damage.fields["problem"])
    except OSError as failure:
        header, facts, problem = None, None, problem or f"cannot be read: {failure.strerror or failure}"
    except ValueError as failure:
        header, facts, problem = None, None, problem or str(failure)
    stamp.update(header.digest.encode() if header else problem.encode(errors="replace"))
    common = Model(
        name=name, engine=ENGINE, files=tuple(files), size_bytes=size_bytes, modified_at=modified_at, format="gguf",
        identity=stamp.hexdigest(), problem=problem,
        metadata={"projector": str(projector)} if projector else {},
    )  # fmt: skip
    return _with_header(common, header, facts, has_projector=projector is not None) if header else common


def kind_of(path: Path) -> str:
    """`model`, `mmproj`, or another kind the header names; `model` where it cannot be read, so that it is listed."""
    try:
        header = read_header(path)
    except ModelFileError:
        return "model"
    if header.text("general.architecture") == "clip":
        return "mmproj"
    return header.text("general.type") or "model"


def unservable(header: GgufHeader) -> str:
    """Why a sound file is no model to serve, or an empty text."""
    kind = header.text("general.type")
    if kind in NOT_SERVED:
        return NOT_SERVED[kind]
    if not header.tensors:
        return N_("it has no weights")
    architecture = header.text("general.architecture")
    if header.count(f"{architecture}.pooling_type") == POOLING_RANK and not _has_rank_head(header):
        return N_("it says that it ranks, and has no head for that")
    return "" if architecture else N_("its header names no architecture")


def capabilities_of(header: GgufHeader, *, has_projector: bool = False) -> frozenset[Capability]:
    """What the header says the model can do."""
    architecture = header.text("general.architecture")
    pooling = header.count(f"{architecture}.pooling_type")
    if pooling == POOLING_RANK or _has_rank_head(header):
        return frozenset({Capability.RERANK})
    if architecture in ENCODERS or (pooling is not None and pooling != POOLING_NONE):
        return frozenset({Capability.EMBED})
    able = {Capability.COMPLETION}
    template = header.text("tokenizer.chat_template")
    if template or "tokenizer.chat_template" in header.values:
        able.add(Capability.CHAT)
    if "tools" in template:
        able.add(Capability.TOOLS)
    if has_projector:
        able.add(Capability.IMAGES)
    return frozenset(able)


def _has_rank_head(header: GgufHeader) -> bool:
    return any(tensor.name in RANK_HEADS for tensor in header.tensors)


def _with_header(common: Model, header: GgufHeader, facts: ModelFacts | None, *, has_projector: bool) -> Model:
    title = header.text("general.name")[:TITLE_CHARS_MAX]
    metadata = {**common.metadata, **({"title": title} if title else {})}
    return Model(
        name=common.name, engine=common.engine, files=common.files, size_bytes=common.size_bytes,
        modified_at=common.modified_at, format=common.format, identity=common.identity, problem=common.problem,
        architecture=header.text("general.architecture"),
        parameter_count=sum(tensor.weight_count for tensor in header.tensors),
        quantization=_quantization(header),
        context_length=facts.context_length or None if facts else None,
        capabilities=capabilities_of(header, has_projector=has_projector),
        facts=facts, metadata=metadata,
    )  # fmt: skip


def _quantization(header: GgufHeader) -> str:
    """The file's own word for it, else the type that holds most of the weights."""
    stated = FILE_TYPES.get(header.count("general.file_type") or 0) if "general.file_type" in header.values else None
    if stated:
        return stated
    held: dict[str, int] = {}
    for tensor in header.tensors:
        held[tensor.type.name] = held.get(tensor.type.name, 0) + tensor.size_bytes
    return max(held, key=held.__getitem__, default="")

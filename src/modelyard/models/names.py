"""What a found model is called: its canonical name and its other names, unique over a scan. Pure.

    Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf
        name     qwen2.5-0.5b-instruct-q4_k_m
        aliases  qwen2.5-0.5b-instruct:q4_k_m, qwen2.5-0.5b-instruct, qwen2.5-0.5b-instruct-gguf

An alias that two models could claim belongs to none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

NAME_PART_CHARS_MAX = 120

_QUANTIZATION = re.compile(
    r"(?P<base>.+?)[-_.](?P<tag>(?:ud-)?(?:i?q\d[\w]*|tq\d_\d|f16|f32|bf16|fp16|fp32|mxfp4(?:_moe)?|nvfp4))"
)
_GENERIC = re.compile(r"(?:ggml-)?model(?:[-_.].*)?|ggml|weights|pytorch_model")
_NOT_IN_NAMES = re.compile(r"[^\w.+-]+")
_HUB_FOLDER = re.compile(r"models--(?P<org>[^/]+?)--(?P<repository>[^/]+)")


@dataclass(frozen=True, slots=True)
class Found:
    """Files that are one model, before their header is read."""

    stem: str
    files: tuple[Path, ...]
    top: Path  # the scanned folder
    projector: Path | None = None
    problem: str = ""
    is_folder: bool = False  # its first file stands for the whole folder
    name: str = ""
    aliases: tuple[str, ...] = ()


def named(found: Iterable[Found]) -> list[Found]:
    """Give every model a name of its own, and the aliases nobody else claims."""
    models = sorted(found, key=lambda one: one.files)
    alone = Counter(one.files[0].parent for one in models)
    short = [_short_name(one) for one in models]
    clashing = {name for name, count in Counter(short).items() if count > 1}
    names = _unique(
        [_long_name(one, name) if name in clashing else name for one, name in zip(models, short, strict=True)]
    )
    wished = [
        _wished_aliases(one, name, is_alone=alone[one.files[0].parent] == 1)
        for one, name in zip(models, names, strict=True)
    ]
    claims = Counter(alias for aliases in wished for alias in aliases)
    taken = set(names)
    return [
        replace(one, name=name, aliases=tuple(a for a in aliases if claims[a] == 1 and a not in taken))
        for one, name, aliases in zip(models, names, wished, strict=True)
    ]


def base_and_tag(name: str) -> tuple[str, str]:
    """Split a quantisation off a name.

    >>> base_and_tag("qwen2.5-0.5b-instruct-q4_k_m"), base_and_tag("phi")
    (('qwen2.5-0.5b-instruct', 'q4_k_m'), ('phi', ''))
    """
    match = _QUANTIZATION.fullmatch(name)
    return (match["base"], match["tag"]) if match else (name, "")


def plain(text: str) -> str:
    """A file's or folder's name as part of a model's: lower case, nothing a model ref could not hold.

    >>> plain("My Model (v2)!"), plain("...")
    ('my-model-v2', 'model')
    """
    kept = _NOT_IN_NAMES.sub("-", text.lower()).strip("-.+")
    return kept[:NAME_PART_CHARS_MAX].strip("-.+") or "model"


def _short_name(one: Found) -> str:
    stem = plain(one.stem)
    if _GENERIC.fullmatch(stem):
        return _without_gguf(_folder_names(one)[0])
    return stem


def _long_name(one: Found, short: str) -> str:
    folder = _without_gguf(_folder_names(one)[0])
    stem = plain(one.stem)
    return f"{folder}/{stem}" if stem != folder or short != stem else f"{folder}/{short}"


def _unique(names: list[str]) -> list[str]:
    """Number what is still the same: copies in folders of the same name."""
    seen: Counter[str] = Counter()
    unique: list[str] = []
    taken = set(names)
    for name in names:
        seen[name] += 1
        candidate, number = name, seen[name]
        while number > 1 and (candidate in taken or candidate in unique):
            candidate, number = f"{name}-{number}", number + 1
        unique.append(candidate)
    return unique


def _wished_aliases(one: Found, name: str, *, is_alone: bool) -> list[str]:
    base, tag = base_and_tag(name)
    aliases = [f"{base}:{tag}", base] if tag else []
    if is_alone:
        is_top = one.files[0].parent == one.top
        for folder in _folder_names(one):
            if not is_top or folder.endswith("gguf"):
                aliases += [folder, _without_gguf(folder)]
    return [alias for alias in dict.fromkeys(aliases) if alias != name]


def _folder_names(one: Found) -> list[str]:
    """What the folder is called; for a hub's cache, the repository with and without its owner."""
    folder = one.files[0].parent
    for above in (folder, *folder.parents):
        match = _HUB_FOLDER.fullmatch(above.name)
        if match:
            owner, repository = plain(match["org"]), plain(match["repository"])
            return [repository, f"{owner}/{repository}"]
        if above == one.top:
            break
    return [plain(folder.name)]


def _without_gguf(name: str) -> str:
    return re.sub(r"[-_.]gguf$", "", name) or name

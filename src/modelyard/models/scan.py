"""Finds the models in folders: single files, split sets, projectors beside them, safetensors folders, damaged ones too.

Bounded in depth and count; a folder that cannot be read is a problem in the result, never a crash. Links to folders are
followed only inside the scanned folder, links to files anywhere. What models are called is decided in names.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from modelyard.errors import said
from modelyard.types.model import Model

from .describe import describe, kind_of
from .folder import describe_folder, is_model_folder, is_part_of_model
from .names import Found, named

DEPTH_MAX = 8
ENTRY_COUNT_MAX = 100_000
FILE_COUNT_MAX = 10_000
SPLIT_COUNT_MAX = 999

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})", re.IGNORECASE)
_PROJECTOR = re.compile(r"(^|[-_.])mmproj([-_.]|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that kept part of a folder from being scanned."""

    path: Path
    problem: str


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The models found, by name, and what went wrong."""

    models: tuple[Model, ...] = ()
    problems: tuple[Problem, ...] = ()


@dataclass(slots=True)
class _Walk:
    """What one scan has seen so far."""

    files: dict[Path, Path] = field(default_factory=dict)  # file -> the scanned folder it is in
    folders: dict[Path, Path] = field(default_factory=dict)  # a folder that is one model -> the scanned folder
    problems: list[Problem] = field(default_factory=list)
    entry_count: int = 0


def scan(folders: Sequence[Path], known: Iterable[Model] = (), *, code_folders: Sequence[Path] = ()) -> ScanResult:
    """Look through folders (or single files). Models in `known` whose files have not changed are not read again.

    `code_folders` are those, exactly, whose models may bring program code of their own.
    """
    walk = _Walk()
    for folder in folders:
        top = folder.expanduser().absolute()
        if top.is_file():
            walk.files.update((path, top.parent) for path in _with_parts(top) if path not in walk.files)
        else:
            _walk(top, top, 0, walk)
    found = _grouped(walk)
    earlier = {model.files: model for model in known}
    trusted = frozenset(folder.expanduser().resolve() for folder in code_folders)
    models = [_described(one, earlier.get(one.files), trusted) for one in named(found)]
    return ScanResult(tuple(sorted(models, key=lambda model: model.name)), tuple(walk.problems))


def _described(one: Found, earlier: Model | None, trusted: frozenset[Path]) -> Model:
    if earlier is not None and _is_unchanged(one, earlier):
        return replace(earlier, name=one.name, aliases=one.aliases)
    if one.is_folder:
        folder = one.files[0].parent
        found = describe_folder(one.name, folder, may_run_code=folder.resolve() in trusted)
        return replace(found, aliases=one.aliases)
    model = describe(one.name, one.files, projector=one.projector, problem=one.problem)
    return replace(model, aliases=one.aliases)


def _is_unchanged(one: Found, earlier: Model) -> bool:
    projector = str(one.projector) if one.projector else None
    if earlier.problem or earlier.metadata.get("projector") != projector:
        return False
    try:
        all_about = [path.stat() for path in [*one.files, *([one.projector] if one.projector else [])]]
    except OSError:
        return False
    size, modified_at = sum(about.st_size for about in all_about), max(about.st_mtime for about in all_about)
    return (size, modified_at) == (earlier.size_bytes, earlier.modified_at)


def _walk(folder: Path, top: Path, depth: int, walk: _Walk) -> None:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as failure:
        walk.problems.append(Problem(folder, f"cannot be read: {failure.strerror or failure}"))
        return
    names = [entry.name for entry in entries]
    if is_model_folder(names) or (not _is_inside_model(folder, walk) and is_part_of_model(folder, names)):
        walk.folders[folder] = top
    for entry in entries:
        walk.entry_count += 1
        if walk.entry_count > ENTRY_COUNT_MAX or len(walk.files) >= FILE_COUNT_MAX:
            if not any(problem.path == top for problem in walk.problems):
                walk.problems.append(Problem(top, "has too many files; the rest was not looked at"))
            return
        path = folder / entry.name
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            if entry.is_symlink() and not _is_inside(path, top):
                continue
            if depth + 1 > DEPTH_MAX:
                walk.problems.append(Problem(path, f"is more than {DEPTH_MAX} folders deep"))
                continue
            _walk(path, top, depth + 1, walk)
        elif entry.name.lower().endswith(".gguf"):
            walk.files.setdefault(path, top)


def _is_inside_model(folder: Path, walk: _Walk) -> bool:
    """Whether it is a part of a model that lies in several folders, and so lacks nothing."""
    return any(parent in walk.folders for parent in folder.parents)


def _with_parts(file: Path) -> list[Path]:
    """A file, the other parts of its set, and what turns images into what it reads."""
    found = [file]
    match = _SPLIT.fullmatch(file.stem)
    if match:
        set_of = re.compile(rf"{re.escape(match['stem'])}-\d{{5}}-of-{match['count']}\.gguf", re.IGNORECASE)
        found += [path for path in sorted(file.parent.glob("*.gguf")) if set_of.fullmatch(path.name)]
    elif not _PROJECTOR.search(file.stem):
        beside = (path for path in sorted(file.parent.glob("*.gguf")) if _PROJECTOR.search(path.stem))
        found += [path for path in beside if kind_of(path) == "mmproj"]
    return found


def is_projector(path: Path) -> bool:
    """Whether a file belongs to the models beside it: it turns images into what they read."""
    return bool(_PROJECTOR.search(path.stem)) and kind_of(path) == "mmproj"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_inside(path: Path, top: Path) -> bool:
    """Whether a linked folder lies below the scanned one and is no folder above the link: those would be circles."""
    target = path.resolve()
    return target.is_relative_to(top.resolve()) and not path.parent.resolve().is_relative_to(target)


def _grouped(walk: _Walk) -> list[Found]:
    """Files to models: the parts of a split set are one model, projectors belong to the models beside them."""
    splits: dict[tuple[Path, str, int], dict[int, Path]] = defaultdict(dict)
    singles: list[Path] = []
    projectors: dict[Path, Path] = {}
    for path in walk.files:
        match = _SPLIT.fullmatch(path.stem)
        if match and 1 <= int(match["count"]) <= SPLIT_COUNT_MAX:
            splits[path.parent, match["stem"], int(match["count"])][int(match["number"])] = path
        elif is_projector(path):
            projectors.setdefault(path.parent, path)
        else:
            singles.append(path)
    found = [Found(path.stem, (path,), walk.files[path], projectors.get(path.parent)) for path in singles]
    for folder, top in walk.folders.items():
        found.append(Found(folder.name, (folder / "config.json",), top, is_folder=True))
    for (folder, stem, count), parts in splits.items():
        files = tuple(parts[number] for number in sorted(parts))
        missing = [number for number in range(1, count + 1) if number not in parts]
        problem = said("part {number} of {count} is missing", number=missing[0], count=count) if missing else ""
        found.append(Found(stem, files, walk.files[files[0]], projectors.get(folder), problem))
    return found

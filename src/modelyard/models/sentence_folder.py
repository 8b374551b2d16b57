"""Whether a sentence-transformers folder is safe to load: modules of the library itself, and no pickled weights.

The library imports whatever class `modules.json` names, and falls back to pickled weights where a module has no others.
Asked at every scan, and again by the worker before it loads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from modelyard.errors import N_, said

from .problems import PICKLED_WEIGHTS

SETTINGS_BYTES_MAX = 4 * 1024**2
MODULES_MAX = 32
OWN_CLASSES = "sentence_transformers."
NESTING = ("Router", "Asym")  # they load classes that files of their own name
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def folder_problem(folder: Path) -> str:
    """Why it must not be loaded; empty if it may be."""
    try:
        modules = list(_modules(folder))
    except (OSError, ValueError) as failure:
        return str(failure) or type(failure).__name__
    for kind, path in modules:
        name = kind.rpartition(".")[2]
        if name in NESTING:
            return said("it is made of further modules ({name}), whose program code nobody has checked", name=name)
        if not kind.startswith(OWN_CLASSES) or not name[:1].isupper():
            return said("it needs program code of its own ({kind}), which is not run", kind=kind[:100])
        part = folder / path
        if not part.resolve().is_relative_to(folder.resolve()):
            return N_("one of its modules is outside of its folder")
        names = [entry.name for entry in part.iterdir()] if part.is_dir() else []
        if any(name.endswith(PICKLED) for name in names) and not any(name.endswith(".safetensors") for name in names):
            return PICKLED_WEIGHTS
    return ""


def _modules(folder: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Class and folder of each module. A folder without a list of them is one transformer."""
    listed = folder / "modules.json"
    if not listed.exists():
        return
    entries = _decoded(listed)
    if not isinstance(entries, list) or not 1 <= len(entries) <= MODULES_MAX:
        raise ValueError(said("modules.json is not a list of 1 to {modules_max} modules", modules_max=MODULES_MAX))
    for entry in entries:
        kind, path = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str):
            raise ValueError(N_("modules.json does not say what its modules are"))
        where = PurePosixPath(path)
        if where.is_absolute() or ".." in where.parts:
            raise ValueError(N_("one of its modules is outside of its folder"))
        yield kind, where


def _decoded(path: Path) -> Any:
    with path.open("rb") as file:
        raw = file.read(SETTINGS_BYTES_MAX + 1)
    if len(raw) > SETTINGS_BYTES_MAX:
        raise ValueError(said("{name} is too large", name=path.name))
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as problem:
        raise ValueError(said("{name} is not JSON", name=path.name)) from problem

"""Which engine serves what several could: a folder with both a GGUF file and safetensors is one model in two formats.

The first engine of the configured order that is installed and can serve it wins; the reason is kept for `show`.
Choices are pure functions; only `is_installed` looks at this machine, and it imports nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from modelyard.errors import N_, said
from modelyard.types.model import Model

ORDER = ("llamacpp", "transformers", "embeddings", "command", "echo")  # what is not named comes after what is
REASON = "engine_reason"  # the member of a model's metadata
_PACKAGES = {"transformers": ("torch", "transformers"), "embeddings": ("torch", "sentence-transformers")}

OrderOf = Callable[[str], Sequence[str]]  # by a model's name: engines, the first choice first


def is_installed(engine: str) -> bool:
    """Whether what this engine needs is there."""
    try:
        return all(bool(version(package)) for package in _PACKAGES.get(engine, ()))
    except PackageNotFoundError:
        return False


def one_per_folder(
    models: Iterable[Model], order_of: OrderOf, installed: Callable[[str], bool] = is_installed
) -> tuple[Model, ...]:
    """The models, where a folder with two formats is one: the chosen one has the folder's name.

    Of several GGUF files beside the safetensors the largest stands for them; all of them keep their own names.
    """
    found = list(models)
    files: dict[Path, list[Model]] = {}
    for model in found:
        if model.format == "gguf" and model.files:
            files.setdefault(model.files[0].parent, []).append(model)
    for folder in [model for model in found if model.format == "safetensors"]:
        beside = files.get(Path(str(folder.metadata.get("folder", ""))), [])
        if not beside:
            continue
        file = max(beside, key=lambda model: (not model.problem, model.size_bytes, model.name))
        chosen, why = _first((file, folder), order_of(folder.name), installed)
        chosen = replace(chosen, metadata={**chosen.metadata, REASON: why})
        if chosen.engine == folder.engine:
            found[found.index(folder)] = chosen
            continue
        found.remove(folder)
        aliases = (file.name, *(alias for alias in (*file.aliases, *folder.aliases) if alias != folder.name))
        found[found.index(file)] = replace(chosen, name=folder.name, aliases=tuple(dict.fromkeys(aliases)))
    return tuple(found)


def _first(ways: Sequence[Model], order: Sequence[str], installed: Callable[[str], bool]) -> tuple[Model, str]:
    """Who serves it, and why. Whoever cannot serve it is named with what is wrong."""
    places = {engine: place for place, engine in reversed([*enumerate((*order, *ORDER))])}
    ranked = sorted(ways, key=lambda model: places.get(model.engine, len(places)))
    passed: list[str] = []
    for model in ranked:
        if not model.problem and installed(model.engine):
            return model, "; ".join(passed) or _of_both(model.engine, is_named=model.engine in order)
        passed.append(f"{model.engine}: {model.problem or N_('it is not installed')}")
    return ranked[0], "; ".join(passed)


def _of_both(engine: str, *, is_named: bool) -> str:
    if is_named:
        return said("{engine} comes first, and the folder has both formats", engine=engine)
    return said("{engine} is the default, and the folder has both formats", engine=engine)

"""The store, and from its manifests to models of the catalog: under the names they were pulled or copied by.

What cannot be used is listed with its problem, a damaged manifest too. An alias that two could claim belongs to none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import structlog

from modelyard.types.model import Model

from .describe import ENGINE, describe
from .folder import describe_folder
from .manifest import Manifest
from .scan import is_projector
from .store import Store

log = structlog.get_logger()


def opened_store(root: Path) -> Store:
    """The store of this machine, with what an earlier run left undone finished, as far as its disk allows."""
    store = Store(root.expanduser().absolute())
    try:
        store.recover()
    except OSError as problem:
        log.warning("store.unusable", folder=str(store.root), problem=problem.strerror or str(problem))
    return store


def stored_models(store: Store) -> tuple[Model, ...]:
    """Every model in the store, by name."""
    sound, damaged = store.manifests()
    claims = Counter(alias for manifest in sound.values() for alias in manifest.aliases)
    models = [
        replace(
            stored_model(store, manifest),
            aliases=tuple(alias for alias in manifest.aliases if claims[alias] == 1 and alias not in sound),
        )
        for manifest in sound.values()
    ]
    models += [Model(name, ENGINE, problem=problem, identity=name, is_stored=True) for name, problem in damaged.items()]
    return tuple(sorted(models, key=lambda model: model.name))


def stored_model(store: Store, manifest: Manifest) -> Model:
    """One of them, without its aliases."""
    folder, problem = store.folder_of(manifest), store.problem_of(manifest)
    ggufs = [folder / one.path for one in manifest.files if one.path.lower().endswith(".gguf")]
    if ggufs:
        projectors = [path for path in ggufs if is_projector(path)]
        files = tuple(sorted(path for path in ggufs if path not in projectors)) or (ggufs[0],)
        model = describe(manifest.name, files, projector=projectors[0] if projectors else None, problem=problem)
    else:
        model = describe_folder(manifest.name, folder)
        model = replace(model, problem=problem or model.problem)
    return replace(
        model, digest=manifest.digest.removeprefix("sha256:"), modified_at=manifest.pulled_at or model.modified_at,
        is_stored=True,
    )  # fmt: skip

"""Where files live on this machine, by the platform's own rules. Makes no folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from platformdirs import PlatformDirs


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders of one user."""

    config: Path
    data: Path
    models: Path
    store: Path
    state: Path
    cache: Path
    runtime: Path | None  # for sockets: private, and gone with the session; not every machine has such a place


def user_paths(environment: Mapping[str, str]) -> Paths:
    """The folders of whoever runs this."""
    found = PlatformDirs("modelyard", appauthor=False)
    return Paths(
        config=found.user_config_path,
        data=found.user_data_path,
        models=found.user_data_path / "models",
        store=found.user_data_path / "store",
        state=found.user_state_path,
        cache=found.user_cache_path,
        runtime=Path(environment["XDG_RUNTIME_DIR"]) if environment.get("XDG_RUNTIME_DIR") else None,
    )

"""The settings about model files that nodes should have. See schema.py."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from modelyard.config.section import Section
from modelyard.config.values import Seconds
from modelyard.errors import N_

_WINDOW = re.compile(r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d( UTC([+-]\d{1,2}(:\d{2})?)?)?")
_CRON_FIELDS = 5


def _window(text: str) -> str:
    if text and not _WINDOW.fullmatch(text):
        raise ValueError(N_('a window is written like "02:00-06:00 UTC+8"'))
    return text


def _cron(text: str) -> str:
    if len(text.split()) != _CRON_FIELDS:
        raise ValueError(N_("a cron line has five fields: minute, hour, day, month, day of the week"))
    return text


class SyncSettings(Section):
    """Which models the Ollama nodes should have on disk, and when and how they are fetched."""

    enabled: bool = Field(default=False, description="Fetch what is missing at the scheduled times.")
    schedule_cron: Annotated[str, AfterValidator(_cron)] = Field(
        default="0 3 * * *", description="When, as a cron line."
    )
    allowed_window: Annotated[str, AfterValidator(_window)] = Field(
        default="", description="Downloads run only within it, such as `02:00-06:00 UTC+8`; always if not given."
    )
    baseline_models: tuple[str, ...] = Field(default=(), description="Models every node should have.")
    fallback_models: tuple[str, ...] = Field(
        default=(), description="Smaller models every node should have; with `fallback` they answer for the others."
    )
    fallback: bool = Field(
        default=False,
        description="Let `fallback_models` answer for a baseline model nobody can bring in. The reply says so.",
    )
    data_root: str = Field(default="~/.ollama", description="Where a node keeps its models: for checks of its disk.")
    attempts_max: int = Field(default=3, ge=1, le=100, description="Attempts per model.")
    backoff_s: Seconds = Field(default=20.0, description="Wait before the second attempt; doubles.")
    parallel_max: int = Field(default=1, ge=1, le=64, description="Downloads at a time.")
    manifest_path: str = Field(
        default="docs/deployment/ollama-models-manifest.json", description="Where what was fetched is written down."
    )

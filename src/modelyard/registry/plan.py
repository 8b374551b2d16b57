"""What a pull will do, before it does it: the model's name, and each file with its digest and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.models.partial import Wanted

from .transfer import Source


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file: where it will stand, what it must be, who has it."""

    path: str
    wanted: Wanted
    source: Source


@dataclass(frozen=True, slots=True)
class PullPlan:
    """A whole model."""

    name: str
    aliases: tuple[str, ...]
    source: str
    revision: str
    files: tuple[PlannedFile, ...]

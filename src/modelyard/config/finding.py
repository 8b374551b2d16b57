"""One result of looking at settings or a machine: what it is and what to do. Values only; texts are templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """Something worth telling before it hurts. `text` and `remedy` are templates filled from `fields`."""

    code: str
    text: str
    remedy: str = ""
    fields: Mapping[str, object] = field(default_factory=dict)
    severity: Literal["notice", "warning"] = "warning"

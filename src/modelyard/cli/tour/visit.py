"""What one model's visit found, and the report over all of them. Pure: values and texts, no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal
from xml.sax.saxutils import escape, quoteattr

from modelyard.errors import N_

Outcome = Literal["ok", "timeout", "out_of_memory", "node_error", "network", "skipped"]
FAILED: frozenset[Outcome] = frozenset(("timeout", "out_of_memory", "node_error", "network"))
OUTCOMES: dict[Outcome, str] = {
    "ok": N_("fine"),
    "timeout": N_("out of time"),
    "out_of_memory": N_("out of memory"),
    "node_error": N_("server error"),
    "network": N_("network error"),
    "skipped": N_("skipped"),
}


@dataclass(slots=True)
class Visit:
    """One model. Seconds and bytes; None: not reached, or not told."""

    model: str
    kind: Literal["chat", "embedding"] = "chat"
    is_cloud: bool = False
    outcome: Outcome = "skipped"
    load_s: float | None = None
    first_token_s: float | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    dimensions: int | None = None
    size_bytes: int | None = None
    vram_bytes: int | None = None
    message: str = ""  # what went wrong, in the person's language
    verdict: dict[str, object] = field(default_factory=dict)
    suggestions: tuple[str, ...] = ()

    @property
    def has_failed(self) -> bool:
        return self.outcome in FAILED

    @property
    def vram_ratio(self) -> float | None:
        """The part of the model that is in VRAM."""
        if not self.size_bytes or self.vram_bytes is None:
            return None
        return min(1.0, self.vram_bytes / self.size_bytes)

    def to_json(self) -> dict[str, object]:
        """One row for machines."""
        return {
            "model": self.model,
            "kind": self.kind,
            "cloud": self.is_cloud,
            "outcome": self.outcome,
            "load_s": _rounded(self.load_s),
            "first_token_s": _rounded(self.first_token_s),
            "tokens": self.tokens,
            "tokens_per_s": _rounded(self.tokens_per_s),
            "dimensions": self.dimensions,
            "size_bytes": self.size_bytes,
            "vram_bytes": self.vram_bytes,
            "vram_ratio": _rounded(self.vram_ratio),
            "message": self.message or None,
            "verdict": self.verdict or None,
            "suggestions": list(self.suggestions),
        }


def junit(visits: Sequence[Visit], url: str) -> str:
    """The report as a test suite, for whatever reads those: one case a model."""
    failures = sum(visit.has_failed and visit.outcome != "network" for visit in visits)
    errors = sum(visit.outcome == "network" for visit in visits)
    skipped = sum(visit.outcome == "skipped" for visit in visits)
    took = sum(_took(visit) for visit in visits)
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuite name="modelyard tour" tests="{len(visits)}" failures="{failures}" errors="{errors}" '
        f'skipped="{skipped}" time="{took:.3f}">',
        f'  <properties><property name="url" value={_attribute(url)}/></properties>',
    ]
    for visit in visits:
        head = f'  <testcase classname="tour" name={_attribute(visit.model)} time="{_took(visit):.3f}"'
        if visit.outcome == "skipped":
            lines.append(f"{head}><skipped/></testcase>")
        elif visit.has_failed:
            tag = "error" if visit.outcome == "network" else "failure"
            text = escape(_clean("\n".join((visit.message, *visit.suggestions))))
            attributes = f'type="{visit.outcome}" message={_attribute(visit.message)}'
            lines.append(f"{head}><{tag} {attributes}>{text}</{tag}></testcase>")
        else:
            lines.append(f"{head}/>")
    return "\n".join([*lines, "</testsuite>", ""])


def _took(visit: Visit) -> float:
    return (visit.load_s or 0.0) + (visit.first_token_s or 0.0)


def _attribute(text: str) -> str:
    return quoteattr(_clean(text))


def _clean(text: str) -> str:
    """XML has no way to write most control characters."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\N{REPLACEMENT CHARACTER}" for sign in text)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)

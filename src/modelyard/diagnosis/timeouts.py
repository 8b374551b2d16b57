"""What it means that an answer did not come in time: from what was seen just before giving up to a verdict. Pure.

The tree: no token yet → is the model in memory? partly on the GPU → slow because of that; whole → the load took the
time; not there → still loading, or no room. A token seen → it works, too slowly. Nothing answers → it is the way there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from modelyard.errors import N_, Sentence, TimeoutWithDiagnosis
from modelyard.units import format_size

from .verdict import LIKELY, POSSIBLE, SURE, WEAK, Code, Verdict, verdict

Phase = Literal["connect", "load", "first_token", "between_tokens"]
PHASES: dict[Phase, str] = {
    "connect": N_("connecting"),
    "load": N_("loading the model"),
    "first_token": N_("waiting for the first token"),
    "between_tokens": N_("waiting for the next token"),
}
IN_VRAM_MIN = 0.95  # of a model's size: below it, enough lies in system memory to be felt
RESIDENTS_NAMED = 5

NO_TOKEN = N_("The model's load phase ran out of time (no token had come)")
STARTED = N_("The model began to answer, but too slowly")
PARTLY = N_("The model is not wholly in VRAM: a part of it is in system memory")
WHOLE = N_("The model is loaded, but its load phase ran out of time")
ON_CPU = N_("The model runs on the CPU")
ABSENT = N_("⚠️  The model is not among those in memory: most likely it could not be loaded for lack of memory (OOM)")
RESIDENTS = N_("Models in memory now: {models}")
LOADING = N_("The server answers, but not what is in memory: it is still loading")
SILENT = N_("No token came in time")
UNTOLD = N_("The server answers, and does not tell what is in its memory")
UNREACHABLE = N_("The server does not answer at all")
ABORTED = N_("Leaving made the server give the load up; the next try begins anew")


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory, as a server tells it. Bytes."""

    name: str
    size: int
    vram: int | None = None  # None: not told

    @property
    def vram_ratio(self) -> float | None:
        """The part of it that is in VRAM."""
        return min(1.0, self.vram / self.size) if self.size and self.vram is not None else None


@dataclass(frozen=True, slots=True)
class TimeoutEvidence:
    """What was seen when a budget ran out, before the request was closed."""

    model: str
    phase: Phase
    budget_s: float
    tokens: int = 0
    residents: Sequence[Resident] | None = None  # None: it did not tell
    is_alive: bool = False  # it said its version
    loads_abort: bool = False  # whoever waits for a load and leaves ends it
    tells_memory: bool = True  # servers of its kind can say what is in memory


@dataclass(frozen=True, slots=True)
class TimeoutDiagnosis:
    """The verdict, and its sentences for a person."""

    verdict: Verdict
    sentences: tuple[Sentence, ...]
    evidence: TimeoutEvidence

    def error(self) -> TimeoutWithDiagnosis:
        """As an exception, whose text is the whole diagnosis."""
        return TimeoutWithDiagnosis(
            sentences=self.sentences,
            hints=self.verdict.suggestions,
            model=self.evidence.model,
            phase=self.evidence.phase,
            budget_s=self.evidence.budget_s,
            verdict=self.verdict.to_json(),
        )


def diagnose_timeout(evidence: TimeoutEvidence) -> TimeoutDiagnosis:
    """The first leaf of the tree that the evidence reaches."""
    found = _resident(evidence)
    if evidence.tokens:
        sentences: list[Sentence] = [(STARTED, {}), *_where_it_is(found)]
        return _judged(evidence, "too_slow", LIKELY, sentences)
    if not evidence.is_alive and evidence.residents is None:
        return _judged(evidence, "unreachable", LIKELY, [(SILENT, {}), (UNREACHABLE, {})])
    if not evidence.tells_memory:
        return _judged(evidence, "unknown", WEAK, [(SILENT, {}), (UNTOLD, {})])
    if evidence.residents is None:
        return _judged(evidence, "still_loading", POSSIBLE, [(NO_TOKEN, {}), (LOADING, {})])
    if found is None:
        sentences = [(NO_TOKEN, {}), (ABSENT, {})]
        if evidence.residents:
            sentences.append((RESIDENTS, {"models": named(evidence.residents)}))
        return _judged(evidence, "out_of_memory", POSSIBLE, sentences)
    if found.vram and found.vram_ratio is not None and found.vram_ratio < IN_VRAM_MIN:
        return _judged(evidence, "partly_in_ram", LIKELY, [(NO_TOKEN, {}), (PARTLY, {})])
    return _judged(evidence, "load_timeout", SURE, [(NO_TOKEN, {}), (WHOLE, {}), *_where_it_is(found)])


def named(residents: Sequence[Resident]) -> str:
    """Who is in memory and how large, the largest first.

    >>> named([Resident("a:1b", 1024**3, 0), Resident("llama3.3:70b", int(40.9 * 1024**3), 0)])
    'llama3.3:70b (40.9 GB), a:1b (1.0 GB)'
    """
    largest = sorted(residents, key=lambda one: -one.size)
    shown = [f"{one.name} ({format_size(one.size)})" for one in largest[:RESIDENTS_NAMED]]
    return ", ".join(shown + ["…"] * (len(largest) > RESIDENTS_NAMED))


def _resident(evidence: TimeoutEvidence) -> Resident | None:
    return next((one for one in evidence.residents or () if is_same_model(one.name, evidence.model)), None)


def is_same_model(name: str, other: str) -> bool:
    """Whether two names mean one model: without a tag, `latest` is meant.

    >>> is_same_model("llama3", "llama3:latest"), is_same_model("llama3:8b", "llama3")
    (True, False)
    """
    return _tagged(name) == _tagged(other)


def _tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _where_it_is(found: Resident | None) -> list[Sentence]:
    if found is None or found.vram_ratio is None or found.vram_ratio >= IN_VRAM_MIN:
        return []
    return [(PARTLY, {})] if found.vram else [(ON_CPU, {})]


def _judged(evidence: TimeoutEvidence, code: Code, confidence: float, sentences: list[Sentence]) -> TimeoutDiagnosis:
    found = _resident(evidence)
    was_loading = evidence.phase == "load" and evidence.loads_abort and not evidence.tokens and code != "unreachable"
    if was_loading:
        sentences = [*sentences, (ABORTED, {})]
    judged = verdict(
        code,
        confidence,
        "node" if code == "out_of_memory" else "",
        phase=evidence.phase,
        budget_s=evidence.budget_s,
        tokens=evidence.tokens,
        size_bytes=found.size if found else 0,
        vram_bytes=found.vram if found else None,
        others_bytes=sum(one.size for one in evidence.residents or () if one is not found),
        load_aborted=was_loading,
    )
    return TimeoutDiagnosis(judged, tuple(sentences), evidence)

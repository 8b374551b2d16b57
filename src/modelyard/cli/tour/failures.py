"""From an error to what is told of it: its kind, its words, what is known about why, and what to do. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.cli.tour.visit import Outcome
from modelyard.client.ollama_replies import MEMORY_HINTS, OUT_OF_MEMORY
from modelyard.diagnosis import Evidence, diagnose
from modelyard.diagnosis.timeouts import Phase
from modelyard.errors import (
    N_,
    InsufficientMemory,
    OllamaConnectionError,
    TimeoutWithDiagnosis,
    UpstreamTimeout,
    UpstreamUnreachable,
    YardError,
    fill,
)
from modelyard.words import _, render

MAKE_ROOM = N_("Unload what else is in memory, or use a smaller model, quantisation or context.")
MORE_TIME = N_("Or give it more time: {flag} {seconds}")


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong with one answer."""

    outcome: Outcome
    message: str  # in the person's language
    hints: tuple[str, ...]
    verdict: dict[str, object]
    phase: Phase | None = None  # whose budget ran out
    budget_s: float = 0.0


def failure_of(error: YardError, language: str) -> Failure:
    """An error as it is told in a language."""
    message, hints = render(error, language)
    told = error.fields.get("verdict")
    verdict = dict(told) if isinstance(told, dict) else {}
    if isinstance(error, TimeoutWithDiagnosis):
        phase, budget_s = error.fields["phase"], float(str(error.fields["budget_s"]))
        if flag := error.fields.get("flag"):
            hints.append(fill(_(MORE_TIME, language), {"flag": flag, "seconds": f"{2 * budget_s:g}"}))
        return Failure("timeout", message, tuple(hints), verdict, phase, budget_s)  # type: ignore[arg-type]
    if isinstance(error, OllamaConnectionError | UpstreamUnreachable | UpstreamTimeout):
        return Failure("network", message, tuple(hints), verdict)
    problem = str(error.fields.get("problem") or message)
    judged = diagnose(Evidence(text=problem))
    is_memory = verdict.get("code") == "out_of_memory" or isinstance(error, InsufficientMemory)
    if not (is_memory or error.text == OUT_OF_MEMORY or judged.is_memory):
        return Failure("node_error", message, tuple(hints), verdict)
    if not verdict and judged.is_memory:
        verdict = judged.to_json()
    if error.text == OUT_OF_MEMORY:  # its first words are Chinese, for programs that look for them
        message = problem
    if error.hints == MEMORY_HINTS:  # the client library's own, for programs
        hints = [_(MAKE_ROOM, language)]
    return Failure("out_of_memory", message, tuple(hints), verdict)


def is_connect_timeout(error: YardError) -> bool:
    """Whether a connection did not come about in time: another thing than one that was refused."""
    return bool(error.fields.get("is_silence"))

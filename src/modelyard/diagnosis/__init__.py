"""From evidence to a verdict: why a worker ended, or what a server's error means. Pure.

What is counted comes before what is said: exit status and signal with the kernel's own count of kills and how memory
stood, then the class of the engine's exception, then whole phrases at the places where an engine writes them in its own
output. The words of others come last and never make more than a guess: an error about memory is easily told, and as
easily quoted. Knows nothing about processes, engines or HTTP.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TypeVar

from modelyard.errors import N_, WorkerCrashed, YardError

from .own_lines import read_line
from .timeouts import Resident, TimeoutDiagnosis, TimeoutEvidence, diagnose_timeout
from .told import phrase_of, weak_phrase_of
from .verdict import CAUSES, LIKELY, OOM_MIN, POSSIBLE, SURE, WEAK, Code, Evidence, Verdict, verdict

__all__ = [
    "CAUSES", "LIKELY", "OOM_MIN", "POSSIBLE", "SURE", "WEAK", "Code", "Evidence", "Resident", "TimeoutDiagnosis",
    "TimeoutEvidence", "Verdict", "crash", "diagnose", "diagnose_timeout", "explained", "is_oom_error",
]  # fmt: skip

AnyError = TypeVar("AnyError", bound=YardError)

FULL_RATIO = 0.9  # held so much of what there was when it was killed: memory is the likely cause
EMPTY_RATIO = 0.02  # or so little was left of all there is
LINE_CHARS_MAX = 160
KILL = 9
ASKED_TO_END = (1, 2, 3, 15)  # HUP, INT, QUIT, TERM: nobody sends them for want of memory
SIGNALS: dict[int, Code] = {4: "processor", KILL: "killed", **dict.fromkeys(ASKED_TO_END, "killed")}  # else crashed
SHELL_SIGNAL = 128  # a shell says 137 for a child that signal 9 ended
WINDOWS_MEMORY = {8, 14, 1450, 1455}  # not enough memory, out of memory, no system resources, the paging file
WINDOWS_STATUS: dict[int, Code] = {  # exit codes of Windows' own making
    0xC0000017: "out_of_memory", 0xC000012D: "out_of_memory", 0xC0000005: "crashed", 0xC0000374: "crashed",
    0xC000001D: "processor", 0xC0000135: "missing_library", 0xC000013A: "killed",
}  # fmt: skip
ERROR_CLASSES = ("OutOfMemoryError", "MemoryError", "ArrayMemoryError", "_ArrayMemoryError", "bad_alloc")
_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.@+ -]+){2,}")


def diagnose(evidence: Evidence) -> Verdict:
    """(1) What the system says. (2) Who was killed: by the kernel, at the end of memory, by somebody.

    (3) The exception's class. (4) The engine's own lines. (5) The signal alone. (6) What another server says.
    """
    found = (
        _by_windows(evidence)  # (1)
        or _by_stall(evidence)
        or _by_kill(evidence)  # (2)
        or _by_own_words(evidence)  # (3) (4)
        or _by_signal(evidence)  # (5)
        or _told(evidence.text)  # (6)
    )
    return replace(found, tried=evidence.tried) if evidence.tried else found


def explained(error: AnyError, verdict: Verdict) -> AnyError:
    """The error with its verdict and what can be done."""
    error.fields["verdict"] = verdict.to_json()
    if verdict.suggestions:
        error.hints = (*verdict.suggestions, *(hint for hint in error.hints if hint not in verdict.suggestions))
    return error


def crash(model: str, exit: str, found: Verdict) -> WorkerCrashed:
    """What those hear whom the worker served."""
    text = N_("The worker of {model} ran out of memory and ended ({exit}).") if found.is_memory else None
    return explained(WorkerCrashed(text, model=model, exit=exit), found)


def _signal_of(evidence: Evidence) -> int | None:
    code = evidence.exit_code or 0
    return (
        code - SHELL_SIGNAL if evidence.signal is None and SHELL_SIGNAL < code < SHELL_SIGNAL + 32 else evidence.signal
    )


def _by_windows(evidence: Evidence) -> Verdict | None:
    if evidence.windows_error in WINDOWS_MEMORY:
        return verdict("out_of_memory", SURE, "page_file", windows_error=evidence.windows_error)
    code = WINDOWS_STATUS.get((evidence.exit_code or 0) & 0xFFFFFFFF)
    if code is None:
        return None
    return verdict(code, SURE, "page_file" if code == "out_of_memory" else "", exit_code=evidence.exit_code)


def _by_stall(evidence: Evidence) -> Verdict | None:
    if evidence.stalled_s is None:
        return None
    return verdict("stalled", SURE, "", **_numbers(evidence), stalled_s=evidence.stalled_s)


def _numbers(evidence: Evidence) -> dict[str, object]:
    """How memory stood."""
    return {
        "oom_kills": evidence.oom_kills, "held_bytes": evidence.held_bytes,
        "predicted_bytes": evidence.predicted_bytes, "free_bytes": evidence.free_bytes,
        "free_last_bytes": evidence.free_last_bytes, "limit_bytes": evidence.limit_bytes,
    }  # fmt: skip


def _by_kill(evidence: Evidence) -> Verdict | None:
    """SIGKILL alone says nothing about memory: it is what an impatient person sends, too."""
    signal = _signal_of(evidence)
    if signal in ASKED_TO_END:
        return verdict("killed", LIKELY, signal=signal)
    if signal != KILL:
        return None
    numbers = _numbers(evidence) | {"signal": signal}
    if evidence.oom_kills:
        return verdict("out_of_memory", SURE, "", **numbers)
    if evidence.free_bytes is not None and evidence.held_bytes >= FULL_RATIO * evidence.free_bytes:
        return verdict("out_of_memory", LIKELY, "", **numbers)
    left, limit = evidence.free_last_bytes, evidence.limit_bytes
    if left is not None and limit and left <= EMPTY_RATIO * limit:
        return verdict("out_of_memory", LIKELY, "", **numbers)
    return verdict("killed", POSSIBLE, "", **numbers)


def _by_own_words(evidence: Evidence) -> Verdict | None:
    if evidence.error_class.rpartition(".")[2] in ERROR_CLASSES:
        family = "gpu" if "torch" in evidence.error_class else ""
        return verdict("out_of_memory", SURE, family, error_class=evidence.error_class)
    for line in reversed(evidence.lines):
        if known := read_line(line):
            code, family, words = known
            return verdict(code, SURE, family, line=_PATH.sub("...", words)[:LINE_CHARS_MAX])
    return None


def _by_signal(evidence: Evidence) -> Verdict | None:
    signal = _signal_of(evidence)
    return None if signal is None else verdict(SIGNALS.get(signal, "crashed"), LIKELY, signal=signal)


def is_oom_error(text: str) -> bool:
    """Whether what another server reported is, more likely than not, a lack of memory.

    >>> is_oom_error("CUDA error: out of memory"), is_oom_error("failed to load model"), is_oom_error("no memory of it")
    (True, False, False)
    """
    return _told(text).is_memory


def _told(text: str) -> Verdict:
    """Words alone: a guess at most."""
    if found := phrase_of(text):
        phrase, family = found
        return verdict("out_of_memory", POSSIBLE, family, phrase=phrase)
    if weak := weak_phrase_of(text):
        return verdict("out_of_memory", WEAK, phrase=weak)
    return verdict("unknown", WEAK)

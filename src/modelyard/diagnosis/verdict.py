"""What can be known about a failure, and what it is judged to be: values, their words, and the advice. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from modelyard.errors import N_

Code = Literal[
    "out_of_memory", "damaged_file", "missing_file", "unsupported_model", "missing_library", "address_in_use",
    "gpu_driver", "processor", "killed", "crashed", "stalled", "unknown",
    "too_slow", "partly_in_ram", "load_timeout", "still_loading", "unreachable",
]  # fmt: skip

SURE, LIKELY, POSSIBLE, WEAK = 0.95, 0.8, 0.6, 0.3
OOM_MIN = 0.5  # from here on an error counts as one about memory

CAUSES: dict[Code, str] = {
    "out_of_memory": N_("out of memory"),
    "damaged_file": N_("the file is damaged or cut"),
    "missing_file": N_("the file cannot be opened"),
    "unsupported_model": N_("this engine does not know the model's architecture"),
    "missing_library": N_("a library is missing"),
    "address_in_use": N_("its address is in use"),
    "gpu_driver": N_("the GPU's driver failed"),
    "processor": N_("this processor lacks an instruction the engine was built for"),
    "killed": N_("somebody ended it"),
    "crashed": N_("the engine crashed"),
    "stalled": N_("it made no progress"),
    "unknown": N_("it ended without saying why"),
    "too_slow": N_("it answers too slowly"),
    "partly_in_ram": N_("a part of it is in system memory"),
    "load_timeout": N_("it is loaded, after too long"),
    "still_loading": N_("it is still loading"),
    "unreachable": N_("the server does not answer"),
}
_SMALLER = N_(
    "Use a smaller context (context_length), a smaller quantisation, or kv_type = q8_0; or unload another model."
)
_EMBEDDINGS = N_(
    "If embedding models grow: a shorter idle time (embeddings.idle_ttl_s), or fewer loaded (embeddings.resident_max)."
)
_WHOLLY_ON_GPU = N_("A smaller quantisation or context lets the GPU hold all of it.")
PAGE_FILE = N_("Windows ran out of commit memory: set the page file to 16 GB or more, then restart.")
_HINTS: dict[str, tuple[str, ...]] = {
    "out_of_memory": (
        _SMALLER,
        N_("A ladder in models.options lets the server take such steps by itself."),
        _EMBEDDINGS,
    ),
    "gpu": (N_("Use a 4-bit quantisation, a smaller n_batch, or fewer layers on the GPU (n_gpu_layers)."), _SMALLER),
    "node": (N_("Unload what else is in memory, or use a smaller model, quantisation or context."),),
    "page_file": (PAGE_FILE, _SMALLER),
    "damaged_file": (N_("Fetch the file again and compare its digest."),),
    "missing_file": (N_("Check that the file is there and may be read; `modelyard show` prints where it is."),),
    "unsupported_model": (N_("A newer engine may know it; or convert the model."),),
    "missing_library": (N_("Install what the message names."),),
    "gpu_driver": (N_("Check the driver (nvidia-smi); n_gpu_layers = 0 keeps the model off the GPU."),),
    "stalled": (N_("Look for a slow disk or for memory that is full; deadlines.load_stall_s says how long to wait."),),
    "processor": (N_("Install a build of the engine for this processor."),),
    "too_slow": (N_("Try a smaller model or quantisation, or give it more time."), _WHOLLY_ON_GPU),
    "partly_in_ram": (_WHOLLY_ON_GPU, N_("Unload other models first, so that it fits.")),
    "load_timeout": (N_("Try again: it is in memory now. Or give loads more time."),),
    "still_loading": (N_("Give the load more time, and try again in a moment."),),
    "unreachable": (N_("See whether the server runs: `systemctl status ollama`, or `modelyard nodes check`."),),
}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about one failure. Everything may be missing."""

    lines: Sequence[str] = ()  # the last the engine itself wrote
    text: str = ""  # what another server reported
    exit_code: int | None = None
    signal: int | None = None
    error_class: str = ""  # of the engine's exception, if it names one
    windows_error: int | None = None
    oom_kills: int = 0  # that the kernel counted in our group meanwhile
    predicted_bytes: int = 0
    held_bytes: int = 0  # the most it was seen to hold
    free_bytes: int | None = None  # before it began
    free_last_bytes: int | None = None  # when it was last seen alive
    limit_bytes: int | None = None  # all there is, within the limits of the machine and its groups
    stalled_s: float | None = None  # it lives, and has done nothing for so long
    tried: tuple[str, ...] = ()  # ways of starting it that failed before


@dataclass(frozen=True, slots=True)
class Verdict:
    """What it was, how sure that is, and what speaks for it."""

    code: Code
    confidence: float
    evidence: dict[str, object] = field(default_factory=dict)  # numbers, and the words that decided; never a path
    suggestions: tuple[str, ...] = ()  # marked for translation, in English
    tried: tuple[str, ...] = ()

    @property
    def is_memory(self) -> bool:
        """Whether to treat it as a lack of memory."""
        return self.code == "out_of_memory" and self.confidence >= OOM_MIN

    @property
    def is_commit(self) -> bool:
        """Whether the page file ended before memory did."""
        return self.is_memory and PAGE_FILE in self.suggestions

    @property
    def cause(self) -> str:
        """A few words, marked for translation."""
        return CAUSES[self.code]

    def to_json(self) -> dict[str, object]:
        """What a caller sees of it, beside the error's own message and suggestions."""
        shown: dict[str, object] = {"code": self.code, "confidence": self.confidence, "evidence": self.evidence}
        return shown | ({"tried": self.tried} if self.tried else {})


def verdict(code: Code, confidence: float, family: str = "", **evidence: object) -> Verdict:
    """A verdict with what can be done about it; evidence that is empty is left out.

    `family` is the kind of memory, where advice depends on it.
    """
    hints = _HINTS.get(family) or _HINTS.get(code, ())
    return Verdict(code, confidence, {name: value for name, value in evidence.items() if value}, hints)

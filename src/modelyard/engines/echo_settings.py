"""How a scripted worker behaves: speed, load, memory, and the ways in which it fails.

Read on both sides of the process boundary: the engine writes it as JSON, the worker reads it. Light: standard library
only, no clock, no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from modelyard.errors import N_, ConfigError, said

_MIB = 1024**2


@dataclass(frozen=True, slots=True)
class EchoSettings:
    """The script of one echo worker. Counts of tokens are per request; None means never."""

    slots: int = 4
    context_length: int = 4096  # per slot
    reply_tokens: int = 16  # when the request has no max_tokens
    tokens_per_s: float = 0.0  # 0: as fast as possible
    prefill_tokens_per_s: float = 0.0  # 0: at once
    echo_prompt: bool = False  # answer with the words of the last message
    reasoning_tokens: int = 0  # so many tokens come as reasoning before the text

    footprint_bytes: int = 16 * _MIB  # what the engine declares
    allocate_bytes: int = 0  # what the worker really takes while it loads
    growth_bytes_per_token: int = 0

    load_s: float = 0.0
    fail_load: str = ""  # the last line before the worker ends instead of loading
    fail_load_code: int = 1
    stall_load: bool = False  # never ready, never a sign of life

    crash_after_tokens: int | None = None
    crash_signal: int = 9  # how it ends then
    stall_after_tokens: int | None = None
    stall_before_first: bool = False
    garbage_after_tokens: int | None = None  # sends what is not JSON, then goes on
    cut_after_bytes: int | None = None  # closes the connection after so many bytes of an answer's body
    cut_step_bytes: int = 0  # each further answer is cut so much later than the one before
    ignore_term: bool = False
    exit_late_s: float = 0.0  # lives on so long after TERM

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> EchoSettings:
        """Raise `ConfigError` for a name we do not know or a value of the wrong kind."""
        known = {field.name: str(field.type) for field in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise ConfigError(where=f"echo setting {name}", problem=N_("there is no such setting"))
            if not _fits(value, known[name]):
                raise ConfigError(where=f"echo setting {name}", problem=said("expected {kind}", kind=known[name]))
        return cls(**values)  # type: ignore[arg-type]  # checked above, by name

    def to_json(self) -> str:
        """As one argument of a command line."""
        return json.dumps(asdict(self))


def _fits(value: object, wanted: str) -> bool:
    if value is None:
        return "None" in wanted
    if wanted.startswith("bool"):
        return isinstance(value, bool)
    if wanted.startswith("str"):
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return False
    return isinstance(value, int) or wanted.startswith("float")

"""What an answer took, and the line that says so. Times are by this side's clock, tokens by the server's count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelyard.cli.terminal import Terminal
from modelyard.errors import N_

if TYPE_CHECKING:
    from modelyard.types.chat import Usage
    from modelyard.types.status import ResidentStatus


@dataclass(slots=True)
class Statistics:
    """Of one answer. Seconds; None: it did not get so far, or the server did not say."""

    first_token_s: float | None = None
    took_s: float = 0.0
    pieces: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    tokens_per_s: float | None = None

    def take(self, at_s: float) -> None:
        """A piece came, so long after the question."""
        if self.first_token_s is None:
            self.first_token_s = at_s
        self.pieces += 1

    def end(self, took_s: float, usage: Usage | None) -> None:
        """The answer is over. Its speed counts the tokens after the first."""
        self.took_s = took_s
        if usage is None:
            return
        self.input_tokens, self.output_tokens = usage.input_tokens, usage.output_tokens
        generation_s = took_s - (self.first_token_s or 0.0)
        if self.output_tokens > 1 and generation_s > 0:
            self.tokens_per_s = (self.output_tokens - 1) / generation_s


def statistics_text(terminal: Terminal, told: Statistics, resident: ResidentStatus | None = None) -> str:
    """One line; parts that are not known are left out."""
    parts: list[str] = []
    if told.first_token_s is not None:
        parts.append(terminal._(N_("first token after {time}"), time=terminal.duration(told.first_token_s)))
    if told.tokens_per_s is not None:
        parts.append(terminal._(N_("{rate} tokens/s"), rate=terminal.number(told.tokens_per_s, 1)))
    if told.output_tokens is not None:
        parts.append(terminal.counted(told.output_tokens, "{count} token", "{count} tokens"))
    held = (resident.measured_bytes or resident.reserved_bytes) if resident is not None else {}
    if total := sum(held.values()):
        gpu = sum(count for device, count in held.items() if device.startswith("gpu"))
        where = terminal._(N_("{percent} % on the GPU"), percent=round(100 * gpu / total)) if gpu else "CPU"
        parts.append(f"{terminal.size(total)}, {where}")
    return " · ".join(parts)


def verbose_text(terminal: Terminal, told: Statistics) -> str:
    """A line for each figure."""
    rows = (
        (N_("in all"), terminal.duration(told.took_s)),
        (N_("first token"), "-" if told.first_token_s is None else terminal.duration(told.first_token_s)),
        (N_("prompt"), _tokens(terminal, told.input_tokens)),
        (N_("answer"), _tokens(terminal, told.output_tokens)),
        (N_("speed"), "-" if told.tokens_per_s is None else f"{terminal.number(told.tokens_per_s, 1)} tokens/s"),
    )
    return "\n".join(f"{terminal._(name)}: {value}" for name, value in rows)


def _tokens(terminal: Terminal, count: int | None) -> str:
    return "-" if count is None else terminal.counted(count, "{count} token", "{count} tokens")

"""What one answer does, as a value: its text, its pace, and how it goes wrong. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

OOM_TEXT = "llama runner process has terminated: cudaMalloc failed: out of memory"
FOR_EVER_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool call in place of text."""

    name: str = "get_weather"
    arguments: Mapping[str, object] = field(default_factory=lambda: {"city": "Taipei"})


@dataclass(frozen=True, slots=True)
class Script:
    """One answer. Counts of tokens are those sent before the fault; times are seconds."""

    tokens: tuple[str, ...] = ("Hello", " from", " a", " fake", ".")
    tagged: bool = False  # every token is `<request>.<token> ` instead, so that gaps and foreign ones show
    tag_count: int = 8
    thinking: str = ""
    tool: Tool | None = None
    finish: Literal["stop", "length"] = "stop"
    prompt_tokens: int = 7
    # Pace.
    header_after_s: float = 0.0  # as while a model loads
    first_after_s: float = 0.0  # after the header
    alive_for_s: float = 0.0  # after the header: ten signs of life a second that hold nothing, as while a model loads
    between_s: float = 0.0
    # Faults before the answer.
    reset: bool = False  # the connection, before any answer
    status: int = 200
    error: str = "something is wrong here"  # of a status that is not 200, or of an error in the stream
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""  # another than the right one
    body: bytes | None = None  # in place of everything
    # Faults in the answer.
    stall_after: int | None = None  # tokens; then nothing, for ever
    error_after: int | None = None
    malformed_after: int | None = None
    cut_at: int | None = None  # bytes of the body
    cut_after: int | None = None  # tokens
    cut: Literal["end", "reset", "stall"] = "reset"
    without_end: bool = False  # all tokens, and neither a finish nor an end mark
    blank_lines: bool = False

    def pieces(self, number: int) -> tuple[str, ...]:
        """Its tokens, as the answer to a request of that number."""
        return tuple(f"{number}.{at} " for at in range(self.tag_count)) if self.tagged else self.tokens


# The ways in which servers are seen to fail, one line each.
FAULTS: Mapping[str, Script] = {
    "reset": Script(reset=True),
    "500": Script(status=500),
    "503": Script(status=503, error="server busy, please try again. maximum pending requests exceeded"),
    "429": Script(status=429, error="too many requests", headers={"Retry-After": "2"}),
    "429-ms": Script(status=429, error="too many requests", headers={"retry-after-ms": "1500"}),
    "401": Script(status=401, error="a key is needed"),
    "404": Script(status=404, error='model "x" not found, try pulling it first'),
    "slow-header": Script(header_after_s=FOR_EVER_S),
    "slow-first-token": Script(first_after_s=FOR_EVER_S),
    "hung": Script(header_after_s=FOR_EVER_S),
    "stall": Script(stall_after=2),
    "cut": Script(cut_after=2, cut="reset"),
    "cut-end": Script(cut_after=2, cut="end"),
    "malformed": Script(malformed_after=2),
    "error-event": Script(error_after=2, error="the model gave up"),
    "error-first": Script(error_after=0, error="the model gave up"),
    "truncated": Script(without_end=True),
    "empty": Script(body=b""),
    "html": Script(body=b"<html><body>Bad Gateway</body></html>", content_type="text/html"),
    "wrong-type": Script(content_type="text/plain"),
    "redirect": Script(status=302, headers={"Location": "http://127.0.0.1:9/elsewhere"}),
    "oom": Script(status=500, error=OOM_TEXT),
    "oom-event": Script(error_after=0, error=OOM_TEXT),
    "endless-line": Script(body=b"data: {" + b"x" * (6 * 1024 * 1024)),
    "invalid-utf8": Script(body=b'data: {"choices":[{"delta":{"content":"\xff\xfe"}}]}\n\n{"response":"\xff"}\n'),
    "blank-lines": Script(blank_lines=True),
}

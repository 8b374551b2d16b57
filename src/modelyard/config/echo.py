"""Settings of the scripted fake model: how fast it is and how it fails. Field names are the echo engine's own."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from modelyard.config.values import Bytes, Seconds


class EchoSettings(BaseModel):
    """One scripted model."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tokens_per_s: float = Field(default=100.0, gt=0, description="Speed of its answer.")
    prefill_tokens_per_s: float = Field(default=10_000.0, gt=0, description="Speed of reading a prompt.")
    load_s: Seconds = Field(default=0.0, description="Time a load takes.")
    exit_late_s: Seconds = Field(
        default=0.0, description="Time between the request to stop and the end of the process."
    )
    footprint_bytes: Bytes = Field(default=16 * 1024**2, description="What it says it needs.")
    allocate_bytes: Bytes = Field(default=0, description="What it really takes.")
    growth_bytes: Bytes = Field(default=0, description="What it takes further with each request.")
    slots: int = Field(default=1, ge=1, le=256, description="Requests it serves at once.")
    context_length: int = Field(default=4096, ge=1, description="Tokens of context per slot.")
    echo: bool = Field(default=False, description="Answer with the prompt instead of numbered tokens.")
    fail_load: int | None = Field(default=None, ge=1, le=255, description="End a load with this exit code.")
    fail_line: str = Field(default="", description="Last line before a failing load ends.")
    crash_after_tokens: int | None = Field(default=None, ge=0, description="End the process after this many tokens.")
    stall_after_tokens: int | None = Field(default=None, ge=0, description="Say nothing more after this many tokens.")
    stall_before_first: bool = Field(default=False, description="Say nothing at all.")
    cut_after_bytes: int | None = Field(default=None, ge=0, description="Close the connection after this many bytes.")
    garbage: bool = Field(default=False, description="Answer with something that is not JSON.")
    ignore_term: bool = Field(default=False, description="Do not end when asked; only when killed.")

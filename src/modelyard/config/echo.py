"""Settings of the scripted fake model: how fast it is and how it fails.

Names and defaults are those of the echo engine's script; a test compares the two, since neither may import the other.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from modelyard.config.values import Bytes, NoneText, Seconds

Tokens = Annotated[int | None, NoneText]


class EchoSettings(BaseModel):
    """One scripted model. Counts of tokens are per request."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    slots: int = Field(default=4, ge=1, le=256, description="Requests it serves at once.")
    context_length: int = Field(default=4096, ge=1, description="Tokens of context per slot.")
    reply_tokens: int = Field(default=16, ge=0, description="Length of an answer to a request without `max_tokens`.")
    tokens_per_s: float = Field(default=0.0, ge=0, description="Speed of its answer; 0: as fast as possible.")
    prefill_tokens_per_s: float = Field(default=0.0, ge=0, description="Speed of reading a prompt; 0: at once.")
    echo_prompt: bool = Field(default=False, description="Answer with the words of the last message.")
    reasoning_tokens: int = Field(default=0, ge=0, description="Tokens that come as reasoning before the text.")
    footprint_bytes: Bytes = Field(default=16 * 1024**2, description="What it says it needs.")
    allocate_bytes: Bytes = Field(default=0, description="What it really takes while it loads.")
    growth_bytes_per_token: int = Field(default=0, ge=0, description="What it takes further with each token.")
    load_s: Seconds = Field(default=0.0, description="Time a load takes.")
    fail_load: str = Field(default="", description="Last line before it ends instead of loading.")
    fail_load_code: int = Field(default=1, ge=0, le=255, description="Exit code of a load that fails.")
    stall_load: bool = Field(default=False, description="Never ready, and never a sign of life.")
    crash_after_tokens: Tokens = Field(default=None, ge=0, description="End the process after this many tokens.")
    crash_signal: int = Field(default=9, ge=0, le=64, description="The signal it ends with then.")
    stall_after_tokens: Tokens = Field(default=None, ge=0, description="Say nothing more after this many tokens.")
    stall_before_first: bool = Field(default=False, description="Say nothing at all.")
    garbage_after_tokens: Tokens = Field(default=None, ge=0, description="Send what is not JSON after this many.")
    cut_after_bytes: Tokens = Field(default=None, ge=0, description="Close the connection after this many bytes.")
    cut_step_bytes: int = Field(default=0, ge=0, description="Cut each further answer this much later.")
    ignore_term: bool = Field(default=False, description="Do not end when asked; only when killed.")
    exit_late_s: Seconds = Field(default=0.0, description="Live on this long after the request to end.")

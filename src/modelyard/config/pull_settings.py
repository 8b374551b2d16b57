"""The settings about models pulled onto this machine. See schema.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from modelyard.config.section import Section
from modelyard.config.values import NoneText, Seconds

HostName = Annotated[str, Field(pattern=r"^(\*\.)?[A-Za-z0-9]([A-Za-z0-9.-]{0,252})(:\d{1,5})?$")]


class PullSettings(Section):
    """Models that are pulled onto this machine: where they are kept, and whom files may come from."""

    store: Annotated[Path | None, NoneText] = Field(
        default=None, description="Folder of the store. Not given: `store` of `modelyard paths`."
    )
    hosts: tuple[HostName, ...] = Field(
        default=("huggingface.co", "*.huggingface.co", "hf.co", "*.hf.co"), max_length=100,
        description="Hosts that files may come from, `*.` for all below a name. The hub that HF_ENDPOINT names may "
        "send its own files; whoever it redirects to must be one of these.",
    )  # fmt: skip
    attempts_max: int = Field(
        default=5, ge=1, le=100, description="Attempts in a row without a byte of progress, then a pull ends."
    )
    backoff_s: Seconds = Field(default=1.0, description="Wait before the second attempt; doubles, up to 30 s.")
    silence_s: Seconds = Field(default=30.0, gt=0, description="A download that is silent for so long is begun anew.")

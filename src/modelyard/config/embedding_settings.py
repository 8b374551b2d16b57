"""The settings about models that embed or rank: how long and how many they stay, and what is kept of their vectors."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from modelyard.config.section import Section
from modelyard.config.values import Bytes, NoneText, Ttl


class EmbeddingSettings(Section):
    """Models that embed or rank."""

    idle_ttl_s: Ttl = Field(
        default=300.0,
        description="Unload a model that embeds or ranks this long after its last request; negative: never. A model's "
        "own `idle_ttl_s` wins, and nothing is unloaded while `residency.unload_enabled` is off.",
    )
    resident_max: Annotated[int | None, NoneText] = Field(
        default=4,
        ge=1,
        description="How many of them are in memory at a time; the one not used for longest leaves for the next. "
        "`none`: as many as fit. A model with a `group` of its own is counted there instead.",
    )
    cache_bytes: Bytes = Field(
        default=64 * 1024**2,
        description="Memory of the server for vectors of inputs that were embedded before; 0 keeps none.",
    )

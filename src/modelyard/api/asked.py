"""What a body of any dialect becomes: our request, and how its answer is to be written. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modelyard.types.chat import InferenceRequest

Act = Literal["", "load", "unload"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request and how its answer is to be written."""

    request: InferenceRequest
    stream: bool
    include_usage: bool = False
    act: Act = ""  # instead of an answer: bring the model in, or let it go

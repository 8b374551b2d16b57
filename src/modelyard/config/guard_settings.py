"""The settings about prompts that are refused before a model sees them. See schema.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from modelyard.config.section import Section
from modelyard.config.values import Seconds
from modelyard.errors import said

PHRASE_CHARS_MIN, PHRASE_CHARS_MAX = 3, 500
PHRASES_MAX = 1000


def _phrase(text: str) -> str:
    if not PHRASE_CHARS_MIN <= len("".join(text.split())) <= PHRASE_CHARS_MAX:
        raise ValueError(
            said(
                "a phrase has {phrase_chars_min} to {phrase_chars_max} characters that are not spaces",
                phrase_chars_min=PHRASE_CHARS_MIN,
                phrase_chars_max=PHRASE_CHARS_MAX,
            )
        )
    return text


class GuardSettings(Section):
    """Prompts that are refused before a model sees them. Off by default, and weak: whoever knows a phrase writes
    another, in another language, in an image. They keep mistakes out, and nobody who means it.
    """

    deny: tuple[Annotated[str, AfterValidator(_phrase)], ...] = Field(
        default=(), max_length=PHRASES_MAX,
        description="Phrases that no prompt may have, in any part of it. Case, width and white space do not matter. "
        "They are plain text: patterns belong into a `hook`, since a bad one can stall a process.",
    )  # fmt: skip
    hook: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_.-]{0,100}$",
        description="Name of an installed function that decides about every prompt: an entry point of the group "
        "`modelyard.guards`, called as `f(text=..., caller=..., model=...)` in a thread. It gives None, or the reason "
        "for a refusal, which the caller reads. Loaded at the start, and only if it is named here.",
    )
    hook_s: Seconds = Field(default=2.0, gt=0, le=60, description="How long the hook may take.")
    on_failure: Literal["refuse", "pass"] = Field(
        default="refuse", description="What becomes of a request whose hook fails or takes too long."
    )

"""Who may be asked again, how often, and how long after. Knows no HTTP client.

1. No connection: whatever was asked was not heard, so anything may be asked again.
2. The connection was lost: a look always; work only if the server had not begun to answer, since what it made would be
   made twice; a pull always, since the server goes on where it was.
3. Silence (a read timeout): a look only. A server that is slow at a generation would be given the same work again.
4. Anything a server said, and waiting for a free connection of our own: never.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import stamina

from modelyard.client.ollama_questions import Kind, Question
from modelyard.errors import OllamaConnectionError


class Attempts(Protocol):
    """What `for` and `async for` go through, a `with` block for each attempt; the last one's failure comes out."""

    def __iter__(self) -> Iterator[stamina.Attempt]: ...

    def __aiter__(self) -> AsyncIterator[stamina.Attempt]: ...


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a call is tried in all, and the waits between: they double from the first to the longest."""

    attempts_max: int = 3
    pull_attempts_max: int = 2
    wait_first_s: float = 1.0
    wait_max_s: float = 10.0
    jitter_s: float = 1.0  # at most this is added, so that clients of one server do not come back together

    def attempts(self, question: Question) -> Attempts:
        """The attempts at one question."""
        return stamina.retry_context(
            partial(may_ask_again, question.kind),
            attempts=self.pull_attempts_max if question.kind is Kind.PULL else self.attempts_max,
            timeout=None,  # a failed attempt may have taken its whole read timeout
            wait_initial=self.wait_first_s,
            wait_max=self.wait_max_s,
            wait_jitter=self.jitter_s,
        ).with_name(f"{question.method} {question.path}", (), {})


def may_ask_again(kind: Kind, error: BaseException) -> bool:
    """Whether the same question may be asked again after this failure."""
    if not isinstance(error, OllamaConnectionError):
        return False
    match error.fields.get("trouble"):
        case "connect":  # (1)
            return True
        case "lost":  # (2)
            return kind is not Kind.WORK or not error.fields.get("has_begun")
        case "silence":  # (3)
            return kind is Kind.LOOK
    return False  # (4)

"""What a request weighs, and what it should stay with: its tokens, roughly, its session, the beginning of its prompt.

Pure. Counted from characters, since only a model's own tokenizer could tell, and it is not here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modelyard.providers.ticket import Ticket
from modelyard.types.chat import InferenceRequest, TextPart
from modelyard.types.embeddings import Input

from .ranking import work_tokens

CHARS_PER_TOKEN = 4
ANSWER_TOKENS_ASSUMED = 256  # where the request sets no limit
BEGINNING_CHARS = 512


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the ranking needs to know of a request."""

    prompt_tokens: int
    answer_tokens: int
    session: str = ""
    beginning: str = ""  # of the prompt: who read it last may still have it
    keep_alive_s: float | None = None  # how long the model should stay; negative: for ever, None: as its node likes

    @property
    def work(self) -> int:
        """As the ranking counts it, in tokens written."""
        return work_tokens(self.prompt_tokens, self.answer_tokens)


def wanted_chat(request: InferenceRequest, ticket: Ticket) -> Wanted:
    """Of a chat or a plain completion.

    >>> from modelyard.types.chat import Message
    >>> ticket = Ticket("r1", request_id="x", route="/", caller_id="me", started_at=0.0)
    >>> wanted_chat(InferenceRequest("m", (Message("user", "x" * 400),), max_tokens=50), ticket).prompt_tokens
    100
    """
    count, beginning = 0, ""
    for message in request.messages:
        text = _text(message.content)
        count += len(text)
        if len(beginning) < BEGINNING_CHARS:
            beginning += f"{message.role}\0{text[:BEGINNING_CHARS]}\0"
    if isinstance(request.prompt, str):
        count, beginning = len(request.prompt), request.prompt
    elif request.prompt is not None:
        count, beginning = len(request.prompt) * CHARS_PER_TOKEN, repr(request.prompt[:BEGINNING_CHARS])
    answer = ANSWER_TOKENS_ASSUMED if request.max_tokens is None else request.max_tokens
    return Wanted(count // CHARS_PER_TOKEN, answer, ticket.affinity, beginning[:BEGINNING_CHARS], request.keep_alive_s)


def wanted_embeddings(inputs: Iterable[Input], ticket: Ticket, keep_alive_s: float | None = None) -> Wanted:
    """Of texts to embed or to order: nothing of them is kept anywhere, so they may go anywhere."""
    count = sum(len(text) if isinstance(text, str) else len(text) * CHARS_PER_TOKEN for text in inputs)
    return Wanted(count // CHARS_PER_TOKEN, 0, ticket.affinity, keep_alive_s=keep_alive_s)


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.text for part in content if isinstance(part, TextPart)) if isinstance(content, tuple) else ""

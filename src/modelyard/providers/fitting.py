"""Keeps a prompt within its limits: refuses what is too long, with the counts, or leaves out what may go.

Costs nothing where no limit is near. Who counts is handed in: the tokenizer of the model's own worker where there is
one, else an estimate, and what rests on one says so. What may go is decided in trimming.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from modelyard.errors import N_, ContextLengthExceeded
from modelyard.types.chat import InferenceRequest, Trimmed

from .prompt_tokens import bytes_at_most, messages_about, text_about, tokens_about, tokens_at_most
from .ticket import Ticket
from .trimming import MARKER_CHARS, cut_text, kept_places, text_of, with_text

ANSWER_TOKENS_KEPT = 256  # of a context, for an answer whose length nobody gave
ROUNDS_MAX = 6  # of leaving out and counting again
MESSAGES_COUNTED_MAX = 32  # one by one; further ones are estimated
LONG = N_("The prompt has {about}{prompt_tokens} tokens; the limit for {model} is {limit}.")
MESSAGE_LONG = N_("Message {place} has {about}{prompt_tokens} tokens; the limit for one message is {limit}.")
RAISE = N_("Shorten the prompt, or raise the limit: prompts.max_input_tokens (MAX_INPUT_TOKENS).")
RAISE_MESSAGE = N_("Shorten the message, or raise the limit: prompts.max_message_tokens.")
TRIM = N_("Or have old turns left out: prompts.trim = true.")
LEAST = N_("What always stays, system messages and the last turn, has {least} tokens by itself.")


@dataclass(frozen=True, slots=True)
class PromptLimits:
    """How long prompts to a model may be; None: as long as its context."""

    max_input_tokens: int | None = None
    max_message_tokens: int | None = None
    trim: bool = False  # leave out old turns instead of refusing


NO_LIMITS = PromptLimits()
LimitsOf = Callable[[str], PromptLimits]  # by a model's name


class Counter(Protocol):
    """Who counts tokens. None: it cannot tell."""

    async def prompt(self, request: InferenceRequest) -> int | None: ...

    async def text(self, text: str) -> int | None: ...


class NoCounter:
    """Where there is no tokenizer."""

    async def prompt(self, request: InferenceRequest) -> int | None:
        return None

    async def text(self, text: str) -> int | None:
        return None


async def fitted(
    request: InferenceRequest,
    limits: PromptLimits,
    counter: Counter,
    ticket: Ticket,
    *,
    model: str,
    context_length: int = 0,
) -> InferenceRequest:
    """The request within its limits. What was left out is noted on the ticket."""
    ticket.trimmed = None
    if limits == NO_LIMITS:
        return request
    fit = _Fit(limits, counter, model, _room(request, limits, context_length))
    shorter = await fit.whole(await fit.messages(request))
    if shorter is not request:
        ticket.trimmed = fit.told(request, shorter)
    return shorter


def _room(request: InferenceRequest, limits: PromptLimits, context_length: int) -> int | None:
    """Tokens that the prompt may have; None: nobody but the engine says."""
    if not limits.trim or not context_length:
        return limits.max_input_tokens
    answer = ANSWER_TOKENS_KEPT if request.max_tokens is None else request.max_tokens
    room = context_length - min(answer, context_length // 2)
    return room if limits.max_input_tokens is None else min(room, limits.max_input_tokens)


class _Fit:
    """One request on its way into its limits."""

    def __init__(self, limits: PromptLimits, counter: Counter, model: str, room: int | None) -> None:
        self._limits, self._counter, self._model, self._room = limits, counter, model, room
        self._before: int | None = None
        self._after = 0
        self._is_estimated = False
        self._characters = 0

    async def messages(self, request: InferenceRequest) -> InferenceRequest:
        """Each message within the limit for one."""
        limit = self._limits.max_message_tokens
        if limit is None or not request.messages:
            return request
        kept = list(request.messages)
        long = [place for place, one in enumerate(kept) if bytes_at_most(text_of(one)) > limit]
        for number, place in enumerate(long):
            text = text_of(kept[place])
            shorter = await self._text(text, limit, place, is_counted=number < MESSAGES_COUNTED_MAX)
            if shorter is not text:
                kept[place] = with_text(kept[place], shorter)
        return request if tuple(kept) == request.messages else replace(request, messages=tuple(kept))

    async def _text(self, text: str, limit: int, place: int, *, is_counted: bool) -> str:
        async def count(candidate: str) -> int:
            found = await self._counter.text(candidate) if is_counted else None
            self._is_estimated |= found is None
            return text_about(candidate) if found is None else found

        tokens = await count(text)
        if tokens <= limit:
            return text
        if not self._limits.trim:
            raise self._too_long(MESSAGE_LONG, tokens, limit, (RAISE_MESSAGE, TRIM), place)
        shorter, chars = text, len(text)
        for _round in range(ROUNDS_MAX):
            chars = int(chars * limit / tokens) - 1
            shorter = cut_text(text, max(chars, MARKER_CHARS))
            tokens = await count(shorter)
            if tokens <= limit:
                break
        self._characters += len(text) - len(shorter)
        return shorter

    async def whole(self, request: InferenceRequest) -> InferenceRequest:
        """All of it within the limit for a prompt."""
        if self._room is None or tokens_at_most(request) <= self._room:
            return request
        tokens = self._before = self._after = await self._count(request)
        if tokens <= self._room:
            return request
        if not self._limits.trim:
            raise self._too_long(LONG, tokens, self._room, (RAISE, TRIM))
        shorten = self._fewer_messages if request.is_chat else self._shorter_prompt
        room = float(self._room)
        for _round in range(ROUNDS_MAX):
            shorter = shorten(request, tokens, room)
            if shorter is None:
                break
            request, tokens = shorter, await self._count(shorter)
            if tokens <= self._room:
                self._after = tokens
                return request
            room = self._room * 0.9
        raise self._too_long(LONG, self._before, self._room, (RAISE, LEAST), least=tokens)

    def _fewer_messages(self, request: InferenceRequest, tokens: int, room: float) -> InferenceRequest | None:
        about = messages_about(request.messages)
        if not about:
            return None
        scale = tokens / sum(about)  # what the template writes, and how this text is counted
        places = kept_places(request.messages, [one * scale for one in about], room)
        if len(places) == len(request.messages):
            return None
        return replace(request, messages=tuple(request.messages[place] for place in places))

    def _shorter_prompt(self, request: InferenceRequest, tokens: int, room: float) -> InferenceRequest | None:
        """A text to be continued keeps its end, without a marker: the model would go on from it."""
        prompt = request.prompt or ""
        kept = int(len(prompt) * room / tokens)
        if isinstance(prompt, tuple):
            kept = min(kept, self._room or kept)
        if not 0 < kept < len(prompt):
            return None
        self._characters += len(prompt) - kept
        return replace(request, prompt=prompt[-kept:])

    async def _count(self, request: InferenceRequest) -> int:
        if isinstance(request.prompt, tuple):
            return len(request.prompt)
        found = await self._counter.prompt(request)
        self._is_estimated |= found is None
        return tokens_about(request) if found is None else found

    def _too_long(
        self, text: str, tokens: int, limit: int, hints: tuple[str, ...], place: int | None = None,
        least: int | None = None,
    ) -> ContextLengthExceeded:  # fmt: skip
        fields: dict[str, object] = {"model": self._model, "limit": limit, "prompt_tokens": tokens}
        fields["about"] = "about " if self._is_estimated else ""
        fields |= {} if place is None else {"place": place}
        fields |= {} if least is None else {"least": least}
        error = ContextLengthExceeded(text, hints=hints, param=None if place is None else f"messages[{place}]")
        error.fields.update(fields)
        return error

    def told(self, before: InferenceRequest, after: InferenceRequest) -> Trimmed:
        """What was left out."""
        tokens_before = tokens_about(before) if self._before is None else self._before
        tokens_after = tokens_about(after) if self._before is None else self._after
        gone = len(before.messages) - len(after.messages)
        return Trimmed(gone, self._characters, tokens_before, tokens_after, self._is_estimated or self._before is None)

"""Refuses prompts before any model is asked: for a phrase they have, or because a function of the operator's says so.

Weak by nature, and off unless configured. Promises: whatever a prompt or a hook does, the event loop goes on; a hook
that hangs costs the requests that wait for it their time, and no more than `HOOKS_MAX` threads. Prompts are never
logged.
"""

from __future__ import annotations

import asyncio
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

import structlog

from modelyard.errors import N_, ConfigError, GuardUnavailable, PromptRefused
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import InferenceRequest, Message, TextPart

GROUP = "modelyard.guards"
HOOKS_MAX = 16  # that run at a time, hung ones among them
PIECE_CHARS = 8192  # folded at once: a thread of ours never holds the interpreter for longer
SEARCHED_CHARS = 256 * 1024  # and the same for each search
AT_ONCE_CHARS_MAX = 200_000  # phrases times characters; more is a thread's work
REASON_CHARS_MAX = 200
PHRASE = N_("it has a phrase that is not allowed here")
TOKENS = N_("a prompt of token numbers cannot be read by it")

log = structlog.get_logger()


class Hook(Protocol):
    """An operator's function: None, or why a prompt is refused."""

    def __call__(self, *, text: str, caller: str, model: str) -> str | None: ...


@dataclass(frozen=True, slots=True)
class GuardRules:
    """What prompts are held to."""

    phrases: tuple[str, ...] = ()  # folded
    hook_s: float = 2.0
    passes_on_failure: bool = False


class PromptGuards:
    """The guards of one node."""

    def __init__(self, rules: GuardRules | None = None, hook: Hook | None = None, name: str = "") -> None:
        self.rules = rules or GuardRules()
        self._hook, self._name = hook, name
        self._free = asyncio.Semaphore(HOOKS_MAX)

    async def check(self, request: InferenceRequest, ticket: Ticket) -> None:
        """Raise `PromptRefused` for what may not be asked."""
        phrases = self.rules.phrases
        if not phrases and self._hook is None:
            return
        if isinstance(request.prompt, tuple):
            raise self._refused(ticket, "tokens", TOKENS)
        text = "\n".join(texts_of(request))
        if phrases:
            is_small = len(text) * len(phrases) <= AT_ONCE_CHARS_MAX
            place = first_of(phrases, text) if is_small else await asyncio.to_thread(first_of, phrases, text)
            if place is not None:
                raise self._refused(ticket, f"deny[{place}]", PHRASE)
        if self._hook is not None:
            await self._ask(self._hook, text, ticket)

    async def _ask(self, hook: Hook, text: str, ticket: Ticket) -> None:
        rules = self.rules
        try:
            async with asyncio.timeout(rules.hook_s):
                reason = await self._in_thread(hook, text, ticket)
            if reason is not None and not isinstance(reason, str):
                raise TypeError("a guard gives None or a text")
        except Exception as failure:
            log.error(
                "guard.failed", guard=self._name, error=type(failure).__qualname__, caller=ticket.caller_id,
                request_id=ticket.request_id, passed=rules.passes_on_failure,
            )  # fmt: skip
            if not rules.passes_on_failure:
                raise GuardUnavailable from None
            return
        if reason is not None:
            shown = "".join(sign if sign.isprintable() else " " for sign in reason[:REASON_CHARS_MAX]).strip()
            raise self._refused(ticket, self._name, shown or "no reason given")

    async def _in_thread(self, hook: Hook, text: str, ticket: Ticket) -> object:
        """A thread that nobody waits for at the end: one that hangs must not keep the process."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[object] = loop.create_future()
        caller, model = ticket.caller_id, ticket.model

        def tell(result: object, failure: Exception | None) -> None:
            self._free.release()
            if answer.done():
                return
            if failure is not None:
                answer.set_exception(failure)
            else:
                answer.set_result(result)

        def run() -> None:
            result, failure = None, None
            try:
                result = hook(text=text, caller=caller, model=model)
            except BaseException as raised:  # also one that wants to end the process
                failure = raised if isinstance(raised, Exception) else RuntimeError(type(raised).__qualname__)
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(tell, result, failure)

        await self._free.acquire()
        try:
            threading.Thread(target=run, name="guard", daemon=True).start()
        except RuntimeError:  # the system gives no more threads
            self._free.release()
            raise
        return await answer

    def _refused(self, ticket: Ticket, guard: str, reason: str) -> PromptRefused:
        log.warning(
            "guard.refused", guard=guard, caller=ticket.caller_id, model=ticket.model, request_id=ticket.request_id
        )
        return PromptRefused(reason=reason)


def load_hook(name: str, where: str) -> Hook | None:
    """The installed function of that name; None if none is named."""
    if not name:
        return None
    found = next(iter(entry_points(group=GROUP, name=name)), None)
    if found is None:
        known = ", ".join(sorted({one.name for one in entry_points(group=GROUP)})) or "none"
        raise ConfigError(
            N_("{where}: guards.hook: no installed package has a guard named {name}; there are: {known}"),
            hints=(N_("A package declares one as an entry point of the group modelyard.guards."),),
            where=where, name=name, known=known,
        )  # fmt: skip
    try:
        hook = found.load()
    except Exception as failure:
        raise ConfigError(
            N_("{where}: guards.hook: {name} cannot be loaded: {problem}"),
            where=where, name=name, problem=f"{type(failure).__qualname__}: {failure}",
        ) from failure  # fmt: skip
    if not callable(hook):
        raise ConfigError(N_("{where}: guards.hook: {name} is no function"), where=where, name=name)
    return hook  # type: ignore[no-any-return]


def texts_of(request: InferenceRequest) -> Iterator[str]:
    """Everything in a request that a model reads as text."""
    for message in request.messages:
        yield from _texts(message)
    for tool in request.tools:
        yield from (tool.name, tool.description or "")
    if isinstance(request.prompt, str):
        yield request.prompt
    if request.suffix:
        yield request.suffix


def _texts(message: Message) -> Iterator[str]:
    content = message.content
    if isinstance(content, str):
        yield content
    elif content is not None:
        yield from (part.text for part in content if isinstance(part, TextPart))
    if message.reasoning:
        yield message.reasoning
    for call in message.tool_calls:
        yield from (call.name, call.arguments)


def first_of(phrases: tuple[str, ...], text: str) -> int | None:
    """The place of a folded phrase that a text has."""
    whole, longest = folded(text), max(map(len, phrases))
    for start in range(0, len(whole), SEARCHED_CHARS):
        part = whole[start : start + SEARCHED_CHARS + longest]
        for place, phrase in enumerate(phrases):
            if phrase in part:
                return place
    return None


def folded(text: str) -> str:
    """A text as it is compared: without case, width and kinds of white space.

    >>> folded("  Ignore\\n\\tALL  Ｐrevious ")
    ' ignore all previous '
    """
    pieces: list[str] = []
    ends_with_space = False
    for start in range(0, len(text), PIECE_CHARS):
        piece = unicodedata.normalize("NFKC", text[start : start + PIECE_CHARS]).casefold()
        begins, ends = piece[:1].isspace(), piece[-1:].isspace()
        core = " ".join(piece.split())
        if begins and not ends_with_space:
            pieces.append(" ")
        pieces.append(core)
        if ends and core:
            pieces.append(" ")
        ends_with_space = ends if core else begins or ends_with_space
    return "".join(pieces)

"""One question, one streamed answer: for `ask` and `chat`. Whatever ends it early also ends the work on the server."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelyard.cli.markdown.stream import Markdown
from modelyard.cli.phase import PhaseLine
from modelyard.cli.session import Session
from modelyard.cli.statistics import Statistics
from modelyard.cli.terminal import Terminal, plain
from modelyard.errors import N_, CapabilityMissing, ModelNotFound, NotFound, YardError
from modelyard.types.chat import Delta, Message, Usage
from modelyard.types.model import Capability

if TYPE_CHECKING:
    from modelyard.client.http import YardClient
    from modelyard.client.replies import ModelEntry

BUILTIN = "yardling"


@dataclass(slots=True)
class Answer:
    """What came. `failure` and `is_interrupted` say why it may not be all."""

    text: str = ""
    thinking: str = ""
    finish: str | None = None
    usage: Usage | None = None
    is_interrupted: bool = False
    failure: YardError | None = None
    statistics: Statistics = field(default_factory=Statistics)
    request_id: str = ""
    receipt: dict[str, str] = field(default_factory=dict)  # who answered and what it took, in the server's words

    @property
    def is_over(self) -> bool:
        """Nothing more comes, for whatever reason."""
        return self.finish is not None or self.is_interrupted or self.failure is not None

    @property
    def is_complete(self) -> bool:
        """The server said that this is all."""
        return self.finish is not None and not self.is_interrupted and self.failure is None


class Writer:
    """Writes an answer where it belongs: drawn for a person, as it is for a pipe; what it thinks beside it."""

    def __init__(self, terminal: Terminal, *, is_shown: bool, shows_thinking: bool) -> None:
        self._terminal, self._is_shown = terminal, is_shown
        self._shows_thinking = shows_thinking and terminal.is_watched and is_shown
        self._is_thinking = False
        self._thought_lines_ended = 0
        self.markdown = Markdown(terminal.columns) if terminal.shows_markdown else None

    def think(self, text: str) -> None:
        """A piece of what the model thinks."""
        if self._shows_thinking and text:
            if not self._is_thinking:
                self._terminal.thinking(self._terminal._(N_("Thinking:")) + " ")
            self._is_thinking = True
            self._terminal.thinking(text)
            self._thought_lines_ended = min(2, len(text) - len(text.rstrip("\n")))

    def answer(self, text: str) -> None:
        """A piece of the answer."""
        if not text or not self._is_shown:
            return
        self._end_thinking()
        if self.markdown is None:
            self._terminal.answer(text)
        else:
            self.markdown.resize(self._terminal.columns)
            self._terminal.shown(self.markdown.feed(plain(text)))

    def end(self, *, is_cut_off: bool = False) -> None:
        """Write what was held back, and end the line."""
        self._terminal.clear_status()
        self._end_thinking()
        if self._is_shown and self.markdown is not None:
            self._terminal.shown(self.markdown.end())
        self._terminal.end_answer(is_cut_off=is_cut_off)

    def _end_thinking(self) -> None:
        if self._is_thinking:
            self._is_thinking = False
            self._terminal.thinking("\n\n"[self._thought_lines_ended :])


def stream_answer(
    session: Session,
    client: YardClient,
    model: str,
    messages: Sequence[Message],
    options: Mapping[str, object],
    *,
    is_shown: bool = True,
    shows_thinking: bool = True,
) -> Answer:
    """Ask, and print the pieces as they come. Ctrl-C closes the connection and returns what has come so far."""
    answer = Answer(request_id=new_request_id())
    writer = Writer(session.terminal, is_shown=is_shown, shows_thinking=shows_thinking)
    with PhaseLine(session, client.url, answer.request_id) as phase:

        def take(piece: Delta) -> None:
            if piece.text or (piece.reasoning and shows_thinking):
                phase.close()
            elif piece.reasoning:
                phase.tell(N_("thinking"))
            writer.think(piece.reasoning)
            writer.answer(piece.text)

        receive(answer, client, model, messages, options, take)
    writer.end(is_cut_off=answer.is_interrupted)
    return answer


def new_request_id() -> str:
    """An id by which the server knows our request."""
    return f"cli-{secrets.token_hex(8)}"


def receive(
    answer: Answer,
    client: YardClient,
    model: str,
    messages: Sequence[Message],
    options: Mapping[str, object],
    take: Callable[[Delta], None] = lambda _piece: None,
) -> None:
    """Ask, and write down what comes; each piece is handed on. What goes wrong is written down too."""
    began, texts, thoughts = time.monotonic(), [], []
    try:
        with client.chat(model, messages, request_id=answer.request_id, options=options) as stream:
            answer.receipt = stream.receipt
            for piece in stream:
                if isinstance(piece, Usage):
                    answer.usage = piece
                elif isinstance(piece, Delta):
                    if piece.has_content:
                        answer.statistics.take(time.monotonic() - began)
                    texts.append(piece.text)
                    thoughts.append(piece.reasoning)
                    answer.finish = piece.finish or answer.finish
                    take(piece)
    except KeyboardInterrupt:
        answer.is_interrupted = True
    except YardError as error:
        answer.failure = error
    answer.text, answer.thinking = "".join(texts), "".join(thoughts)
    answer.statistics.end(time.monotonic() - began, answer.usage)


def pick_model(client: YardClient, *, sees: bool = False) -> ModelEntry:
    """The model to use when none is named: one in memory, else the first that can chat, the built-in one last.

    With `sees`, only those that take pictures. Needs no more of a server than its list of models.
    """
    usable = [entry for entry in client.models() if can_chat(entry) and (not sees or takes_images(entry))]
    if not usable:
        without = N_("The server at {url} has no model that takes pictures.")
        raise ModelNotFound(
            without if sees else N_("The server at {url} has no model that can chat."),
            hints=(N_("`modelyard list` shows what it has."),),
            url=client.url,
        )
    return min(usable, key=lambda entry: (entry.state != "resident", entry.name == BUILTIN))


def require_chat(client: YardClient, model: str, *, sees: bool = False) -> ModelEntry:
    """The model as the server tells of it.

    Raises now, and not after the first question, if there is none, or it cannot chat, or, with `sees`, takes no
    pictures.
    """
    entry = _entry(client, model)
    if entry.problem or not can_chat(entry):
        raise CapabilityMissing(model=model, capability=entry.problem or "chat")
    if sees and not takes_images(entry):
        raise CapabilityMissing(model=model, capability=Capability.IMAGES)
    return entry


def _entry(client: YardClient, model: str) -> ModelEntry:
    try:
        return client.show(model)
    except ModelNotFound:
        raise
    except NotFound:  # a server that only lists its models
        for entry in client.models():
            if entry.name == model:
                return entry
        raise


def takes_images(entry: ModelEntry) -> bool:
    """Whether a model sees pictures, or its server does not say."""
    return not entry.capabilities or Capability.IMAGES in entry.capabilities


def can_chat(entry: ModelEntry) -> bool:
    """Whether a model can chat, or its server does not say."""
    return not entry.problem and (not entry.capabilities or Capability.CHAT in entry.capabilities)

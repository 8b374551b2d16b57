"""The turns of a chat: what is asked, with which settings, what is kept. Reads no keys and knows no commands."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from modelyard.cli.answering import Answer, stream_answer
from modelyard.cli.chat.store import Kept, Store, StoreUnusable, Turn
from modelyard.cli.session import Session
from modelyard.cli.statistics import statistics_text, verbose_text
from modelyard.errors import N_, YardError
from modelyard.types.chat import ImagePart, Message, Part, TextPart

if TYPE_CHECKING:
    from modelyard.client.http import YardClient
    from modelyard.types.status import ResidentStatus


@dataclass(slots=True)
class Settings:
    """What a person may change while they talk."""

    system: str = ""
    options: dict[str, object] = field(default_factory=dict)  # OpenAI's members
    shows_thinking: bool = True
    shows_statistics: bool = False
    is_verbose: bool = False


class Conversation:
    """One chat with one server; the model may change on the way."""

    def __init__(
        self, session: Session, client: YardClient, model: str, settings: Settings, store: Store | None = None
    ) -> None:
        self.model = model
        self.settings = settings
        self.turns: list[Turn] = []
        self.images: list[ImagePart] = []  # for the next question
        self.last: Answer | None = None
        self.failure: YardError | None = None  # the last one, until an answer came
        self.client = client
        self.session = session
        self.id = ""  # where it is kept
        self.store = store

    def take_up(self, kept: Kept) -> None:
        """Go on where a kept one ended."""
        self.id, self.turns = kept.id, list(kept.turns)
        self.settings.system = self.settings.system or kept.system

    def messages(self, question: str) -> list[Message]:
        """What the model is sent: instructions, the turns so far, the question."""
        found = [Message("system", self.settings.system)] if self.settings.system else []
        for turn in self.turns:
            found.append(Message("user", turn.question))
            if turn.answer:
                found.append(Message("assistant", turn.answer))
        parts: tuple[Part, ...] = (TextPart(question), *self.images)
        return [*found, Message("user", parts if self.images else question)]

    def ask(self, question: str) -> None:
        """One turn. Raises what went wrong, after what came of the answer was shown and kept."""
        terminal = self.session.terminal
        answer = stream_answer(
            self.session,
            self.client,
            self.model,
            self.messages(question),
            self.settings.options,
            shows_thinking=self.settings.shows_thinking,
        )
        self.last, self.failure = answer, answer.failure
        if answer.text or answer.failure is None:
            self.images = []
            self._keep(
                Turn(question, answer.text, answer.is_complete, self.model, time.time(), asdict(answer.statistics))
            )
        if answer.is_interrupted:
            terminal.say(N_("(interrupted)"))
        elif answer.failure:
            if answer.text:
                terminal.say(N_("(the answer is incomplete)"))
            raise answer.failure
        elif answer.finish == "length":
            terminal.say(N_("(the answer reached its longest length)"))
        if answer.failure is None:
            self._tell(answer)

    def undo(self) -> Turn | None:
        """Take the last turn back."""
        if not self.turns:
            return None
        turn = self.turns.pop()
        self._stored(lambda store: store.cut(self.id, len(self.turns)))
        return turn

    def forget(self) -> None:
        """Begin anew; what was kept stays where it is."""
        self.turns, self.id, self.last = [], "", None

    def resident(self) -> ResidentStatus | None:
        """What the model holds, as far as we may know."""
        try:
            found = self.client.status().residents
        except YardError:
            return None
        return next((one for one in found if one.model == self.model), None)

    def _tell(self, answer: Answer) -> None:
        terminal = self.session.terminal
        if self.settings.is_verbose:
            terminal.faint(verbose_text(terminal, answer.statistics))
        elif self.settings.shows_statistics:
            terminal.faint(statistics_text(terminal, answer.statistics, self.resident()))

    def _keep(self, turn: Turn) -> None:
        self.turns.append(turn)

        def write(store: Store) -> None:
            if not self.id:
                self.id = store.begin(turn.question, self.model, self.settings.system)
                for number, earlier in enumerate(self.turns[:-1]):
                    store.add(self.id, number, earlier)
            store.add(self.id, len(self.turns) - 1, turn)

        self._stored(write)

    def _stored(self, change: Callable[[Store], None]) -> None:
        """A chat goes on if it cannot be kept; that is said once."""
        if self.store is None:
            return
        try:
            change(self.store)
        except StoreUnusable as problem:
            self.store = None
            self.session.terminal.fail(problem)

"""The turns of a chat: what is asked, with which settings, what is kept. Reads no keys and knows no commands."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from modelyard.cli.answering import Answer, stream_answer, takes_images
from modelyard.cli.chat.store import Changed, Kept, Store, StoreUnusable, Turn, title_of
from modelyard.cli.session import Session
from modelyard.cli.statistics import statistics_text, verbose_text
from modelyard.errors import N_, YardError
from modelyard.types.chat import ImagePart, Message, Part, TextPart

if TYPE_CHECKING:
    from modelyard.client.http import YardClient
    from modelyard.client.replies import ModelEntry
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
        self.is_kept = store is not None
        self.is_private = False  # nor is what was typed kept
        self._first_kept = 0  # the turns before this one were private
        self._written: list[float] = []  # when the turns were made that are in the store
        self._began_at = time.time()
        self._unanswered: tuple[Turn, list[Turn]] | None = None  # the last question if nothing came, what was before it
        self._takes_images = True

    def take_up(self, kept: Kept) -> None:
        """Go on where a kept one ended."""
        self.turns, self._began_at = list(kept.turns), kept.created_at
        if self.is_kept:
            self.id, self._written = kept.id, [turn.at for turn in kept.turns]
        self.settings.system = self.settings.system or kept.system

    def switch(self, model: str, entry: ModelEntry) -> None:
        """Talk to another model from now on."""
        self.model, self._takes_images = model, takes_images(entry)

    def messages(self, before: Sequence[Turn], turn: Turn) -> list[Message]:
        """What the model is sent: instructions, the turns so far, the question.

        What was never answered is left out: many templates want question and answer in turn. So are the pictures of
        earlier turns where the model of now takes none.
        """
        found = [Message("system", self.settings.system)] if self.settings.system else []
        for one in before:
            if one.answer:
                found.append(_question(one if self._takes_images else replace(one, images=())))
                found.append(Message("assistant", one.answer))
        return [*found, _question(turn)]

    def ask(self, question: str) -> None:
        """One turn. Raises what went wrong, after what came of the answer was shown and kept."""
        images, self.images = tuple(self.images), []
        self._ask(Turn(question, "", images=images), self.turns)

    def retry(self) -> bool:
        """Ask the last question again; its old answer stays until there is another. False: there is no question."""
        if self._unanswered is not None:
            turn, before = self._unanswered
        elif self.turns:
            turn, before = self.turns[-1], self.turns[:-1]
        else:
            return False
        self._ask(turn, before)
        return True

    def undo(self) -> Turn | None:
        """Take the last turn back."""
        self._unanswered = None
        if not self.turns:
            return None
        turn = self.turns.pop()
        self._first_kept = min(self._first_kept, len(self.turns))
        if self.id:
            self._save()
        return turn

    def forget(self) -> None:
        """Begin anew; what was kept stays where it is."""
        self.turns, self.images, self.last, self._unanswered = [], [], None, None
        self._began_at = time.time()
        self._leave_kept()

    def keep(self, *, is_kept: bool) -> None:
        """Keep what follows, or no longer. What was said in between stays unkept: another conversation begins."""
        if is_kept and not self.is_kept:
            self._leave_kept()
        self.is_kept, self.is_private = is_kept, not is_kept

    def as_kept(self) -> Kept:
        """All of it as it is here, whether it is kept or not."""
        turns = tuple(self.turns)
        title = title_of(turns[0].question) if turns else ""
        at = turns[-1].at if turns else self._began_at
        return Kept(self.id, title, self.model, self.settings.system, self._began_at, at, len(turns), turns)

    def resident(self) -> ResidentStatus | None:
        """What the model holds, as far as we may know."""
        try:
            found = self.client.status().residents
        except YardError:
            return None
        return next((one for one in found if one.model == self.model), None)

    def _ask(self, turn: Turn, before: list[Turn]) -> None:
        terminal = self.session.terminal
        answer = stream_answer(
            self.session,
            self.client,
            self.model,
            self.messages(before, turn),
            self.settings.options,
            shows_thinking=self.settings.shows_thinking,
        )
        self.last, self.failure = answer, answer.failure
        if answer.text or answer.is_complete:
            self._unanswered = None
            self.turns = [*before, replace(
                turn, answer=answer.text, is_complete=answer.is_complete, model=self.model, at=time.time(),
                statistics=asdict(answer.statistics),
            )]  # fmt: skip
            self._save()
        else:
            self._unanswered = turn, before
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

    def _tell(self, answer: Answer) -> None:
        terminal = self.session.terminal
        if self.settings.is_verbose:
            terminal.faint(verbose_text(terminal, answer.statistics))
        elif self.settings.shows_statistics:
            terminal.faint(statistics_text(terminal, answer.statistics, self.resident()))

    def _leave_kept(self) -> None:
        """What comes is another conversation."""
        self.id, self._written, self._first_kept = "", [], len(self.turns)

    def _save(self) -> None:
        """A chat goes on if it cannot be kept; that is said once."""
        if self.store is None or not self.is_kept:
            return
        terminal, system = self.session.terminal, self.settings.system
        turns = self.turns[self._first_kept :]
        try:
            try:
                if self.id:
                    self.store.write(self.id, self._written, turns, self.model, system)
                else:
                    self.id = self.store.begin(turns, self.model, system)
            except Changed as change:
                if change.is_gone:
                    self.is_kept = False
                    self._leave_kept()
                    terminal.say(N_("This conversation was deleted elsewhere; what follows is not kept."))
                    return
                self.id = self.store.begin(turns, self.model, system)
                terminal.say(N_("Another chat changed this conversation; this one is kept as {id} now."), id=self.id)
            self._written = [turn.at for turn in turns]
        except StoreUnusable as problem:
            self.store, self.is_kept = None, False
            terminal.fail(problem)


def _question(turn: Turn) -> Message:
    parts: tuple[Part, ...] = (TextPart(turn.question), *turn.images)
    return Message("user", parts if turn.images else turn.question)

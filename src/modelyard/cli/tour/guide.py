"""The tour itself: for each model make room, meet it, talk if somebody wants to; then compare.

One thread, read from top to bottom. Each step that waits for a server runs in the runner's event loop, so that Ctrl-C
ends that step, and with it the work at the server, and nothing else.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from modelyard.cli.session import Session
from modelyard.cli.tour.failures import failure_of
from modelyard.cli.tour.meeting import Meeting
from modelyard.cli.tour.nodes import Left, TourModel, TourNode, Turn
from modelyard.cli.tour.visit import Visit
from modelyard.cli.tour.voice import Voice
from modelyard.diagnosis.timeouts import Resident, is_same_model
from modelyard.errors import N_, YardError
from modelyard.loopback import is_loopback

TWICE_S = 2.0  # two interruptions within so long mean: leave
YES, NO, QUIT = ("", "y", "yes"), ("n", "no", "next"), ("q", "quit", "exit")
LEAVES_CHAT = ("n", "next", "q", "quit", "exit", "/bye", "/next")


class Guide:
    """Leads through the models of one node."""

    def __init__(
        self,
        session: Session,
        runner: asyncio.Runner,
        node: TourNode,
        voice: Voice,
        meeting: Meeting,
        *,
        unload_s: float,
        is_interactive: bool,
        is_agreed: bool,
        keeps: bool,
    ) -> None:
        self._session, self._runner, self._node = session, runner, node
        self._voice, self._meeting = voice, meeting
        self._unload_s = unload_s
        self._is_interactive = is_interactive
        self._is_agreed = is_agreed or _is_here(node.url)  # what others have in memory elsewhere is theirs
        self._may_unload = not keeps and node.tells_memory
        self._interrupted_at = -TWICE_S
        self._met: set[str] = set()

    def go(self, models: Sequence[TourModel], prompt: str) -> tuple[list[Visit], bool]:
        """Visit all of them. The visits, and whether somebody left before the end."""
        visits: list[Visit] = []
        for number, model in enumerate(models, 1):
            self._voice.title(number, len(models), model)
            visits.append(visit := Visit(model.name, is_cloud=model.is_cloud, size_bytes=model.size))
            try:
                if not self._meet(model, visit, prompt):
                    return visits, False
            except KeyboardInterrupt:
                self._session.terminal.clear_status()
                if self._is_second_interrupt():
                    return visits, True
                self._voice.interrupted()
        self._voice.finished()
        return visits, False

    def _meet(self, model: TourModel, visit: Visit, prompt: str) -> bool:
        """False: no further models."""
        self._make_room()
        self._met.add(model.name)
        try:
            greeting = self._runner.run(self._meeting.greet(model, visit, prompt))
        except YardError as error:
            self._fail(visit, error)
            if self._is_interactive:
                self._voice.skipped()
            return True
        visit.outcome = "ok"
        if not self._is_interactive or visit.kind == "embedding":
            return True
        turns: list[Turn] = [{"role": "user", "content": prompt}, {"role": "assistant", "content": greeting}]
        return self._talk(model, turns)

    # Memory.

    def _make_room(self) -> None:
        """Everything out that may go. What cannot be told or done is no reason to stop."""
        if not self._may_unload:
            return
        residents = self._runner.run(self._node.residents())
        if not residents:
            return
        held = self._runner.run(self._node.held())
        going = [one for one in residents if _name_in(held, one.name) is None]
        if not self._is_agreed and not self._agree(going):
            return
        if going:
            self._voice.making_room(going)
        for one in residents:
            kept = _name_in(held, one.name)
            left = (
                Left(one.name, is_gone=False, kept="pinned" if held[kept] == "pinned" else "busy")
                if kept is not None
                else self._runner.run(self._node.unload(one, self._unload_s))
            )
            if left.kept == "forbidden":
                self._may_unload = False
                self._voice.no_right()
                return
            self._voice.left(left)

    def _agree(self, residents: Sequence[Resident]) -> bool:
        """Once: may we unload what others have in memory on a machine that is not this one?"""
        strangers = [one for one in residents if not any(is_same_model(one.name, name) for name in self._met)]
        if not strangers:
            return True
        self._voice.strangers(strangers, self._node.url)
        if self._is_interactive:
            self._may_unload = self._question(N_("Unload them? [y/N] ")) in ("y", "yes")
        else:
            self._may_unload = False
            self._voice.strangers_stay()
        self._is_agreed = True
        return self._may_unload

    # What went wrong.

    def _fail(self, visit: Visit, error: YardError) -> None:
        failure = failure_of(error, self._session.terminal.language)
        visit.outcome, visit.message = failure.outcome, failure.message
        visit.suggestions, visit.verdict = failure.hints, failure.verdict
        self._voice.failure(self._node.kind, failure)
        if visit.outcome == "out_of_memory" and (others := self._runner.run(self._node.residents())):
            self._voice.in_memory(others)

    # Talking.

    def _talk(self, model: TourModel, turns: list[Turn]) -> bool:
        """A chat, if somebody wants one. False: leave the tour."""
        while (wish := self._question(N_("Chat with this model? [Y/n/q] "))) not in YES:
            if wish in (*NO, *QUIT):
                return wish in NO
        self._voice.chat_begins()
        while (line := self._line()) is not None and line.lower() not in LEAVES_CHAT:
            if line:
                self._turn(model, turns, line)
        return True

    def _turn(self, model: TourModel, turns: list[Turn], line: str) -> None:
        """A question and its answer. What fails is shown, and the chat goes on as if it had not been asked."""
        asked: Turn = {"role": "user", "content": line}
        try:
            answer = self._runner.run(self._meeting.reply(model, [*turns, asked]))
        except KeyboardInterrupt:
            self._voice.answer_interrupted()
        except YardError as error:
            failure = failure_of(error, self._session.terminal.language)
            self._voice.failure(self._node.kind, failure, is_skipped=False)
        else:
            turns += [asked, {"role": "assistant", "content": answer}]

    def _question(self, text: str) -> str:
        """One line of a person, in lower case; `q` at the end of input."""
        self._session.terminal.ask(text)
        line = sys.stdin.readline()
        return line.strip().lower() if line else "q"

    def _line(self) -> str | None:
        """What a person types in a chat; None at the end of input."""
        self._session.terminal.ask(">>> ")
        return line.strip() if (line := sys.stdin.readline()) else None

    def _is_second_interrupt(self) -> bool:
        now = time.monotonic()
        before, self._interrupted_at = self._interrupted_at, now
        return now - before < TWICE_S


def _name_in(held: Mapping[str, str], name: str) -> str | None:
    return next((one for one in held if is_same_model(one, name)), None)


def _is_here(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")

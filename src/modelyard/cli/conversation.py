"""The turns of a chat, and its commands. Reads no keys and draws no prompt: it takes lines."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.cli.answering import require_chat, stream_answer
from modelyard.cli.models import write_models, write_residents
from modelyard.cli.session import Session
from modelyard.client.http import YardClient
from modelyard.errors import N_, YardError
from modelyard.types.chat import Message

HELP = N_(
    "/model [NAME]  show or change the model\n"
    "/clear         forget the conversation\n"
    "/retry         ask the last question again\n"
    "/list          the server's models\n"
    "/ps            what is in memory\n"
    "/bye           leave (Ctrl-D too)\n"
    "Ctrl-C stops an answer. Alt-Enter begins a new line."
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and what came. An interrupted answer stays, so that one can ask on."""

    question: str
    answer: str
    is_interrupted: bool = False


class Conversation:
    """Takes lines: questions and commands."""

    def __init__(self, session: Session, client: YardClient, model: str, system: str | None = None) -> None:
        self.model = model
        self.turns: list[Turn] = []
        self._session = session
        self._client = client
        self._system = system
        self._failure: YardError | None = None

    def take(self, line: str) -> bool:
        """Answer one line. False: the person wants to leave."""
        text = line.strip()
        if not text:
            return True
        try:
            if text.startswith("/"):
                return self._command(text)
            self._ask(text)
        except YardError as error:
            self._fail(error)
        return True

    def end(self) -> None:
        """After piped input: raise the last failure, so that a script sees it in the exit code."""
        if self._failure is not None:
            raise self._failure

    def messages(self, question: str) -> list[Message]:
        """What the model is sent: instructions, the turns so far, the question."""
        found = [Message("system", self._system)] if self._system else []
        for turn in self.turns:
            found.append(Message("user", turn.question))
            if turn.answer:
                found.append(Message("assistant", turn.answer))
        return [*found, Message("user", question)]

    def _ask(self, question: str) -> None:
        answer = stream_answer(self._session, self._client, self.model, self.messages(question), {})
        if answer.text or answer.failure is None:
            self.turns.append(Turn(question, answer.text, is_interrupted=answer.finish is None))
        if answer.is_interrupted:
            self._session.terminal.say(N_("(interrupted)"))
        elif answer.failure:
            if answer.text:
                self._session.terminal.say(N_("(the answer is incomplete)"))
            raise answer.failure

    def _command(self, text: str) -> bool:
        terminal = self._session.terminal
        name, _space, rest = text.partition(" ")
        match name:
            case "/bye" | "/exit" | "/quit":
                return False
            case "/?" | "/help":
                terminal.say(HELP)
            case "/clear":
                self.turns.clear()
                terminal.say(N_("The conversation is forgotten."))
            case "/model" if rest:
                require_chat(self._client, rest.strip())
                self.model = rest.strip()
                terminal.say(N_("Now talking to {model}."), model=self.model)
            case "/model":
                terminal.say(N_("Talking to {model}."), model=self.model)
            case "/retry" if self.turns:
                self._ask(self.turns.pop().question)
            case "/list":
                with terminal.answers_beside():
                    write_models(self._session, "table", self._client.models())
            case "/ps":
                with terminal.answers_beside():
                    write_residents(self._session, "table", self._client.status())
            case _:
                terminal.say(N_("There is no command {name} here; /? lists them."), name=name)
        return True

    def _fail(self, error: YardError) -> None:
        self._session.terminal.fail(error)
        self._failure = error

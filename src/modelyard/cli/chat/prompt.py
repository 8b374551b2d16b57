"""The line a person types in a chat: editing, history, completion, pasted text that is never sent early."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from modelyard.cli.session import Session
from modelyard.config.paths import user_paths
from modelyard.errors import N_

SEVERAL_LINES = '"""'
TAKE_MODELS = ("/model", "/load", "/unload", "/pin")


class _PrivateHistory(FileHistory):
    """What was typed, readable by its writer only. A line that begins with a space is not kept."""

    def store_string(self, string: str) -> None:
        if not string.startswith(" "):
            super().store_string(string)


class _Completer(Completer):
    """Commands after a slash, and models where a command takes one. Nothing is asked of the server before that."""

    def __init__(self, commands: Sequence[str], models: Callable[[], list[str]]) -> None:
        self._commands, self._models = commands, models

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, rest = text.partition(" ")
        if not space:
            found, typed = [one for one in self._commands if one.startswith(name)], name
        elif name in TAKE_MODELS:
            found, typed = [one for one in self._models() if one.startswith(rest)], rest
        else:
            return
        yield from (Completion(one, start_position=-len(typed)) for one in found)


class Prompt:
    """Reads one question after the other."""

    def __init__(
        self, session: Session, *, keeps_history: bool, commands: Sequence[str], models: Callable[[], list[str]]
    ) -> None:
        self._session = session
        self._input: PromptSession[str] = PromptSession(
            history=_history(session) if keeps_history else InMemoryHistory(),
            key_bindings=_keys(),
            completer=_Completer(commands, models),
            complete_while_typing=False,
            enable_open_in_editor=True,  # Ctrl-X Ctrl-E
            # Answers may go to a file while questions are typed: then the prompt is drawn on stderr.
            output=create_output(sys.stdout if sys.stdout.isatty() else sys.stderr),
        )

    def read(self) -> str | None:
        """The next question; None at the end of input. Ctrl-C only clears the line."""
        while True:
            try:
                text = self._input.prompt(">>> ", prompt_continuation="... ")
                while text.lstrip().startswith(SEVERAL_LINES) and text.count(SEVERAL_LINES) < 2:
                    text += "\n" + self._input.prompt("... ", prompt_continuation="... ")
            except KeyboardInterrupt:
                self._session.terminal.say(N_("/bye or Ctrl-D ends the chat."))
            except EOFError:
                return None
            else:
                return without_marks(text)


def without_marks(text: str) -> str:
    """The lines between two `\"\"\"`, where there are any.

    >>> without_marks('\"\"\"one\\n two\"\"\"')
    'one\\n two'
    """
    bare = text.strip()
    if bare.startswith(SEVERAL_LINES) and bare.endswith(SEVERAL_LINES) and len(bare) >= 2 * len(SEVERAL_LINES):
        return bare.removeprefix(SEVERAL_LINES).removesuffix(SEVERAL_LINES).strip("\n")
    return text


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history(session: Session) -> History:
    folder = user_paths(session.environment).state
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "chat_history"
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return _PrivateHistory(str(path))

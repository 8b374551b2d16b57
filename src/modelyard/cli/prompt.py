"""The line a person types in a chat: editing, history, pasted text that is never sent early."""

from __future__ import annotations

import sys

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from modelyard.cli.session import Session
from modelyard.config.paths import user_paths
from modelyard.errors import N_


class _PrivateHistory(FileHistory):
    """What was typed, readable by its writer only. A line that begins with a space is not kept."""

    def store_string(self, string: str) -> None:
        if not string.startswith(" "):
            super().store_string(string)


class Prompt:
    """Reads one question after the other."""

    def __init__(self, session: Session, *, keeps_history: bool) -> None:
        self._session = session
        keys = KeyBindings()

        @keys.add("escape", "enter")
        def _new_line(event: KeyPressEvent) -> None:
            event.current_buffer.insert_text("\n")

        self._input: PromptSession[str] = PromptSession(
            history=_history(session) if keeps_history else InMemoryHistory(),
            key_bindings=keys,
            # Answers may go to a file while questions are typed: then the prompt is drawn on stderr.
            output=create_output(sys.stdout if sys.stdout.isatty() else sys.stderr),
        )

    def read(self) -> str | None:
        """The next question; None at the end of input. Ctrl-C only clears the line."""
        while True:
            try:
                return self._input.prompt(">>> ", prompt_continuation="... ")
            except KeyboardInterrupt:
                self._session.terminal.say(N_("/bye or Ctrl-D ends the chat."))
            except EOFError:
                return None


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

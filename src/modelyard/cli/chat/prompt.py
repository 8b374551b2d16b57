"""The line a person types in a chat: editing, history, completion, pasted text that is never sent early."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

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
_OPENING = re.compile(r'\s*(?:/set system )?"""')  # what begins several lines


class _PrivateHistory(FileHistory):
    """What was typed, readable by its writer only. A line that begins with a space is not kept."""

    def __init__(self, filename: str, is_kept: Callable[[], bool]) -> None:
        super().__init__(filename)
        self._is_kept = is_kept

    def store_string(self, string: str) -> None:
        if self._is_kept() and not string.startswith(" "):
            with suppress(OSError):  # a full disk ends no chat
                super().store_string(string)


class _Completer(Completer):
    """Commands after a slash, and what may follow each. What that is, is asked when Tab is pressed."""

    def __init__(self, commands: Mapping[str, Callable[[], Iterable[str]]]) -> None:
        self._commands = commands

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, space, rest = text.partition(" ")
        if not space:
            found, typed = [one for one in self._commands if one.startswith(name)], name
        else:
            offered = self._commands.get(name, tuple)()
            found, typed = [one for one in offered if one.startswith(rest)], rest
        yield from (Completion(one, start_position=-len(typed)) for one in found)


class Prompt:
    """Reads one question after the other."""

    def __init__(
        self,
        session: Session,
        commands: Mapping[str, Callable[[], Iterable[str]]],
        *,
        keeps_history: bool,
        is_kept: Callable[[], bool] = lambda: True,
    ) -> None:
        self._session = session
        self._input: PromptSession[str] = PromptSession(
            history=_history(session, is_kept) if keeps_history else InMemoryHistory(),
            key_bindings=_keys(),
            completer=_Completer(commands),
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
                while _OPENING.match(text) and text.count(SEVERAL_LINES) < 2:
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


def _history(session: Session, is_kept: Callable[[], bool]) -> History:
    folder = user_paths(session.environment).state
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "chat_history"
        path.touch(mode=0o600)
        path.chmod(0o600)
    except OSError:
        return InMemoryHistory()
    return _PrivateHistory(str(path), is_kept)

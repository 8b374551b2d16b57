"""What goes to the terminal: answers to stdout, all else to stderr, in the person's language.

Piped output has no colour and no animation. Text from a server never moves the cursor: control characters are taken
out wherever a terminal would act on them.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from modelyard.cli.widths import cut
from modelyard.errors import ConfigError, YardError, fill
from modelyard.words import _, counted, render, told

_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
COLUMNS = 80  # where nobody tells
_CLEAR_LINE = "\r\x1b[K"


class Terminal:
    """Where one command speaks."""

    def __init__(self, language: str, environment: Mapping[str, str]) -> None:
        self.language = language
        self._environment = environment
        self._has_status_line = False
        self._is_mid_line = False
        self.draws_markdown = True  # where it can be

    def _(self, template: str, **fields: object) -> str:
        """A text in the person's language."""
        return fill(_(template, self.language), fields)

    def counted(self, count: int, one: str, many: str, **fields: object) -> str:
        """A text in the form that a count asks for: `{count}` is one of its fields."""
        return fill(counted(count, one, many, self.language), {"count": self.number(count), **fields})

    def told(self, text: str) -> str:
        """A text that a server said in English, in the person's language."""
        return told(text, self.language)

    def number(self, value: float, decimals: int = 0) -> str:
        """A number as the person's language writes it. These four load Babel when the first of them is called."""
        from modelyard.words import formats

        return formats.number(value, self.language, decimals)

    def size(self, count: int) -> str:
        """A size in binary units, labelled as such."""
        from modelyard.words import formats

        return formats.size(count, self.language)

    def duration(self, seconds: float) -> str:
        """A duration with at most two units."""
        from modelyard.words import formats

        return formats.duration(seconds, self.language)

    def ago(self, seconds: float) -> str:
        """How long ago something was; negative for what is to come."""
        from modelyard.words import formats

        return formats.ago(seconds, self.language)

    def say(self, template: str, **fields: object) -> None:
        """A line beside the answer."""
        self.note(self._(template, **fields))

    def note(self, text: str) -> None:
        """A line beside the answer that needs no translation."""
        self._line(plain(text))

    def strong(self, text: str) -> None:
        """A line beside the answer that stands out, as a title does."""
        self._line(self.styled(plain(text), "1", sys.stderr))

    def faint(self, text: str) -> None:
        """A line beside the answer for whoever looks for it."""
        if text:
            self._line(self.styled(plain(text), "2", sys.stderr))

    def ask(self, template: str) -> None:
        """A question, with the cursor left behind it."""
        self.clear_status()
        sys.stderr.write(self._(template))
        sys.stderr.flush()

    def listing(self, text: str) -> None:
        """Whole lines for stdout, with our own colours in them; whoever made them took out control characters."""
        self.clear_status()
        sys.stdout.write(text)
        sys.stdout.flush()

    def answer(self, text: str) -> None:
        """A piece of the answer; out at once."""
        if text:
            self._is_mid_line = not text.endswith("\n")  # before writing: Ctrl-C may come right after it
        self.listing(plain(text) if sys.stdout.isatty() else text)

    def shown(self, text: str) -> None:
        """A piece of the answer with our own colours in it, whose control characters were taken out before."""
        if text:
            self._is_mid_line = not text.endswith("\n")
            self.listing(text)

    def thinking(self, text: str) -> None:
        """A piece of what the model thinks before it answers: dim, beside the answer."""
        self.clear_status()
        sys.stderr.write(self.styled(plain(text), "2", sys.stderr))
        sys.stderr.flush()

    @property
    def is_shown_to_a_person(self) -> bool:
        """Whether stdout is a terminal."""
        return self._is_smart(sys.stdout)

    @property
    def shows_markdown(self) -> bool:
        """Whether answers are drawn: where a person reads them in colour. Everywhere else they stay as they are."""
        return self.draws_markdown and self._is_smart(sys.stdout) and self.has_colour(sys.stdout)

    @property
    def columns(self) -> int:
        """The window's width now; COLUMNS wins, as everywhere."""
        return self._columns_of(sys.stdout)

    def _columns_of(self, stream: TextIO) -> int:
        told = self._environment.get("COLUMNS", "")
        if re.fullmatch(r"0*[1-9][0-9]{0,3}", told):
            return int(told)
        try:
            return os.get_terminal_size(stream.fileno()).columns or COLUMNS
        except (OSError, ValueError):
            return COLUMNS

    def end_answer(self, *, is_cut_off: bool = False) -> None:
        """End the answer's last line; and its colours, if Ctrl-C may have come in the middle of a piece."""
        if is_cut_off and self.has_colour(sys.stdout):
            self.listing("\x1b[0m")
        if self._is_mid_line:
            self.answer("\n")

    def status(self, text: str) -> None:
        """A line on stderr that the next output replaces; nothing where nobody watches.

        It is cut to the window: a second line of it would stay.
        """
        if self.is_watched:
            shown = cut(" ".join(plain(text).split()), self._columns_of(sys.stderr) - 1)
            sys.stderr.write(_CLEAR_LINE + self.styled(shown, "2", sys.stderr))
            sys.stderr.flush()
            self._has_status_line = True

    def clear_status(self) -> None:
        if self._has_status_line:
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()
            self._has_status_line = False

    def fail(self, error: YardError) -> None:
        """What happened, why, and what to do next."""
        parts = error.fields.get("parts")
        several = parts if isinstance(error, ConfigError) and isinstance(parts, tuple) else (error,)
        for one in several:
            message, _hints = render(one, self.language)
            self._line(f"{self.styled('modelyard:', '1;31', sys.stderr)} {plain(message)}")
        hints = render(several[0], self.language)[1]
        for line in (*hints, *getattr(error, "__notes__", ())):
            self.note(f"  {line}")

    def _line(self, text: str) -> None:
        self.clear_status()
        if self._is_mid_line and sys.stdout.isatty():
            self.listing("\n")
        self._is_mid_line = False
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def styled(self, text: str, code: str, stream: TextIO) -> str:
        """Text with colour where colour is wanted."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.has_colour(stream) else text

    def has_colour(self, stream: TextIO) -> bool:
        """NO_COLOR beats FORCE_COLOR; else colour is for terminals."""
        if "NO_COLOR" in self._environment:
            return False
        if self._environment.get("FORCE_COLOR", "0") != "0" or self._environment.get("TTY_COMPATIBLE") == "1":
            return True
        return self._environment.get("CLICOLOR") != "0" and self._is_smart(stream)

    @property
    def is_watched(self) -> bool:
        """Whether a person sees what changes on stderr."""
        return self._is_smart(sys.stderr)

    def _is_smart(self, stream: TextIO) -> bool:
        """Whether it is a terminal that can be drawn on. TTY_INTERACTIVE=0 says that nobody watches, as in CI."""
        if self._environment.get("TTY_INTERACTIVE") == "0" or self._environment.get("TTY_COMPATIBLE") == "0":
            return False
        return stream.isatty() and self._environment.get("TERM") != "dumb"

    @contextmanager
    def answers_beside(self) -> Iterator[None]:
        """Inside, listings go to stderr: in a chat only the model's words are answers."""
        outside, sys.stdout = sys.stdout, sys.stderr
        try:
            yield
        finally:
            sys.stdout = outside


def plain(text: str) -> str:
    """Text that moves no cursor. Our own colours are put on after this.

    >>> plain("a\\x1b[2Jb\\r\\n")
    'a�[2Jb�\\n'
    """
    return text.translate(_CONTROL)

"""The words of click itself, in the person's language: "Usage:", "Missing argument", "Try ... for help".

Click takes them from gettext's functions, and those ask the process's own locale, which knows nothing of `--lang`. So
each of its modules is given functions that ask our catalogues, where click's texts stand beside ours.
"""

from __future__ import annotations

import importlib

from modelyard.errors import N_, NN_
from modelyard.words import _, counted

SPEAKING = (
    "click.core", "click.decorators", "click.exceptions", "click.formatting", "click.parser", "click.termui",
    "click.types",
)  # fmt: skip
# What a command line of ours can make click say.
TEXTS: tuple[str | tuple[str, str], ...] = (
    N_("Usage:"), N_("Options"), N_("Commands"), N_("Positional arguments"), N_("Error: {message}"),
    N_("Aborted!"), N_("deprecated"), N_("required"), N_("default: {default}"), N_("env var: {var}"), N_("(dynamic)"),
    N_("Show this message and exit."), N_("Show the version and exit."), N_("Try '{command} {option}' for help."),
    N_("Missing command."), N_("Missing argument"), N_("Missing option"), N_("Missing parameter"),
    N_("No such option {name!r}."), N_("No such command {name!r}."),
    NN_("Did you mean {possibility}?", "(Did you mean one of: {possibilities}?)"),
    NN_("Got unexpected extra argument ({args})", "Got unexpected extra arguments ({args})"),
    NN_("Option {name!r} requires an argument.", "Option {name!r} requires {nargs} arguments."),
    N_("Option {name!r} does not take a value."), N_("Argument {name!r} takes {nargs} values."),
    NN_("Takes {nargs} values but 1 was given.", "Takes {nargs} values but {len} were given."),
    N_("Invalid value: {message}"), N_("Invalid value for {param_hint}: {message}"),
    N_("{value!r} is not a valid {number_type}."), N_("{value} is not in the range {range}."),
    N_("{value!r} is not a valid boolean. Recognized values: {states}"),
    NN_("{value!r} is not {choice}.", "{value!r} is not one of {choices}."), N_("Choose from:\n\t{choices}"),
    N_("file"), N_("directory"), N_("path"), N_("Could not open file {filename!r}: {message}"), N_("unknown error"),
    N_("{name} {filename!r} does not exist."), N_("{name} {filename!r} is a file."),
    N_("{name} {filename!r} is a directory."), N_("{name} {filename!r} is not readable."),
    N_("{name} {filename!r} is not writable."), N_("{name} {filename!r} is not executable."),
    N_("Error: invalid input"), N_("Press any key to continue..."),
)  # fmt: skip


def speak(language: str) -> None:
    """Have click say what it says in this language, from now on, in this process."""

    def say(text: str) -> str:
        return _(text, language)

    def say_counted(one: str, many: str, count: int) -> str:
        return counted(count, one, many, language)

    for name in SPEAKING:
        names = vars(importlib.import_module(name))
        assert "_" in names, f"{name} takes its words from gettext"
        names["_"] = say
        if "ngettext" in names:
            names["ngettext"] = say_counted

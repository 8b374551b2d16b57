"""What every command has at hand: the terminal, the environment, and a client of the server that is meant."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modelyard.cli.terminal import Terminal
from modelyard.config.load import client_target, process_environment
from modelyard.errors import N_, YardError
from modelyard.words import language_of

if TYPE_CHECKING:
    from modelyard.client.http import YardClient

COMPLETE_S = 0.5  # nobody waits longer for a Tab
LANGUAGE = "modelyard.language"
Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the command line."""

    terminal: Terminal
    environment: Mapping[str, str]
    has_input: bool = True  # False: never ask anything
    is_debug: bool = False

    def client(self, url: str | None) -> YardClient:
        """A client of the named server, else of the one in the environment, else of this machine's."""
        from modelyard.client.http import YardClient

        target = client_target(url, environment=self.environment)
        return YardClient(target.url, target.key, language=self.terminal.language)


def language_in(context: click.Context) -> str:
    """The language that was asked for, else that of the environment."""
    asked = context.find_root().meta.get(LANGUAGE)
    return asked if isinstance(asked, str) else language_of(process_environment())


def complete_model(context: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Model names for a shell, from the server that would be asked: soon, or none.

    Asked in a thread that nobody waits for: neither a name that is looked up nor a server that drips holds the shell.
    """
    from modelyard.client.http import YardClient

    found: list[str] = []
    try:
        target = client_target(context.params.get("url"), environment=process_environment())
        client = YardClient(target.url, target.key)
    except YardError:
        return []

    def ask() -> None:
        with suppress(YardError), client:
            found.extend(entry.name for entry in client.models())

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(COMPLETE_S)
    return [name for name in list(found) if name.startswith(incomplete)]


def session_of(context: click.Context) -> Session:
    """The session of a running command."""
    session = context.find_root().obj
    assert isinstance(session, Session), "the root command makes the session"
    return session


def url_option(command: Command) -> Command:
    """Give a command `--url`."""
    return click.option(
        "--url", metavar="URL", help=N_("Server to talk to. Default: MODELYARD_URL, else http://127.0.0.1:11435.")
    )(command)

"""What every command has at hand: the terminal, the environment, and a client of the server that is meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """Model names for a shell, from the server that would be asked: soon, or none."""
    import asyncio

    from modelyard.client.openai_chat import OpenAIClient

    async def names() -> list[str]:
        target = client_target(context.params.get("url"), environment=process_environment())
        client = OpenAIClient(target.url, target.key)
        try:
            async with asyncio.timeout(COMPLETE_S):
                return await client.models()
        finally:
            await client.close()

    try:
        return [name for name in asyncio.run(names()) if name.startswith(incomplete)]
    except (TimeoutError, YardError):
        return []


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

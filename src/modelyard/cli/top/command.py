"""`modelyard top`: memory, models and requests as they are, once a second; or once."""

from __future__ import annotations

import sys

import click

from modelyard.cli.session import session_of, url_option
from modelyard.errors import N_


@click.command(
    help=N_(
        "Watch memory, models and requests; cancel, unload and pin from there.\n\n"
        "\b\n  modelyard top\n"
        "  modelyard top --once               # one picture, as text\n"
        "  modelyard top -o json\n\n"
        "Without a terminal it prints one picture and ends."
    ),
    short_help=N_("Watch memory, models and requests."),
)
@click.option("--once", is_flag=True, help=N_("Print one picture and end."))
@click.option("-o", "--output", "form", type=click.Choice(("text", "json", "yaml")), default="text", help=N_("Output."))
@url_option
@click.pass_context
def top(context: click.Context, once: bool, form: str, url: str | None) -> None:
    session = session_of(context)
    terminal = session.terminal
    terminal.status(terminal._(N_("connecting")))
    from modelyard.cli.models import write_residents
    from modelyard.cli.top.picture import picture

    with session.client(url) as client:
        status = client.status()
        terminal.clear_status()
        if form != "text":
            write_residents(session, form, status)
        elif once or not (sys.stdin.isatty() and terminal.is_watched and sys.stdout.isatty()):
            terminal.listing("".join(f"{line.text}\n" for line in picture(session, status, terminal.columns)))
        else:
            import asyncio

            from modelyard.cli.top.screen import Screen

            async def watch() -> None:
                await Screen(session, client, status).run()

            asyncio.run(watch())

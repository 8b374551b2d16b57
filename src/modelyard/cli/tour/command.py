"""`modelyard tour`: meet every model of a server in turn, see what it costs, and learn why one does not answer."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modelyard.cli.exits import INTERRUPTED, PARTIAL
from modelyard.cli.output import FORMATS
from modelyard.cli.session import session_of
from modelyard.errors import N_, ModelNotFound, UpstreamTimeout

if TYPE_CHECKING:
    from modelyard.cli.terminal import Terminal
    from modelyard.cli.tour.nodes import TourModel, TourNode

Command = TypeVar("Command", bound=Callable[..., Any])
PROMPT = N_("Hello! Please introduce yourself in one sentence.")


def _budget(name: str, default: float | None, text: str) -> Callable[[Command], Command]:
    seconds = click.FloatRange(0.01)
    return click.option(f"--{name}-timeout", type=seconds, default=default, metavar="S", show_default=True, help=text)


@click.command(
    help=N_(
        "Meet every model of a server: load it, greet it, see what it costs, talk to it, go on.\n\n"
        "\b\n  modelyard tour\n"
        "  modelyard tour --url http://gpu-box:11434 --models llama3.1:8b,qwen3-vl:30b\n"
        "  modelyard tour --no-chat -o json > report.json\n\n"
        "The server is Ollama, Modelyard, or anything that speaks OpenAI. Default: the Modelyard on this machine,\n"
        "if it answers, else OLLAMA_BASE_URL. Ctrl-C goes on to the next model; twice leaves."
    ),
    short_help=N_("Meet every model of a server in turn."),
)
@click.option("--url", metavar="URL", help=N_("Server to visit."))
@click.option("--models", metavar="A,B", help=N_("Only these models, in this order."))
@click.option("--prompt", metavar="TEXT", help=N_("The greeting."))
@click.option("--no-chat", is_flag=True, help=N_("Only greet; ask nothing."))
@click.option("--yes", is_flag=True, help=N_("Ask nothing, and unload what others have in memory."))
@click.option("--keep", is_flag=True, help=N_("Unload nothing before a model."))
@click.option("--no-resources", is_flag=True, help=N_("Leave out the memory picture."))
@click.option(
    "-o", "--output", "form", type=click.Choice((*FORMATS, "junit")), default="table", help=N_("Output format.")
)
@_budget("connect", 10.0, N_("Seconds for the server to be found."))
@_budget("list", 30.0, N_("Seconds for the list of models."))
@_budget("ps", 10.0, N_("Seconds for the list of what is in memory."))
@_budget("unload", 30.0, N_("Seconds until an unloaded model is gone."))
@_budget("load", None, N_("Seconds for a load. Default: 300, and 20 more for each GiB; progress gives more."))
@_budget("first-token", 30.0, N_("Seconds from the greeting to its first token."))
@_budget("between-tokens", 30.0, N_("Seconds between two tokens of the greeting."))
@_budget("chat", 1800.0, N_("Seconds between two tokens of a chat."))
@click.pass_context
def tour(
    context: click.Context,
    /,
    url: str | None,
    models: str | None,
    prompt: str | None,
    no_chat: bool,
    yes: bool,
    keep: bool,
    no_resources: bool,
    form: str,
    **timeouts: float | None,
) -> None:
    session = session_of(context)
    terminal = session.terminal
    terminal.status(terminal._(N_("connecting")))
    from modelyard.cli.tour.finding import find_node
    from modelyard.cli.tour.guide import Guide
    from modelyard.cli.tour.meeting import Budgets, Meeting
    from modelyard.cli.tour.voice import Voice

    budgets = Budgets(**{name.replace("_timeout", "_s"): value for name, value in timeouts.items()})  # type: ignore[arg-type]
    is_interactive = session.has_input and not (no_chat or yes) and form == "table"
    is_interactive = is_interactive and sys.stdin.isatty() and terminal.is_watched and terminal.is_shown_to_a_person
    terminal.draws_markdown = False  # token by token, as they come
    with asyncio.Runner() as runner:
        node = runner.run(find_node(session, url, connect_s=budgets.connect_s, ps_budget_s=budgets.ps_s))
        try:
            voice = Voice(session, form)
            chosen = _chosen(runner.run(_listed(node, terminal, budgets.list_s)), models, node.url)
            if not chosen:
                voice.no_models(node.url)
                return
            voice.begin(node.kind, node.url, chosen)
            guide = Guide(
                session,
                runner,
                node,
                voice,
                Meeting(terminal, node, voice, budgets, shows_resources=not no_resources),
                unload_s=budgets.unload_s,
                is_interactive=is_interactive,
                is_agreed=yes,
                keeps=keep,
            )
            visits, was_left = guide.go(chosen, prompt or terminal._(PROMPT))
            voice.report(visits, node.url)
        finally:
            runner.run(node.close())
    if was_left:
        context.exit(INTERRUPTED)
    if not is_interactive and any(visit.has_failed for visit in visits):
        context.exit(PARTIAL)


async def _listed(node: TourNode, terminal: Terminal, budget_s: float) -> list[TourModel]:
    from modelyard.cli.tour.waiting import FETCHING, WaitingLine

    try:
        async with WaitingLine(terminal, FETCHING), asyncio.timeout(budget_s):
            return await node.models()
    except TimeoutError:
        text = N_("{url} did not list its models within {budget_s} s (--list-timeout).")
        raise UpstreamTimeout(text, hints=(), url=node.url, budget_s=f"{budget_s:g}") from None


def _chosen(found: Sequence[TourModel], named: str | None, url: str) -> list[TourModel]:
    """The models to visit. Raises `ModelNotFound` before anything is done, if one is not there."""
    if named is None:
        return list(found)
    from modelyard.diagnosis.timeouts import is_same_model

    chosen: list[TourModel] = []
    for name in filter(None, (part.strip() for part in named.split(","))):
        same = next((one for one in found if is_same_model(one.name, name)), None)
        if same is None:
            raise ModelNotFound(N_("{url} has no model named {model}."), url=url, model=name)
        chosen.append(same)
    return chosen

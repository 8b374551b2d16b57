"""`modelyard chat`: a conversation. Ctrl-C stops an answer, and with it the work on the server, and keeps the rest."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from modelyard.cli.session import session_of, url_option
from modelyard.errors import N_

if TYPE_CHECKING:
    from modelyard.cli.conversation import Conversation
    from modelyard.cli.prompt import Prompt


@click.command(
    help=N_(
        "Talk to a model. /? lists the commands of the conversation, /bye or Ctrl-D ends it.\n\n"
        "\b\n  modelyard chat\n"
        "  modelyard chat qwen2.5-0.5b-instruct-q4_k_m\n"
        "  modelyard chat --system 'Answer in one sentence.' < questions.txt\n\n"
        "Ctrl-C stops an answer and the work behind it. Without a terminal each line of input is a question."
    ),
    short_help=N_("Talk to a model."),
)
@click.argument("model", required=False)
@click.option("-s", "--system", metavar="TEXT", help=N_("Instructions to the model."))
@click.option("--no-history", is_flag=True, help=N_("Do not remember what was typed."))
@url_option
@click.pass_context
def chat(context: click.Context, model: str | None, system: str | None, no_history: bool, url: str | None) -> None:
    session = session_of(context)
    session.terminal.status(session.terminal._(N_("connecting")))  # before the imports: whoever waits sees it at once
    from modelyard.cli.answering import pick_model, require_chat
    from modelyard.cli.conversation import Conversation

    with session.client(url) as client:
        if model:
            require_chat(client, model)
        conversation = Conversation(session, client, model or pick_model(client), system)
        if sys.stdin.isatty() and session.terminal.is_watched:
            from modelyard.cli.prompt import Prompt

            keeps = not no_history and not session.environment.get("MODELYARD_NO_HISTORY")
            session.terminal.say(
                N_("{model} at {url}. /? for help, /bye to leave."), model=conversation.model, url=client.url
            )
            _talk(conversation, Prompt(session, keeps_history=keeps))
        else:
            for line in sys.stdin:
                if not conversation.take(line):
                    break
            conversation.end()


def _talk(conversation: Conversation, prompt: Prompt) -> None:
    while (line := prompt.read()) is not None:
        if not conversation.take(line):
            break

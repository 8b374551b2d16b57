"""`modelyard chat`: a conversation. Ctrl-C stops an answer, and with it the work on the server, and keeps the rest."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING

import click

from modelyard.cli.session import Session, complete_model, session_of, url_option
from modelyard.errors import N_, ContextLengthExceeded, YardError

if TYPE_CHECKING:
    from modelyard.cli.chat.conversation import Conversation
    from modelyard.cli.chat.store import Kept, Store

_SURROGATE = re.compile("[\ud800-\udfff]")  # how Python carries bytes that are no text; JSON cannot
COLUMNS = ("ID", "TITLE", "MODEL", "TURNS", "UPDATED")


@click.command(
    help=N_(
        "Talk to a model. /? lists the commands of the conversation, /bye or Ctrl-D ends it.\n\n"
        "\b\n  modelyard chat\n"
        "  modelyard chat qwen2.5-0.5b-instruct-q4_k_m\n"
        "  modelyard chat -c                          # go on with the last conversation\n"
        "  modelyard chat --list\n"
        "  modelyard chat --export last -o json > talk.json\n"
        "  modelyard chat --system 'Answer in one sentence.' < questions.txt\n\n"
        "Ctrl-C stops an answer and the work behind it. Without a terminal each line of input is a question."
    ),
    short_help=N_("Talk to a model."),
)
@click.argument("model", required=False, shell_complete=complete_model)
@click.option("-s", "--system", metavar="TEXT", help=N_("Instructions to the model."))
@click.option(
    "-c", "--continue", "taken_up", is_flag=False, flag_value="last", metavar="[ID]",
    help=N_("Go on with the last conversation, or the one named."),
)  # fmt: skip
@click.option("--list", "lists", is_flag=True, help=N_("List the conversations that are kept."))
@click.option(
    "--export", "exported", metavar="ID", help=N_("Write a conversation to standard output; `last` is one, too.")
)
@click.option("--delete", "deleted", metavar="ID", help=N_("Forget a conversation, or `all`."))
@click.option(
    "-o", "--output", "form", type=click.Choice(("md", "json", "table")), help=N_("Form of --export, --list.")
)
@click.option("--yes", is_flag=True, help=N_("Do not ask."))
@click.option("--no-history", is_flag=True, help=N_("Keep neither the conversation nor what was typed."))
@click.option("--think/--no-think", default=True, help=N_("Show what models think before they answer, or not."))
@click.option("--verbose", is_flag=True, help=N_("Every figure after an answer."))
@url_option
@click.pass_context
def chat(
    context: click.Context,
    /,
    model: str | None,
    system: str | None,
    taken_up: str | None,
    lists: bool,
    exported: str | None,
    deleted: str | None,
    form: str | None,
    yes: bool,
    no_history: bool,
    think: bool,
    verbose: bool,
    url: str | None,
) -> None:
    session = session_of(context)
    if lists or exported or deleted:
        _manage(session, lists=lists, exported=exported, deleted=deleted, form=form, is_agreed=yes)
        return
    session.terminal.status(session.terminal._(N_("connecting")))  # before the imports: whoever waits sees it at once
    from modelyard.cli.answering import pick_model, require_chat
    from modelyard.cli.chat.conversation import Conversation, Settings

    is_typed = sys.stdin.isatty() and session.terminal.is_watched
    keeps = not no_history and not session.environment.get("MODELYARD_NO_HISTORY")
    store = _store(session) if taken_up or (keeps and is_typed) else None
    kept = store.get(taken_up) if store is not None and taken_up else None
    settings = Settings(system or "", shows_thinking=think, shows_statistics=is_typed, is_verbose=verbose)
    with session.client(url) as client:
        wanted = model or (kept.model if kept else None)
        entry = require_chat(client, wanted) if wanted else pick_model(client)
        name = wanted or entry.name
        conversation = Conversation(session, client, name, settings, store if keeps else None)
        conversation.switch(name, entry)
        if kept is not None:
            conversation.take_up(kept)
        if is_typed:
            _talk(session, conversation, kept, keeps_history=keeps)
        else:
            _answer_lines(session, conversation)


def _talk(session: Session, conversation: Conversation, kept: Kept | None, *, keeps_history: bool) -> None:
    from modelyard.cli.chat.prompt import Prompt
    from modelyard.cli.chat.slash import completions

    terminal, client = session.terminal, conversation.client

    def names() -> list[str]:
        try:
            return [entry.name for entry in client.models()]
        except YardError:
            return []

    terminal.say(N_("{model} at {url}. /? for help, /bye to leave."), model=conversation.model, url=client.url)
    if kept is not None:
        terminal.say(N_("Going on with {title}."), title=kept.title)
        for turn in kept.turns[-1:]:
            terminal.faint(f">>> {turn.question}\n{turn.answer}")
    prompt = Prompt(
        session,
        completions(names),
        keeps_history=keeps_history,
        is_kept=lambda: not conversation.is_private,
    )
    while (line := prompt.read()) is not None:
        if not _take(session, conversation, line, []):
            break


def _answer_lines(session: Session, conversation: Conversation) -> None:
    """Piped input: each line a question; the last failure counts."""
    failures: list[YardError] = []
    for line in sys.stdin:
        if not _take(session, conversation, line, failures):
            break
    if failures:
        raise failures[-1]


def _take(session: Session, conversation: Conversation, line: str, failures: list[YardError]) -> bool:
    """Answer one line; what goes wrong is shown and noted. False: the person wants to leave."""
    from modelyard.cli.chat.slash import Leave, run

    text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", line.strip())
    try:
        if text.startswith("/"):
            run(conversation, text)
        elif text:
            conversation.ask(text)
    except Leave:
        return False
    except YardError as error:
        conversation.failure = error
        failures.append(error)
        session.terminal.fail(error)
        if isinstance(error, ContextLengthExceeded):
            session.terminal.say(N_("/undo takes the last turn out of the prompt, /clear begins anew."))
    except KeyboardInterrupt:  # while a command waited; an answer ends by itself
        session.terminal.clear_status()
    return True


# What is kept.


def _store(session: Session) -> Store | None:
    """None, and why, if nothing can be kept: a chat is possible without."""
    from modelyard.cli.chat.store import Store, StoreUnusable
    from modelyard.config.paths import user_paths

    try:
        return Store(user_paths(session.environment).data)
    except StoreUnusable as problem:
        session.terminal.fail(problem)
        return None


def _named(store: Store, id: str) -> str:
    """What somebody is about to delete, so that they see it."""
    if id == "all":
        return id
    kept = store.get(id)
    return f"{kept.id} ({kept.title})"


def _manage(
    session: Session, *, lists: bool, exported: str | None, deleted: str | None, form: str | None, is_agreed: bool
) -> None:
    from modelyard.cli.chat.export import as_text, time_text
    from modelyard.cli.chat.store import Store
    from modelyard.cli.output import write_listing
    from modelyard.cli.terminal import plain
    from modelyard.config.paths import user_paths

    terminal, store = session.terminal, Store(user_paths(session.environment).data)
    if deleted:
        if session.has_input and not is_agreed and sys.stdin.isatty():
            what = plain(terminal._(N_("Forget {id}, for good?"), id=_named(store, deleted)))
            click.confirm(what, abort=True, err=True)
        count = store.delete(deleted)
        terminal.note(terminal.counted(count, "{count} conversation is gone.", "{count} conversations are gone."))
    if exported:
        terminal.answer(as_text(store.get(exported), form or "md"))
    if lists:
        now, kept = time.time(), store.all()
        rows = [(one.id, one.title, one.model, str(one.turn_count), terminal.ago(now - one.updated_at)) for one in kept]
        objects = [
            {
                "id": one.id,
                "title": one.title,
                "model": one.model,
                "turns": one.turn_count,
                "updated_at": time_text(one.updated_at),
            }
            for one in kept
        ]
        write_listing(terminal, form if form == "json" else "table", "conversations", COLUMNS, rows, objects)

"""`modelyard ask`: one question, one answer. stdout carries the answer and nothing else."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelyard.cli.exits import INTERRUPTED
from modelyard.cli.output import write_object
from modelyard.cli.question import QuestionFault, is_json, question_of, schema_of
from modelyard.cli.session import Session, complete_model, session_of, url_option
from modelyard.errors import N_, UpstreamInvalid

if TYPE_CHECKING:
    from modelyard.cli.answering import Answer

_paths = click.Path(dir_okay=False, path_type=Path)


@click.command(
    help=N_(
        "Ask one question. Words given, files and text piped in are joined.\n\n"
        "\b\n  modelyard ask 'Why is the sky blue?'\n"
        "  cat report.txt | modelyard ask 'Summarise this:'\n"
        "  modelyard ask -f report.txt -f notes.md 'Where do they differ?'\n"
        "  modelyard ask -m llava -i photo.png 'What is this?'\n"
        "  modelyard ask --schema '{\"type\": \"object\"}' 'A person, as JSON' | jq\n"
        "  modelyard ask -m qwen2.5 --max-tokens 50 - < question.txt\n\n"
        "Ctrl-C stops the model and exits with 130."
    ),
    short_help=N_("Ask one question."),
)
@click.argument("words", nargs=-1)
@click.option(
    "-m", "--model", metavar="MODEL", shell_complete=complete_model,
    help=N_("Model to ask. Default: one in memory, else the first."),
)  # fmt: skip
@click.option("-s", "--system", metavar="TEXT", help=N_("Instructions to the model."))
@click.option("-f", "--file", "files", multiple=True, type=_paths, metavar="FILE", help=N_("A text to go with it."))
@click.option(
    "-i", "--image", "images", multiple=True, type=_paths, metavar="FILE", help=N_("A picture to go with it.")
)
@click.option("--schema", metavar="JSON|FILE", help=N_("JSON schema that the answer follows."))
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help=N_("Longest answer."))
@click.option("--temperature", type=click.FloatRange(0, 2), metavar="T", help=N_("0 is strict, 2 is wild."))
@click.option("--seed", type=int, metavar="N", help=N_("The same seed gives the same answer, if the engine can."))
@click.option("--no-think", is_flag=True, help=N_("Do not show what the model thinks before it answers."))
@click.option("--verbose", is_flag=True, help=N_("Every figure after the answer."))
@click.option("-o", "--output", "form", type=click.Choice(("text", "json", "yaml")), default="text", help=N_("Output."))
@url_option
@click.pass_context
def ask(
    context: click.Context,
    /,
    words: tuple[str, ...],
    model: str | None,
    system: str | None,
    files: tuple[Path, ...],
    images: tuple[Path, ...],
    schema: str | None,
    no_think: bool,
    verbose: bool,
    form: str,
    url: str | None,
    **sampling: float | None,
) -> None:
    session = session_of(context)
    try:
        question = question_of(words, files, f"{system}{model}")
    except QuestionFault as fault:
        raise click.UsageError(session.terminal._(fault.text)) from fault
    options: dict[str, object] = {name: value for name, value in sampling.items() if value is not None}
    if schema is not None:
        options["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema_of(schema), "strict": True},
        }
    session.terminal.status(session.terminal._(N_("connecting")))  # before the imports: whoever waits sees it at once
    from modelyard.cli.answering import pick_model, require_chat, stream_answer
    from modelyard.cli.images import read_image
    from modelyard.types.chat import Message, TextPart

    pictures = [read_image(path) for path in images]
    messages = [Message("system", system)] if system else []
    messages.append(Message("user", (TextPart(question), *pictures) if pictures else question))
    with session.client(url) as client:
        name = model or pick_model(client, sees=bool(pictures)).name
        if model and pictures:
            require_chat(client, model, sees=True)  # a picture is large: not sent to whom it is nothing to
        if model is None and session.terminal.is_watched:
            session.terminal.faint(session.terminal._(N_("asking {model}"), model=name))
        is_shown = form == "text"
        session.terminal.draws_markdown = schema is None  # what is JSON is shown as it is
        answer = stream_answer(session, client, name, messages, options, is_shown=is_shown, shows_thinking=not no_think)
    if form != "text":
        told = {"model": name, "text": answer.text, "finish_reason": answer.finish}
        usage = asdict(answer.usage) if answer.usage else None
        write_object(session.terminal, form, {**told, "usage": usage, "complete": answer.is_complete})
    _finish(context, session, answer, is_verbose=verbose, wants_json=schema is not None)


def _finish(context: click.Context, session: Session, answer: Answer, *, is_verbose: bool, wants_json: bool) -> None:
    """What is to be said beside the answer, and how the command ends."""
    if not answer.is_complete and answer.text:
        session.terminal.say(N_("(the answer is incomplete)"))
    if answer.is_interrupted:
        context.exit(INTERRUPTED)
    if answer.failure:
        raise answer.failure
    if answer.finish == "length":
        session.terminal.say(N_("(the answer reached its longest length)"))
    if is_verbose:
        from modelyard.cli.statistics import verbose_text

        session.terminal.faint(verbose_text(session.terminal, answer.statistics))
    if wants_json and not is_json(answer.text):
        raise UpstreamInvalid(N_("The answer is not the JSON that was asked for."), hints=(N_("Allow more tokens."),))

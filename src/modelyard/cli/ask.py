"""`modelyard ask`: one question, one answer. stdout carries the answer and nothing else."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import asdict

import click

from modelyard.cli.exits import INTERRUPTED
from modelyard.cli.output import write_object
from modelyard.cli.session import Session, session_of, url_option
from modelyard.errors import N_, RequestTooLarge
from modelyard.units import format_bytes

INPUT_BYTES_MAX = 8 * 1024**2


@click.command(
    help=N_(
        "Ask one question. Words given and text piped in are joined.\n\n"
        "\b\n  modelyard ask 'Why is the sky blue?'\n"
        "  cat report.txt | modelyard ask 'Summarise this:'\n"
        "  modelyard ask -m qwen2.5 --max-tokens 50 - < question.txt\n\n"
        "Ctrl-C stops the model and exits with 130."
    ),
    short_help=N_("Ask one question."),
)
@click.argument("words", nargs=-1)
@click.option("-m", "--model", metavar="MODEL", help=N_("Model to ask. Default: one in memory, else the first."))
@click.option("-s", "--system", metavar="TEXT", help=N_("Instructions to the model."))
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help=N_("Longest answer."))
@click.option("--temperature", type=click.FloatRange(0, 2), metavar="T", help=N_("0 is strict, 2 is wild."))
@click.option("--seed", type=int, metavar="N", help=N_("The same seed gives the same answer, if the engine can."))
@click.option("-o", "--output", "form", type=click.Choice(("text", "json", "yaml")), default="text", help=N_("Output."))
@url_option
@click.pass_context
def ask(
    context: click.Context,
    words: tuple[str, ...],
    model: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    form: str,
    url: str | None,
) -> None:
    session = session_of(context)
    question = _question(words)
    if not question:
        raise click.UsageError(session.terminal._(N_("there is no question: give words, or pipe text in")))
    if not _is_text("\n".join((question, system or ""))):
        raise click.UsageError(session.terminal._(N_("the question is not text in UTF-8")))
    session.terminal.status(session.terminal._(N_("connecting")))  # before the imports: whoever waits sees it at once
    from modelyard.cli.answering import pick_model, stream_answer
    from modelyard.types.chat import Message

    messages = [Message("system", system)] if system else []
    messages.append(Message("user", question))
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    options = {name: value for name, value in sampling.items() if value is not None}
    with session.client(url) as client:
        name = model or pick_model(client)
        answer = stream_answer(session, client, name, messages, options, is_shown=form == "text")
    if form != "text":
        told = {"model": name, "text": answer.text, "finish_reason": answer.finish}
        usage = asdict(answer.usage) if answer.usage else None
        write_object(session.terminal, form, {**told, "usage": usage, "complete": answer.finish is not None})
    if answer.is_interrupted:
        _say_incomplete(session, answer.text)
        context.exit(INTERRUPTED)
    if answer.failure:
        _say_incomplete(session, answer.text)
        raise answer.failure
    if answer.finish == "length":
        session.terminal.say(N_("(the answer reached its longest length)"))


def _say_incomplete(session: Session, text: str) -> None:
    if text:
        session.terminal.say(N_("(the answer is incomplete)"))


def _question(words: tuple[str, ...]) -> str:
    told = " ".join(word for word in words if word != "-")
    piped = _piped_text() if "-" in words or not told or _is_piped() else ""
    return "\n\n".join(part for part in (told, piped) if part)


def _is_text(text: str) -> bool:
    """False where bytes came in that are not text: Python carries them as surrogates, JSON cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_piped() -> bool:
    """Whether stdin is a pipe or a file. Anything else (a service's /dev/null) might never end, or is not meant."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return not sys.stdin.isatty()
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _piped_text() -> str:
    if sys.stdin.isatty():
        return ""
    text = sys.stdin.read(INPUT_BYTES_MAX + 1)
    if len(text) > INPUT_BYTES_MAX:
        raise RequestTooLarge(what="stdin", limit=format_bytes(INPUT_BYTES_MAX), hints=())
    return text.strip()

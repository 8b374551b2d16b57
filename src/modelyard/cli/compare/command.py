"""`modelyard compare`: one question to several models, at the same time where they fit together, else in turn."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelyard.cli.exits import INTERRUPTED, PARTIAL
from modelyard.cli.output import FORMATS, table, write_listing
from modelyard.cli.question import QuestionFault, question_of
from modelyard.cli.session import Session, complete_model, session_of, url_option
from modelyard.cli.terminal import plain
from modelyard.errors import N_, BadRequest

if TYPE_CHECKING:
    from modelyard.cli.answering import Answer
    from modelyard.client.http import YardClient
    from modelyard.client.replies import ModelEntry
    from modelyard.types.chat import Message

COLUMNS = ("NAME", "LOAD", "FIRST TOKEN", "TOKENS/S", "TOKENS", "MEMORY", "FINISH")
MODELS_MAX = 16
LEAVE_S = 2.0  # for answers to end when somebody leaves


@dataclass(frozen=True, slots=True)
class Compared:
    """One model's answer, and what it holds in memory."""

    model: str
    answer: Answer
    held_bytes: int | None

    @property
    def load_s(self) -> float | None:
        """What the server says the load took."""
        told = self.answer.receipt.get("load-ms", "")
        return int(told) / 1000 if told.isdigit() else None

    @property
    def finish(self) -> str:
        """How it ended, in one word."""
        if self.answer.is_interrupted:
            return "interrupted"
        return self.answer.failure.code if self.answer.failure else self.answer.finish or "cut"


@click.command(
    help=N_(
        "Ask several models the same, and compare what they say and what it takes.\n\n"
        "\b\n  modelyard compare llama3.1:8b qwen3:4b -p 'Why is the sky blue?'\n"
        "  cat report.txt | modelyard compare a b c -p 'Summarise this:'\n"
        "  modelyard compare a b -p 'Say hello.' --seed 1 -o json\n\n"
        "Models that fit into memory together are asked at the same time, else one after the other.\n"
        "Ctrl-C skips the model that answers; once more leaves. Exits with 8 if one of them did not answer."
    ),
    short_help=N_("Ask several models the same."),
)
@click.argument("models", nargs=-1, required=True, shell_complete=complete_model)
@click.option("-p", "--prompt", metavar="TEXT", help=N_("The question."))
@click.option(
    "-f", "--file", "files", multiple=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help=N_("A text to go with it."),
)  # fmt: skip
@click.option("-s", "--system", metavar="TEXT", help=N_("Instructions to the models."))
@click.option("--in-turn", is_flag=True, help=N_("One after the other, whatever fits."))
@click.option("--max-tokens", type=click.IntRange(1), metavar="N", help=N_("Longest answer."))
@click.option("--temperature", type=click.FloatRange(0, 2), metavar="T", help=N_("0 is strict, 2 is wild."))
@click.option("--seed", type=int, metavar="N", help=N_("The same seed gives the same answer, if the engine can."))
@click.option("-o", "--output", "form", type=click.Choice(FORMATS), default="table", help=N_("Output format."))
@url_option
@click.pass_context
def compare(
    context: click.Context,
    /,
    models: tuple[str, ...],
    prompt: str | None,
    files: tuple[Path, ...],
    system: str | None,
    in_turn: bool,
    form: str,
    url: str | None,
    **sampling: float | None,
) -> None:
    session = session_of(context)
    try:
        question = question_of([prompt] if prompt else [], files, f"{system}{''.join(models)}")
    except QuestionFault as fault:
        raise click.UsageError(session.terminal._(fault.text)) from fault
    if len(set(models)) < 2 or len(models) > MODELS_MAX:
        raise BadRequest(N_("Name at least two different models, and at most {count}."), count=MODELS_MAX)
    from modelyard.cli.answering import require_chat
    from modelyard.types.chat import Message

    messages = [Message("system", system)] if system else []
    messages.append(Message("user", question))
    options: dict[str, object] = {name: value for name, value in sampling.items() if value is not None}
    wanted = list(dict.fromkeys(models))
    with session.client(url) as client:
        entries = [require_chat(client, model) for model in wanted]
        together = not in_turn and _fit_together(session, client, entries)
        ask_all = _at_once if together else _in_turn
        found = ask_all(session, client, wanted, messages, options, is_shown=form == "table")
    _report(session, form, found)
    if any(one.answer.is_interrupted for one in found):
        context.exit(INTERRUPTED)
    if not all(one.answer.is_complete for one in found):
        context.exit(PARTIAL)


def _fit_together(session: Session, client: YardClient, entries: Sequence[ModelEntry]) -> bool:
    from modelyard.cli.compare.fits import fits_together
    from modelyard.errors import YardError

    try:
        fits = fits_together(entries, client.status())
    except YardError:  # no right to know what is in memory
        fits = None
    text = {
        True: N_("They fit into memory together: asked at the same time."),
        False: N_("They do not fit into memory together: asked one after the other."),
        None: N_("What fits is not known: asked one after the other."),
    }[fits]
    session.terminal.say(text)
    return bool(fits)


def _in_turn(
    session: Session,
    client: YardClient,
    models: Sequence[str],
    messages: Sequence[Message],
    options: dict[str, object],
    *,
    is_shown: bool,
) -> list[Compared]:
    """Each answer as it comes. Ctrl-C goes on to the next model, and leaves when it comes once more."""
    from modelyard.cli.answering import stream_answer

    found: list[Compared] = []
    for model in models:
        if is_shown:
            _name(session, model)
        answer = stream_answer(session, client, model, messages, options, is_shown=is_shown)
        compared = Compared(model, answer, _held(client, model))
        _say_what_is_wrong(session, compared)
        found.append(compared)
        if sum(one.answer.is_interrupted for one in found) > 1:
            break
        if answer.is_interrupted and model != models[-1]:
            session.terminal.say(N_("(skipped; Ctrl-C once more leaves)"))
    return found


def _at_once(
    session: Session,
    client: YardClient,
    models: Sequence[str],
    messages: Sequence[Message],
    options: dict[str, object],
    *,
    is_shown: bool,
) -> list[Compared]:
    """All of them together, each over a connection of its own; shown when all have answered. Ctrl-C ends them all."""
    from modelyard.cli.answering import Answer, new_request_id, receive
    from modelyard.cli.phase import PhaseLine
    from modelyard.types.chat import Delta

    answers = {model: Answer(request_id=new_request_id()) for model in models}
    is_left = threading.Event()
    problems: list[Exception] = []

    def take(_piece: Delta) -> None:
        if is_left.is_set():
            raise KeyboardInterrupt  # ends this answer, and with it its connection

    def ask(model: str) -> None:
        try:
            with session.client(client.url) as own:
                receive(answers[model], own, model, messages, options, take)
        except Exception as problem:
            problems.append(problem)
        count = sum(one.is_over for one in answers.values())
        phase.tell(N_("{count} of {all} have answered"), count=count, all=len(models))

    with PhaseLine(session, client.url) as phase:
        # Nobody waits for them at the end: one that loads, and may not be cancelled by us, ends with this process.
        running = [threading.Thread(target=ask, args=(model,), daemon=True) for model in models]
        try:
            for one in running:
                one.start()
            for one in running:
                one.join()
        except KeyboardInterrupt:
            is_left.set()
            _cancel(client, answers.values())
            until = time.monotonic() + LEAVE_S
            for one in running:
                one.join(max(0.0, until - time.monotonic()))
    if problems:
        raise problems[0]
    found = [Compared(model, answer, _held(client, model)) for model, answer in answers.items()]
    _show(session, found, is_shown=is_shown)
    return found


def _cancel(client: YardClient, answers: Iterable[Answer]) -> None:
    from modelyard.errors import YardError

    for answer in answers:
        if not answer.is_complete:
            answer.is_interrupted = True
            with suppress(YardError):  # it has ended already, or we have no right: then it ends with its next piece
                client.cancel(answer.request_id)


def _held(client: YardClient, model: str) -> int | None:
    from modelyard.errors import YardError

    try:
        residents = client.status().residents
    except YardError:
        return None
    return next(
        (sum((one.measured_bytes or one.reserved_bytes).values()) for one in residents if one.model == model), None
    )


def _show(session: Session, found: Sequence[Compared], *, is_shown: bool) -> None:
    """Side by side where the window has the room and every answer is whole, else one below the other."""
    from modelyard.cli.columns import COLUMN_WIDTH_MIN, side_by_side

    terminal, columns = session.terminal, session.terminal.columns
    is_whole = all(one.answer.is_complete for one in found)
    if is_shown and is_whole and terminal.shows_markdown and columns >= len(found) * COLUMN_WIDTH_MIN:
        texts = [one.answer.text.strip() for one in found]
        terminal.listing(side_by_side([one.model for one in found], texts, columns))
        return
    for one in found:
        if is_shown:
            _name(session, one.model)
            terminal.answer(one.answer.text.strip())
            terminal.end_answer()
        _say_what_is_wrong(session, one)


def _name(session: Session, model: str) -> None:
    """Whose answer comes: where the answers go, so that a file of them can be read."""
    session.terminal.listing(f"\n{session.terminal.styled(plain(model), '1', sys.stdout)}\n")


def _say_what_is_wrong(session: Session, one: Compared) -> None:
    if not one.answer.is_complete and one.answer.text:
        session.terminal.say(N_("(the answer is incomplete)"))
    if one.answer.failure and not one.answer.is_interrupted:
        session.terminal.fail(one.answer.failure)


def _report(session: Session, form: str, found: Sequence[Compared]) -> None:
    terminal = session.terminal
    rows: list[tuple[str, ...]] = []
    objects: list[dict[str, object]] = []
    for one in found:
        told = one.answer.statistics
        rows.append((
            one.model,
            "-" if one.load_s is None else terminal.duration(one.load_s),
            "-" if told.first_token_s is None else terminal.duration(told.first_token_s),
            "-" if told.tokens_per_s is None else terminal.number(told.tokens_per_s, 1),
            "-" if told.output_tokens is None else str(told.output_tokens),
            "-" if one.held_bytes is None else terminal.size(one.held_bytes),
            one.finish,
        ))  # fmt: skip
        objects.append({
            "model": one.model, "text": one.answer.text, "complete": one.answer.is_complete, "finish": one.finish,
            "problem": None if one.answer.failure is None else str(one.answer.failure),
            "load_s": one.load_s, "first_token_s": told.first_token_s, "took_s": told.took_s,
            "tokens_per_s": told.tokens_per_s, "tokens": told.output_tokens, "memory_bytes": one.held_bytes,
        })  # fmt: skip
    if form == "table":
        terminal.listing("\n" + table(terminal, COLUMNS, rows))
    else:
        write_listing(terminal, form, "answers", COLUMNS, rows, objects)
    sys.stdout.flush()

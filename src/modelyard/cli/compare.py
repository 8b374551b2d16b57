"""`modelyard compare`: one question to several models, at the same time where they fit together, else in turn."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modelyard.cli.exits import INTERRUPTED, PARTIAL
from modelyard.cli.output import FORMATS, table, write_listing
from modelyard.cli.question import QuestionFault, question_of
from modelyard.cli.session import Session, complete_model, session_of, url_option
from modelyard.errors import N_, BadRequest

if TYPE_CHECKING:
    from modelyard.cli.answering import Answer
    from modelyard.client.http import YardClient
    from modelyard.client.replies import ModelEntry
    from modelyard.types.chat import Message
    from modelyard.types.status import NodeStatus

COLUMNS = ("NAME", "LOAD", "FIRST TOKEN", "TOKENS/S", "TOKENS", "MEMORY", "FINISH")
MODELS_MAX = 16


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
        "Exits with 8 if one of them did not answer."
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
        question = question_of([prompt] if prompt else [], files, system or "")
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
        for model in wanted:
            require_chat(client, model)
        together = not in_turn and _fit_together(session, client, wanted)
        ask_all = _at_once if together else _in_turn
        found = ask_all(session, client, wanted, messages, options, is_shown=form == "table")
    _report(session, form, found)
    if any(one.answer.is_interrupted for one in found):
        context.exit(INTERRUPTED)
    if not all(one.answer.is_complete for one in found):
        context.exit(PARTIAL)


def fits_together(entries: Sequence[ModelEntry], status: NodeStatus) -> bool | None:
    """Whether all of them can be in memory at once, beside what is there now. None: that cannot be known."""
    needed: dict[str, int] = {}
    residents = {one.model for one in status.residents}
    for entry in entries:
        if entry.name in residents:
            continue
        footprint = entry.details.get("footprint")
        if not isinstance(footprint, dict) or not isinstance(footprint.get("bytes"), dict):
            return None
        for device, count in footprint["bytes"].items():
            needed[device] = needed.get(device, 0) + int(count)
    free = {one.reading.device: one.free_bytes for one in status.devices}
    return all(count <= free.get(device, 0) for device, count in needed.items())


def _fit_together(session: Session, client: YardClient, models: Sequence[str]) -> bool:
    from modelyard.errors import YardError

    try:
        fits = fits_together([client.show(model) for model in models], client.status())
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
    """Each answer as it comes. Ctrl-C goes on to the next model."""
    from modelyard.cli.answering import stream_answer

    found: list[Compared] = []
    for model in models:
        session.terminal.strong(f"\n{model}")
        answer = stream_answer(session, client, model, messages, options, is_shown=is_shown)
        if answer.failure:
            session.terminal.fail(answer.failure)
        found.append(Compared(model, answer, _held(client, model)))
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
    """All of them together, each over a connection of its own; shown when all have answered."""
    from modelyard.cli.answering import Answer, new_request_id, receive
    from modelyard.cli.phase import PhaseLine
    from modelyard.errors import YardError

    answers = {model: Answer(request_id=new_request_id()) for model in models}

    def ask(model: str) -> None:
        with session.client(client.url) as own:
            receive(answers[model], own, model, messages, options)

    with PhaseLine(session, client.url), ThreadPoolExecutor(len(models)) as pool:
        running = [pool.submit(ask, model) for model in models]
        try:
            for one in running:
                one.result()
        except KeyboardInterrupt:
            for answer in answers.values():
                answer.is_interrupted = not answer.is_complete
                try:
                    client.cancel(answer.request_id)
                except YardError:  # it has ended already, or we have no right: then its answer comes to its end
                    continue
    found = [Compared(model, answer, _held(client, model)) for model, answer in answers.items()]
    if is_shown:
        _show(session, found)
    return found


def _held(client: YardClient, model: str) -> int | None:
    from modelyard.errors import YardError

    try:
        residents = client.status().residents
    except YardError:
        return None
    return next(
        (sum((one.measured_bytes or one.reserved_bytes).values()) for one in residents if one.model == model), None
    )


def _show(session: Session, found: Sequence[Compared]) -> None:
    """Side by side where the window has the room, else one below the other."""
    from modelyard.cli.columns import COLUMN_WIDTH_MIN, side_by_side

    terminal = session.terminal
    texts = [one.answer.text.strip() or f"({one.finish})" for one in found]
    columns = terminal.columns
    if terminal.shows_markdown and columns >= len(found) * COLUMN_WIDTH_MIN:
        terminal.listing(side_by_side([one.model for one in found], texts, columns))
        return
    for one, text in zip(found, texts, strict=True):
        terminal.strong(f"\n{one.model}")
        terminal.answer(text)
        terminal.end_answer()
        if one.answer.failure:
            terminal.fail(one.answer.failure)


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
            "load_s": one.load_s, "first_token_s": told.first_token_s, "took_s": told.took_s,
            "tokens_per_s": told.tokens_per_s, "tokens": told.output_tokens, "memory_bytes": one.held_bytes,
        })  # fmt: skip
    if form == "table":
        terminal.listing("\n" + table(terminal, COLUMNS, rows))
    else:
        write_listing(terminal, form, "answers", COLUMNS, rows, objects)
    sys.stdout.flush()

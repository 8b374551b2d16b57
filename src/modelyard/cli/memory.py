"""`modelyard load`, `unload`, `pin`: who is in memory; each says what memory did. `rescan`: which models there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from modelyard.cli.output import write_object
from modelyard.cli.phase import PhaseLine
from modelyard.cli.session import Session, complete_model, session_of, url_option
from modelyard.cli.terminal import plain
from modelyard.errors import N_
from modelyard.words.receipts import lines

if TYPE_CHECKING:
    from modelyard.types.memory import ProcessMemory, Receipt

_output_option = click.option(
    "-o", "--output", "form", type=click.Choice(("text", "json", "yaml")), default="text", help=N_("Output format.")
)


@click.command(help=N_("Read the model folders again, and list the models there are now."))
@_output_option
@url_option
@click.pass_context
def rescan(context: click.Context, form: str, url: str | None) -> None:
    session = session_of(context)
    with session.client(url) as client:
        found = client.rescan()
    if form != "text":
        models = [{"id": name, "problem": problem or None} for name, problem in found.items()]
        write_object(session.terminal, form, {"models": models})
        return
    session.terminal.note(session.terminal.counted(len(found), "{count} model:", "{count} models:"))
    for name, problem in found.items():
        session.terminal.answer(plain(f"{name}  {problem}".rstrip()) + "\n")


@click.command(help=N_("Load a model and wait until it is ready."))
@click.argument("model", shell_complete=complete_model)
@_output_option
@url_option
@click.pass_context
def load(context: click.Context, model: str, form: str, url: str | None) -> None:
    session = session_of(context)
    with session.client(url) as client, PhaseLine(session, client.url, text=N_("loading the model")):
        receipt = client.load(model)
    if receipt is None:
        session.terminal.say(N_("{model} is in memory already."), model=model)
    else:
        held, took = _held(session, receipt.worker), session.terminal.duration(receipt.took_s)
        session.terminal.say(N_("{model} is loaded ({took}); it holds: {held}"), model=model, took=took, held=held)
    _write_receipt(session, form, receipt)


@click.command(help=N_("Take a model out of memory. Its running requests end first, unless --force is given."))
@click.argument("model", shell_complete=complete_model)
@click.option("--force", is_flag=True, help=N_("Break off running requests."))
@click.option("--yes", is_flag=True, help=N_("Do not ask."))
@_output_option
@url_option
@click.pass_context
def unload(context: click.Context, model: str, force: bool, yes: bool, form: str, url: str | None) -> None:
    session = session_of(context)
    with session.client(url) as client:
        if force and not yes and session.has_input and session.terminal.is_watched:
            _confirm_force(session, client.status().residents, model)
        with PhaseLine(session, client.url, text=N_("unloading the model")):
            receipt = client.unload(model, force=force)
    if receipt is None:
        session.terminal.say(N_("{model} was not in memory."), model=model)
    else:
        held, took = _held(session, receipt.worker), session.terminal.duration(receipt.took_s)
        session.terminal.say(N_("{model} is unloaded ({took}); it held: {held}"), model=model, took=took, held=held)
        if receipt.leaked_bytes > 0:
            leaked = session.terminal.size(receipt.leaked_bytes)
            session.terminal.say(N_("{leaked} did not come back."), leaked=leaked)
        for line in lines("model.unloaded", asdict(receipt), session.terminal.language)[1:]:
            session.terminal.note(f"  {line}")
    _write_receipt(session, form, receipt)


@click.command(help=N_("Keep a model in memory once it is there: never evicted, never expired."))
@click.argument("model", shell_complete=complete_model)
@click.option("--off", is_flag=True, help=N_("No longer keep it."))
@url_option
@click.pass_context
def pin(context: click.Context, model: str, off: bool, url: str | None) -> None:
    session = session_of(context)
    with session.client(url) as client, PhaseLine(session, client.url):
        client.pin(model, pinned=not off)
    text = N_("{model} is no longer pinned.") if off else N_("{model} is pinned.")
    session.terminal.say(text, model=model)


def _confirm_force(session: Session, residents: tuple[object, ...], model: str) -> None:
    from modelyard.types.status import ResidentStatus

    for resident in residents:
        if isinstance(resident, ResidentStatus) and resident.model == model and resident.leases:
            question = session.terminal.counted(
                resident.leases, "{model} is answering {count} request. Break it off and free {freed}?",
                "{model} is answering {count} requests. Break them off and free {freed}?",
                model=model, freed=_amounts(session, resident.measured_bytes or resident.reserved_bytes),
            )  # fmt: skip
            click.confirm(question, abort=True, err=True)


def _held(session: Session, worker: ProcessMemory) -> str:
    """The model's own memory. What the whole machine gained or lost meanwhile is others' doing too."""
    return _amounts(session, {"ram": worker.anonymous_bytes, **worker.gpu_bytes})


def _amounts(session: Session, counts: Mapping[str, int]) -> str:
    return ", ".join(f"{device} {session.terminal.size(count)}" for device, count in counts.items()) or "-"


def _write_receipt(session: Session, form: str, receipt: Receipt | None) -> None:
    if form != "text":
        write_object(session.terminal, form, {"receipt": asdict(receipt) if receipt else None})

"""`modelyard list` and `ps`: which models there are, and which are in memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from modelyard.cli.output import format_option, write_listing
from modelyard.cli.session import Session, session_of, url_option
from modelyard.errors import N_

if TYPE_CHECKING:
    from modelyard.client.replies import ModelEntry
    from modelyard.types.status import DeviceStatus, NodeStatus, ResidentStatus, WaitStatus

MODEL_COLUMNS = ("NAME", "SIZE", "MODIFIED", "CONTEXT", "ENGINE", "STATE")
HOLDERS_SHOWN = 3
WAITING_SHOWN = 20
_REASONS = {
    "loading": N_("the model is loading {detail}"),
    "memory": N_("memory is being made free {detail}"),
    "busy": N_("models in its way are busy: {detail}"),
    "foreign": N_("others hold the memory of {detail}"),
    "slot": N_("every slot is in use"),
}
RESIDENT_COLUMNS = ("NAME", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL", "STATE", "BUSY")


@click.command("list", help=N_("List the models of a server. With a PREFIX, only names that begin with it."))
@click.argument("prefix", default="")
@format_option
@url_option
@click.pass_context
def list_models(context: click.Context, prefix: str, form: str, url: str | None) -> None:
    session = session_of(context)
    with session.client(url) as client:
        entries = [entry for entry in client.models() if entry.name.lower().startswith(prefix.lower())]
    write_models(session, form, entries)
    if prefix and not entries:
        session.terminal.say(
            N_("No model's name begins with {prefix}; `modelyard list` shows every model."), prefix=prefix
        )


@click.command(help=N_("List the models in memory, and the requests that use them."))
@format_option
@url_option
@click.pass_context
def ps(context: click.Context, form: str, url: str | None) -> None:
    session = session_of(context)
    with session.client(url) as client:
        status = client.status()
    write_residents(session, form, status)


def write_models(session: Session, form: str, entries: Sequence[ModelEntry]) -> None:
    """Write a server's models; what is wrong with one stands in its state."""
    terminal, now = session.terminal, time.time()
    rows = [
        (
            entry.name,
            terminal.size(entry.size_bytes) if entry.size_bytes else "-",
            terminal.ago(max(0.0, now - entry.created_at)) if entry.created_at > 0 else "-",
            str(entry.context_length or "-"),
            entry.engine or "-",
            _model_state(session, entry),
        )
        for entry in entries
    ]
    objects = [{**asdict(entry), "created_at": _time(entry.created_at)} for entry in entries]
    write_listing(terminal, form, "models", MODEL_COLUMNS, rows, objects)


def _model_state(session: Session, entry: ModelEntry) -> str:
    if entry.problem:
        return session.terminal._(N_("problem: {problem}"), problem=session.terminal.told(entry.problem))
    return session.terminal.told(entry.state) or "-"


def write_residents(session: Session, form: str, status: NodeStatus) -> None:
    """Write what is in memory; for people also devices, requests, and why loads failed."""
    rows = [_resident_row(session, resident) for resident in status.residents]
    whole = asdict(status)
    objects = [{**one, "loaded_at": _time(one["loaded_at"])} for one in whole.pop("residents")]
    whole["started_at"] = _time(status.started_at)
    write_listing(session.terminal, form, "residents", RESIDENT_COLUMNS, rows, objects, whole)
    if form == "table":
        _write_rest(session, status)


def _resident_row(session: Session, resident: ResidentStatus) -> tuple[str, ...]:
    held = resident.measured_bytes or resident.reserved_bytes
    return (
        resident.model,
        session.terminal.size(sum(held.values())) if held else "-",
        processor(held),
        str(resident.context_length or "-"),
        _until(session, resident),
        _state(session, resident),
        f"{resident.leases}/{resident.slots}",
    )


def processor(held_bytes: dict[str, int]) -> str:
    """Where a model is, as a share of its bytes.

    >>> processor({"ram": 1, "gpu0": 3}), processor({"gpu0": 1, "gpu1": 1}), processor({"ram": 7}), processor({})
    ('25%/75% CPU/GPU', '100% GPU', '100% CPU', '-')
    """
    total = sum(held_bytes.values())
    if not total:
        return "-"
    gpu = round(100 * sum(count for device, count in held_bytes.items() if device.startswith("gpu")) / total)
    if gpu in (0, 100):
        return "100% GPU" if gpu else "100% CPU"
    return f"{100 - gpu}%/{gpu}% CPU/GPU"


def _state(session: Session, resident: ResidentStatus) -> str:
    """Where it stands; of a load how far it is, of a role's model for whom it is there."""
    terminal = session.terminal
    state = terminal.told(resident.state.value)
    if resident.progress is not None:
        eta = terminal.duration(resident.eta_s or 0.0)
        template = N_("{phase} {percent} %, about {eta}")
        percent = round(100 * resident.progress)
        state = terminal._(template, phase=terminal.told(resident.phase) or state, percent=percent, eta=eta)
    return f"{state} ({', '.join(resident.roles)})" if resident.roles else state


def _until(session: Session, resident: ResidentStatus) -> str:
    terminal = session.terminal
    if resident.state in ("draining", "leaving"):
        return terminal._(N_("stopping"))
    if resident.expires_in_s is not None:
        return terminal._(N_("{time} from now"), time=terminal.duration(max(0.0, resident.expires_in_s)))
    if resident.leases and not resident.pinned:
        return terminal._(N_("in use"))
    return terminal._(N_("forever"))


def _write_rest(session: Session, status: NodeStatus) -> None:
    terminal = session.terminal
    for device in status.devices:
        write_device(session, device)
    for request in status.requests:
        text = terminal.counted(
            request.output_tokens, "request {id}: {model}, {phase} for {age}, {count} token",
            "request {id}: {model}, {phase} for {age}, {count} tokens", id=request.id, model=request.model,
            phase=terminal.told(request.phase), age=terminal.duration(request.age_s),
        )  # fmt: skip
        terminal.note(text)
    if status.queue:
        terminal.note(terminal.counted(status.queue, "{count} request waits.", "{count} requests wait."))
    for wait in status.waiting[:WAITING_SHOWN]:
        terminal.say(N_("waiting for {model}: {text}"), model=wait.model, text=wait_text(session, wait))
    for model, problem in status.failures.items():  # it may have ended while it served, too
        terminal.say(N_("{model}: {problem}"), model=model, problem=terminal.told(problem))
    if status.config_problem:
        problem = terminal.told(status.config_problem)
        terminal.say(N_("The configuration as it is written is not in force: {problem}"), problem=problem)
    if status.draining:
        terminal.say(N_("The server is shutting down."))


def wait_text(session: Session, wait: WaitStatus) -> str:
    """Why somebody waits, at which place, and for how long about."""
    terminal, because = session.terminal, _REASONS.get(wait.reason, "")
    _ = terminal._
    parts = [_(because, detail=wait.detail).strip(" :：") if because else terminal.told(wait.reason)]
    if wait.position > 1:
        parts.append(_(N_("place {position}"), position=wait.position))
    if wait.eta_s is not None:
        parts.append(_(N_("about {eta}"), eta=terminal.duration(wait.eta_s)))
    return terminal._(N_(", ")).join(parts)


def write_device(session: Session, device: DeviceStatus) -> None:
    """One line for a device's ledger, and one for who holds what is not ours."""
    terminal, name = session.terminal, device.reading.device
    terminal.say(
        N_("{device}: {reserved} of {budget} given to models, {foreign} used by others, {free} free, {headroom} kept"),
        device=name,
        reserved=terminal.size(device.reserved_bytes),
        budget=terminal.size(device.budget_bytes),
        foreign=terminal.size(device.foreign_bytes),
        free=terminal.size(max(0, device.free_bytes)),
        headroom=terminal.size(device.headroom_bytes),
    )
    if device.free_bytes < 0:
        short = terminal.size(-device.free_bytes)
        terminal.say(N_("{device}: others hold {short} more than there is room for"), device=name, short=short)
    largest = sorted(device.holders, key=lambda one: -one.bytes.get(name, 0))[:HOLDERS_SHOWN]
    if largest and device.foreign_bytes > 0:
        shown = ", ".join(f"{one.name} {terminal.size(one.bytes.get(name, 0))}" for one in largest)
        terminal.say(N_("{device}: others are {holders}"), device=name, holders=shown)


def _time(at: float | None) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z") if at else None

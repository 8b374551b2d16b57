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
from modelyard.units import format_bytes, format_duration

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
            format_bytes(entry.size_bytes) if entry.size_bytes else "-",
            _ago(session, now - entry.created_at) if entry.created_at > 0 else "-",
            str(entry.context_length or "-"),
            entry.engine or "-",
            terminal._(N_("problem: {problem}"), problem=entry.problem) if entry.problem else entry.state or "-",
        )
        for entry in entries
    ]
    objects = [{**asdict(entry), "created_at": _time(entry.created_at)} for entry in entries]
    write_listing(terminal, form, "models", MODEL_COLUMNS, rows, objects)


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
        format_bytes(sum(held.values())) if held else "-",
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
    state = resident.state.value
    if resident.progress is not None:
        eta = format_duration(resident.eta_s or 0.0)
        template = N_("{phase} {percent} %, about {eta}")
        percent = round(100 * resident.progress)
        state = session.terminal._(template, phase=resident.phase or state, percent=percent, eta=eta)
    return f"{state} ({', '.join(resident.roles)})" if resident.roles else state


def _until(session: Session, resident: ResidentStatus) -> str:
    terminal = session.terminal
    if resident.state in ("draining", "leaving"):
        return terminal._(N_("stopping"))
    if resident.expires_in_s is not None:
        return terminal._(N_("{time} from now"), time=format_duration(max(0.0, resident.expires_in_s)))
    if resident.leases and not resident.pinned:
        return terminal._(N_("in use"))
    return terminal._(N_("forever"))


def _write_rest(session: Session, status: NodeStatus) -> None:
    terminal = session.terminal
    for device in status.devices:
        write_device(session, device)
    for request in status.requests:
        terminal.say(
            N_("request {id}: {model}, {phase} for {age}, {count} tokens"),
            id=request.id,
            model=request.model,
            phase=request.phase,
            age=format_duration(request.age_s),
            count=request.output_tokens,
        )
    if status.queue:
        terminal.say(N_("{count} requests wait."), count=status.queue)
    for wait in status.waiting[:WAITING_SHOWN]:
        terminal.say(N_("waiting for {model}: {text}"), model=wait.model, text=wait_text(session, wait))
    for model, problem in status.failures.items():  # it may have ended while it served, too
        terminal.say(N_("{model}: {problem}"), model=model, problem=problem)
    if status.config_problem:
        problem = status.config_problem
        terminal.say(N_("The configuration as it is written is not in force: {problem}"), problem=problem)
    if status.draining:
        terminal.say(N_("The server is shutting down."))


def wait_text(session: Session, wait: WaitStatus) -> str:
    """Why somebody waits, at which place, and for how long about."""
    _, because = session.terminal._, _REASONS.get(wait.reason, "")
    parts = [_(because, detail=wait.detail).strip(" :") if because else wait.reason]
    if wait.position > 1:
        parts.append(_(N_("place {position}"), position=wait.position))
    if wait.eta_s is not None:
        parts.append(_(N_("about {eta}"), eta=format_duration(wait.eta_s)))
    return ", ".join(parts)


def write_device(session: Session, device: DeviceStatus) -> None:
    """One line for a device's ledger, and one for who holds what is not ours."""
    terminal, name = session.terminal, device.reading.device
    terminal.say(
        N_("{device}: {reserved} of {budget} given to models, {foreign} used by others, {free} free, {headroom} kept"),
        device=name,
        reserved=format_bytes(device.reserved_bytes),
        budget=format_bytes(device.budget_bytes),
        foreign=format_bytes(device.foreign_bytes),
        free=format_bytes(max(0, device.free_bytes)),
        headroom=format_bytes(device.headroom_bytes),
    )
    if device.free_bytes < 0:
        short = format_bytes(-device.free_bytes)
        terminal.say(N_("{device}: others hold {short} more than there is room for"), device=name, short=short)
    largest = sorted(device.holders, key=lambda one: -one.bytes.get(name, 0))[:HOLDERS_SHOWN]
    if largest and device.foreign_bytes > 0:
        shown = ", ".join(f"{one.name} {format_bytes(one.bytes.get(name, 0))}" for one in largest)
        terminal.say(N_("{device}: others are {holders}"), device=name, holders=shown)


def _ago(session: Session, seconds: float) -> str:
    days = int(seconds // 86400)
    time_text = f"{days}d" if days else format_duration(max(0.0, seconds))
    return session.terminal._(N_("{time} ago"), time=time_text)


def _time(at: float | None) -> str | None:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z") if at else None

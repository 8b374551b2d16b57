"""`modelyard show`: everything a server knows about one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from modelyard.cli.output import write_object
from modelyard.cli.session import Session, complete_model, session_of, url_option
from modelyard.cli.terminal import Terminal, plain
from modelyard.cli.widths import padded, width
from modelyard.errors import N_, YardError

if TYPE_CHECKING:
    from modelyard.client.replies import ModelEntry
    from modelyard.types.status import NodeStatus, ResidentStatus

Lines = Iterator[tuple[str, str]]

FITS: Mapping[str, str] = {
    "resident": N_("in memory"),
    "now": N_("fits now"),
    "after_evictions": N_("fits after evictions: {leave}"),
    "after_answers": N_("fits when running answers have ended: {leave}"),
    "blocked": N_("not now: pinned models and other programs leave {device} {short} short"),
    "never": N_("never: {short} more than {device} has for models"),
}


@click.command(help=N_("Show one model: its file, what it can do, how it is started and why so, and what it needs."))
@click.argument("model", shell_complete=complete_model)
@click.option("-o", "--output", "form", type=click.Choice(("text", "json", "yaml")), default="text", help=N_("Output."))
@url_option
@click.pass_context
def show(context: click.Context, model: str, form: str, url: str | None) -> None:
    session = session_of(context)
    with session.client(url) as client:
        entry = client.show(model)
        try:
            status: NodeStatus | None = client.status()
        except YardError:
            status = None  # a key may see models and not the node
    if form == "text":
        write_sections(session, entry, status)
        return
    resident = _resident(entry, status)
    told = {"model": asdict(entry), "resident": asdict(resident) if resident else None}
    write_object(session.terminal, form, {**told, "last_failure": _failure(entry, status)})


def write_sections(session: Session, entry: ModelEntry, status: NodeStatus | None) -> None:
    """One section after the other; what is unknown is left out."""
    sections = (
        (N_("Model"), _model_lines(session.terminal, entry)),
        (N_("Capabilities"), ((name, "") for name in sorted(entry.capabilities))),
        (N_("Launch options"), _launch_lines(session.terminal, entry)),
        (N_("Footprint"), _footprint_lines(session.terminal, entry)),
        (N_("Fits, by context"), _estimate_lines(session, entry)),
        (N_("State"), _state_lines(session.terminal, entry, _resident(entry, status))),
        (
            N_("Last failure"),
            iter([(session.terminal.told(_failure(entry, status)), "")] if _failure(entry, status) else []),
        ),
    )
    for title, lines in sections:
        found = [(plain(session.terminal.told(name)), plain(value)) for name, value in lines]
        if found:
            columns = max(width(name) for name, value in found)
            text = "".join(f"    {padded(name, columns)}  {value}".rstrip() + "\n" for name, value in found)
            session.terminal.answer(f"  {session.terminal._(title)}\n{text}\n")


def _model_lines(terminal: Terminal, entry: ModelEntry) -> Lines:
    yield N_("name"), entry.name
    if entry.aliases:
        yield N_("aliases"), ", ".join(entry.aliases)
    for name in (N_("architecture"), N_("quantization"), N_("format")):
        if entry.details.get(name):
            yield name, str(entry.details[name])
    count = entry.details.get("parameter_count")
    if isinstance(count, int) and count:
        yield N_("parameters"), f"{count / 1e9:.2f} B" if count >= 1e8 else f"{count / 1e6:.1f} M"
    if entry.size_bytes:
        yield N_("size"), terminal.size(entry.size_bytes)
    if entry.context_length:
        yield N_("context"), str(entry.context_length)
    if entry.engine:
        why = entry.details.get("engine_reason")
        yield N_("engine"), f"{entry.engine}  ({terminal.told(str(why))})" if why else entry.engine
    if entry.problem:
        yield N_("problem"), terminal.told(entry.problem)


def _launch_lines(terminal: Terminal, entry: ModelEntry) -> Lines:
    launch = entry.details.get("launch")
    if not isinstance(launch, dict):
        return
    values, reasons = _mapping(launch.get("values")), _mapping(launch.get("reasons"))
    for name in ("slots", "context_length"):
        if launch.get(name) is not None:
            values = {name: launch[name], **values}
    for name, value in values.items():
        shown = terminal.size(value) if str(name).endswith("_bytes") and isinstance(value, int) else str(value)
        yield str(name), f"{shown}  ({terminal.told(str(reasons[name]))})" if reasons.get(name) else shown


def _footprint_lines(terminal: Terminal, entry: ModelEntry) -> Lines:
    footprint = _mapping(entry.details.get("footprint"))
    for kind in ("bytes", "parts"):
        for name, count in _mapping(footprint.get(kind)).items():
            if isinstance(count, int):
                yield str(name), terminal.size(count)
    for title, name in ((N_("held before"), "measured_anonymous"), (N_("mapped before"), "measured_mapped")):
        if isinstance(count := footprint.get(name), int):
            yield title, terminal.size(count)
    if footprint.get("source"):
        band = footprint.get("band_ratio")
        yield (
            N_("source"),
            terminal.told(str(footprint["source"])) + (f" ±{band:.0%}" if isinstance(band, float) and band else ""),
        )


def _estimate_lines(session: Session, entry: ModelEntry) -> Lines:
    """What a load with each context would take, and whether there is room for it."""
    estimates = entry.details.get("estimates")
    for one in estimates if isinstance(estimates, list) else ():
        told = _mapping(one)
        total, band = told.get("total_bytes"), told.get("band_ratio")
        if not isinstance(total, int):
            continue
        size = session.terminal.size(total) + (f" ±{band:.0%}" if isinstance(band, float) and band else "")
        yield str(told.get("context_length")), f"{size.ljust(18)}  {_fit(session, told)}"


def _fit(session: Session, told: Mapping[str, object]) -> str:
    text = FITS.get(str(told.get("fit")), "")
    leave, short = told.get("leave"), told.get("short_bytes")
    return session.terminal._(text).format(
        leave=", ".join(str(name) for name in leave) if isinstance(leave, list) and leave else "-",
        short=session.terminal.size(short) if isinstance(short, int) else "-",
        device=told.get("device"),
    )


def _state_lines(terminal: Terminal, entry: ModelEntry, resident: ResidentStatus | None) -> Lines:
    if resident is None:
        if entry.state:
            yield N_("state"), terminal.told(entry.state)
        return
    yield N_("state"), terminal.told(resident.state.value) + (terminal._(N_(", pinned")) if resident.pinned else "")
    yield N_("requests"), terminal._(
        N_("{leases} of {slots} slots, {waiting} waiting"),
        leases=resident.leases, slots=resident.slots, waiting=resident.waiting,
    )  # fmt: skip
    for name, held in ((N_("measured"), resident.measured_bytes), (N_("reserved"), resident.reserved_bytes)):
        if held:
            yield name, ", ".join(f"{device} {terminal.size(count)}" for device, count in held.items())
    if resident.load_s is not None:
        yield N_("load took"), terminal.duration(resident.load_s)
    if resident.expires_in_s is not None:
        yield N_("expires in"), terminal.duration(max(0.0, resident.expires_in_s))
    if resident.pid is not None:
        yield N_("process"), str(resident.pid)


def _resident(entry: ModelEntry, status: NodeStatus | None) -> ResidentStatus | None:
    return next((one for one in status.residents if one.model == entry.name), None) if status else None


def _failure(entry: ModelEntry, status: NodeStatus | None) -> str:
    told = entry.details.get("last_failure")
    return str(told) if told else (status.failures.get(entry.name, "") if status else "")


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}

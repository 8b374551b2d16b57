"""What `modelyard top` shows: from a status and a width to lines. Pure: draws nothing, asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from modelyard.cli.models import wait_text
from modelyard.cli.session import Session
from modelyard.cli.terminal import plain
from modelyard.cli.widths import cut, padded, width
from modelyard.errors import N_
from modelyard.types.status import DeviceStatus, NodeStatus, RequestStatus, ResidentStatus

BAR_MIN, BAR_MAX = 10, 50
OURS, OTHERS, KEPT, FREE = "█", "▓", "▒", "░"
INDENT = 6
PHASE_MAX = 40
Style = Literal["", "title", "chosen", "faint", "warning"]


@dataclass(frozen=True, slots=True)
class Row:
    """What can be chosen: a model in memory, or a request. It stays chosen while what is told of it changes."""

    kind: Literal["model", "request"]
    name: str
    pinned: bool = field(default=False, compare=False)
    held_bytes: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Line:
    """One line, and how it looks."""

    text: str
    style: Style = ""


def rows_of(status: NodeStatus) -> list[Row]:
    """What can be chosen, in the order in which it is shown."""
    models = [Row("model", one.model, one.pinned, _held(one)) for one in status.residents]
    return models + [Row("request", one.id) for one in status.requests]


def picture(session: Session, status: NodeStatus, columns: int, chosen: Row | None = None) -> list[Line]:
    """The whole screen but its last line."""
    terminal = session.terminal
    _ = terminal._
    lines = [Line(_(N_("Modelyard {version}"), version=status.version), "title")]
    for device in status.devices:
        lines += _device(session, status, device, columns)
    lines += [Line(""), Line(_(N_("In memory")), "title")]
    lines += _models(session, status.residents, columns, chosen) or [Line(_(N_("(nothing)")), "faint")]
    lines += [Line(""), Line(_(N_("Requests")), "title")]
    lines += _requests(session, status.requests, columns, chosen) or [Line(_(N_("(none)")), "faint")]
    if status.waiting:
        lines += [Line(""), Line(_(N_("Waiting for memory")), "title")]
        lines += [Line(f"  {one.model}  {wait_text(session, one)}") for one in status.waiting]
    for model, problem in status.failures.items():
        lines.append(Line(f"{model}: {terminal.told(problem)}", "warning"))
    if status.config_problem:
        problem = terminal.told(status.config_problem)
        text = _(N_("The configuration as it is written is not in force: {problem}"), problem=problem)
        lines.append(Line(text, "warning"))
    if status.draining:
        lines.append(Line(_(N_("The server is shutting down.")), "warning"))
    return [Line(cut(plain(one.text).replace("\n", " "), columns), one.style) for one in lines]


def seen(lines: Sequence[Line], rows: int) -> list[Line]:
    """As many lines as the window has rows; the chosen one is among them."""
    at = next((place for place, one in enumerate(lines) if one.style == "chosen"), 0)
    start = max(0, min(at - rows // 2, len(lines) - rows)) if at >= rows else 0
    return list(lines[start : start + rows])


def bar(device: DeviceStatus, columns: int) -> str:
    """A device's bytes as a bar: models, others, kept free, free. Every part that is there is seen.

    The parts add up to the whole width, whatever is rounded.
    """
    total = max(1, device.reading.total_bytes)
    counts = (device.reserved_bytes, max(0, device.foreign_bytes), device.headroom_bytes)
    signs, left = "", columns
    for count, sign in zip(counts, (OURS, OTHERS, KEPT), strict=True):
        share = min(left, max(1 if count > 0 else 0, round(columns * count / total)))
        signs, left = signs + sign * share, left - share
    return signs + FREE * left


def _device(session: Session, status: NodeStatus, device: DeviceStatus, columns: int) -> list[Line]:
    """The bar, and what its signs mean: as many to a line as fit."""
    terminal, name = session.terminal, device.reading.device
    _, size = terminal._, terminal.size
    measured = sum(one.measured_bytes.get(name, 0) for one in status.residents)
    parts = (
        f"{OURS} {_(N_('models {size}'), size=size(device.reserved_bytes))}",
        _(N_("measured {size}"), size=size(measured)),
        f"{OTHERS} {_(N_('others {size}'), size=size(max(0, device.foreign_bytes)))}",
        f"{KEPT} {_(N_('kept {size}'), size=size(device.headroom_bytes))}",
        f"{FREE} {_(N_('free {size}'), size=size(max(0, device.free_bytes)))}",
    )
    total = size(device.reading.total_bytes)
    room = min(BAR_MAX, max(BAR_MIN, columns - INDENT - 1 - width(total)))
    lines = [
        Line(f"{padded(name, INDENT - 1)} {bar(device, room)} {total}", "warning" if device.free_bytes < 0 else "")
    ]
    legend = ""
    for part in parts:
        longer = f"{legend}  {part}" if legend else part
        if legend and width(longer) > columns - INDENT:
            lines.append(Line(" " * INDENT + legend, "faint"))
            longer = part
        legend = longer
    return [*lines, Line(" " * INDENT + legend, "faint")]


def _models(session: Session, residents: Sequence[ResidentStatus], columns: int, chosen: Row | None) -> list[Line]:
    terminal = session.terminal
    room = min(32, max(12, columns // 3))

    def cells(name: str, held: str, busy: str, state: str) -> str:
        return f"  {padded(cut(name, room), room)} {padded(held, 9, 'right')}  {padded(busy, 5)}  {state}"

    lines = [Line(cells("NAME", "SIZE", "BUSY", "STATE"), "faint")] if residents else []
    for one in residents:
        state = terminal.told(one.state.value)
        if one.progress is not None:
            state = f"{terminal.told(one.phase) or state} {round(100 * one.progress)} %"
        elif one.pinned:
            state = terminal._(N_("pinned"))
        elif one.expires_in_s is not None:
            state = terminal._(N_("leaves in {time}"), time=terminal.duration(max(0.0, one.expires_in_s)))
        text = cells(plain(one.model), terminal.size(_held(one)), f"{one.leases}/{one.slots}", state)
        lines.append(Line(text, "chosen" if chosen == Row("model", one.model) else ""))
    return lines


def _requests(session: Session, requests: Sequence[RequestStatus], columns: int, chosen: Row | None) -> list[Line]:
    terminal = session.terminal
    phases = [_phase(session, one) for one in requests]
    room = min(24, max(12, columns // 4))
    phase_room = min(PHASE_MAX, max([len("PHASE"), *map(width, phases)]))

    def cells(name: str, age: str, tokens: str, phase: str, caller: str, name_of_it: str) -> str:
        first = f"  {padded(cut(name, room), room)} {padded(age, 8, 'right')} {padded(tokens, 6, 'right')}"
        return f"{first}  {padded(cut(phase, phase_room), phase_room)}  {caller}  {name_of_it}"

    lines = [Line(cells("MODEL", "AGE", "TOKENS", "PHASE", "BY", "ID"), "faint")] if requests else []
    for one, phase in zip(requests, phases, strict=True):
        age, tokens = terminal.duration(one.age_s), str(one.output_tokens)
        text = cells(plain(one.model), age, tokens, phase, one.caller, one.id)
        lines.append(Line(text, "chosen" if chosen == Row("request", one.id) else ""))
    return lines


def _phase(session: Session, one: RequestStatus) -> str:
    if one.wait is not None:
        return wait_text(session, one.wait)
    phase = session.terminal._(PHASES.get(one.phase, one.phase))
    if one.prompt_ratio is not None and one.phase == "prefill":
        phase = f"{phase} {round(100 * one.prompt_ratio)} %"
    return plain(phase)


PHASES = {
    "received": N_("received"),
    "queued": N_("queued"),
    "loading": N_("loading the model"),
    "prefill": N_("reading the prompt"),
    "generating": N_("generating"),
}


def moved(rows: Sequence[Row], chosen: Row | None, by: int) -> Row | None:
    """The next row up or down. What is gone is chosen no more."""
    if not rows:
        return None
    if chosen not in rows:
        return rows[0] if by > 0 else rows[-1]
    return rows[min(len(rows) - 1, max(0, rows.index(chosen) + by))]


def _held(one: ResidentStatus) -> int:
    return sum((one.measured_bytes or one.reserved_bytes).values())

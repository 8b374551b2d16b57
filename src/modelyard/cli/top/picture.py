"""What `modelyard top` shows: from a status and a width to lines. Pure: draws nothing, asks nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from modelyard.cli.models import wait_text
from modelyard.cli.session import Session
from modelyard.cli.terminal import plain
from modelyard.cli.widths import cut, padded
from modelyard.errors import N_
from modelyard.types.status import DeviceStatus, NodeStatus, RequestStatus, ResidentStatus

BAR_MIN, BAR_MAX = 10, 50
OURS, OTHERS, KEPT, FREE = "█", "▓", "▒", "░"
Style = Literal["", "title", "chosen", "faint", "warning"]


@dataclass(frozen=True, slots=True)
class Row:
    """Something that can be chosen: a model in memory, or a request."""

    kind: Literal["model", "request"]
    name: str
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line, and how it looks."""

    text: str
    style: Style = ""


def rows_of(status: NodeStatus) -> list[Row]:
    """What can be chosen, in the order in which it is shown."""
    models = [Row("model", one.model, one.pinned) for one in status.residents]
    return models + [Row("request", one.id) for one in status.requests]


def picture(session: Session, status: NodeStatus, columns: int, chosen: Row | None = None) -> list[Line]:
    """The whole screen but its last line."""
    _ = session.terminal._
    lines = [Line(_(N_("Modelyard {version}"), version=status.version), "title")]
    for device in status.devices:
        lines += _device(session, device, columns)
    lines += [Line(""), Line(_(N_("In memory")), "title")]
    lines += [_model(session, one, columns, chosen) for one in status.residents] or [Line(_(N_("(nothing)")), "faint")]
    lines += [Line(""), Line(_(N_("Requests")), "title")]
    lines += [_request(session, one, columns, chosen) for one in status.requests] or [Line(_(N_("(none)")), "faint")]
    if status.waiting:
        lines += [Line(""), Line(_(N_("Waiting for memory")), "title")]
        lines += [Line(f"  {one.model}  {wait_text(session, one)}") for one in status.waiting]
    for model, problem in status.failures.items():
        lines.append(Line(f"{model}: {problem}", "warning"))
    return [Line(cut(plain(one.text).replace("\n", " "), columns), one.style) for one in lines]


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


def _device(session: Session, device: DeviceStatus, columns: int) -> list[Line]:
    terminal = session.terminal
    name = padded(device.reading.device, 5)
    room = min(BAR_MAX, max(BAR_MIN, columns - len(name) - 2))
    text = terminal._(
        N_("{models} for models, {others} others, {free} free of {total}"),
        models=terminal.size(device.reserved_bytes),
        others=terminal.size(max(0, device.foreign_bytes)),
        free=terminal.size(max(0, device.free_bytes)),
        total=terminal.size(device.reading.total_bytes),
    )
    return [
        Line(f"{name} {bar(device, room)}", "warning" if device.free_bytes < 0 else ""),
        Line(f"      {text}", "faint"),
    ]


def _model(session: Session, one: ResidentStatus, columns: int, chosen: Row | None) -> Line:
    terminal = session.terminal
    held = sum((one.measured_bytes or one.reserved_bytes).values())
    state = one.state.value
    if one.progress is not None:
        state = f"{one.phase or state} {round(100 * one.progress)} %"
    elif one.pinned:
        state = terminal._(N_("pinned"))
    elif one.expires_in_s is not None:
        state = terminal._(N_("leaves in {time}"), time=terminal.duration(max(0.0, one.expires_in_s)))
    name = padded(one.model, min(32, max(12, columns // 3)))
    text = f"  {name} {padded(terminal.size(held), 10, 'right')}  {one.leases}/{one.slots}  {state}"
    return Line(text, "chosen" if chosen == Row("model", one.model, one.pinned) else "")


def _request(session: Session, one: RequestStatus, columns: int, chosen: Row | None) -> Line:
    terminal = session.terminal
    phase = terminal._(PHASES.get(one.phase, one.phase))
    if one.prompt_ratio is not None and one.phase == "prefill":
        phase = f"{phase} {round(100 * one.prompt_ratio)} %"
    if one.wait is not None:
        phase = wait_text(session, one.wait)
    age = padded(terminal.duration(one.age_s), 8, "right")
    name = padded(one.model, min(24, max(12, columns // 4)))
    text = f"  {name} {age} {one.output_tokens:>7}  {phase}  {one.caller}  {one.id}"
    return Line(text, "chosen" if chosen == Row("request", one.id) else "")


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

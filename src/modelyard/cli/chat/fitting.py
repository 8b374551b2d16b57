"""Whether a model fits beside what is in memory, in words: what `/model` shows before somebody switches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelyard.cli.show import FITS
from modelyard.cli.terminal import Terminal
from modelyard.errors import N_

if TYPE_CHECKING:
    from modelyard.client.replies import ModelEntry


def fit_text(terminal: Terminal, entry: ModelEntry) -> str:
    """One phrase; empty where the server does not say, as for a model at another node."""
    estimates: Any = entry.details.get("estimates")
    if not isinstance(estimates, list) or not estimates:
        return terminal._(N_("in memory")) if entry.state == "resident" else ""
    first = estimates[0] if isinstance(estimates[0], dict) else {}
    template = FITS.get(str(first.get("fit")), "")
    if not template:
        return ""
    leave = ", ".join(str(one) for one in first.get("leave") or ()) or terminal._(N_("what is leaving already"))
    short = terminal.size(int(first.get("short_bytes") or 0))
    return terminal._(template, leave=leave, short=short, device=str(first.get("device") or ""))

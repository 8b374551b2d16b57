"""`/why`: the last diagnosis in full, or, where all went well, who answered and what it took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelyard.cli.terminal import Terminal
from modelyard.errors import N_, YardError
from modelyard.words import render

if TYPE_CHECKING:
    from modelyard.cli.chat.conversation import Conversation

_RECEIPT = {
    "model": N_("the model that answered: {value}"),
    "node": N_("the node: {value}"),
    "route": N_("chosen because: {value}"),
    "fallback-reason": N_("another model answered because of: {value}"),
    "degraded": N_("given up so that it fits: {value}"),
    "trimmed": N_("left out of the prompt: {value}"),
    "queue-ms": N_("waited for memory or a slot: {value} ms"),
    "load-ms": N_("loading: {value} ms"),
}


def why_text(chat: Conversation) -> str:
    """Several lines."""
    terminal = chat.session.terminal
    if chat.failure is not None:
        return "\n".join(_of_error(terminal, chat.failure))
    if chat.last is None:
        return terminal._(N_("Nothing has been asked yet."))
    lines = [
        terminal._(text, value=chat.last.receipt[name]) for name, text in _RECEIPT.items() if name in chat.last.receipt
    ]
    return "\n".join(lines) or terminal._(N_("The server tells nothing about this answer."))


def _of_error(terminal: Terminal, error: YardError) -> list[str]:
    message, hints = render(error, terminal.language)
    lines = [message, terminal._(N_("code: {code}"), code=error.code)]
    verdict = error.fields.get("verdict")
    if isinstance(verdict, dict):
        lines.append(terminal._(N_("verdict: {code}, confidence {percent} %"), **_judged(verdict)))
        evidence = verdict.get("evidence")
        lines += [f"  {name}: {value}" for name, value in (evidence.items() if isinstance(evidence, dict) else ())]
    return [*lines, *(f"→ {hint}" for hint in hints), *getattr(error, "__notes__", ())]


def _judged(verdict: dict[str, object]) -> dict[str, object]:
    confidence = verdict.get("confidence")
    percent = round(100 * confidence) if isinstance(confidence, int | float) else "?"
    return {"code": verdict.get("code"), "percent": percent}

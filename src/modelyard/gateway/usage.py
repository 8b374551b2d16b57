"""What became of every request: exactly one outcome each, as one log line and in the figures.

Never records what was asked or answered.
"""

from __future__ import annotations

import asyncio

import structlog

from modelyard.clock import Clock
from modelyard.errors import ClientClosed, ShuttingDown, YardError
from modelyard.providers.ticket import Ticket

from .figures import Figures

OK = "ok"


class Usage:
    """Records the end of requests. Called once per ticket, by the one place that opens them."""

    def __init__(self, figures: Figures, clock: Clock) -> None:
        self._figures = figures
        self._clock = clock
        self._log = structlog.get_logger("modelyard.requests").bind()  # once, not for each line

    def record(self, ticket: Ticket, error: BaseException | None) -> None:
        """Say how a request ended: `error` is None for a complete answer."""
        code = outcome_code(error)
        took_s = self._clock.monotonic() - ticket.started_at
        first_token_s = None if ticket.first_token_at is None else ticket.first_token_at - ticket.started_at
        finish = ticket.finish or ""
        self._figures.finished(ticket, code, took_s, first_token_s)
        usage = ticket.usage
        fields: dict[str, object] = {
            "request_id": ticket.request_id,
            "route": ticket.route,
            "caller": ticket.caller_id,
            "model": ticket.model,
            "provider": ticket.provider,
            "degraded": ticket.degraded,
            "fallback_reason": ticket.fallback_reason,
            **({"trimmed_messages": ticket.trimmed.messages} if ticket.trimmed is not None else {}),
            "code": code,
            "finish_reason": finish,
            "streamed": ticket.streamed,
            "input_tokens": usage.input_tokens if usage else None,
            "output_tokens": usage.output_tokens if usage else None,
            "output_chunks": ticket.output_chunks,
            "queue_s": ticket.queue_s,
            "load_s": ticket.load_s,
            "first_token_s": first_token_s,
            "took_s": took_s,
        }
        if isinstance(error, ClientClosed):
            fields["reason"] = str(error)
        if code == "internal":
            self._log.error("request.finished", exc_info=error, **fields)
        else:
            self._log.info("request.finished", **fields)


def outcome_code(error: BaseException | None) -> str:
    """One stable word for how a request ended."""
    if error is None:
        return OK
    if isinstance(error, YardError):
        return error.code
    return ShuttingDown.code if isinstance(error, asyncio.CancelledError) else YardError.code

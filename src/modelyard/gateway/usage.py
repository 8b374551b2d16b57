"""What became of every request: exactly one outcome each, as one log line and in the figures.

Never records what was asked or answered.
"""

from __future__ import annotations

import asyncio

import structlog

from modelyard.clock import Clock
from modelyard.errors import ClientClosed, ShuttingDown, YardError
from modelyard.providers.ticket import Ticket

from .metrics import Metrics

OK = "ok"


class Usage:
    """Records the end of requests. Called once per ticket, by the one place that opens them."""

    def __init__(self, metrics: Metrics, clock: Clock) -> None:
        self._metrics = metrics
        self._clock = clock
        self._log = structlog.get_logger("modelyard.requests").bind()  # once, not for each line

    def record(self, ticket: Ticket, error: BaseException | None) -> None:
        """Say how a request ended: `error` is None for a complete answer."""
        code = outcome_code(error)
        took_s = self._clock.monotonic() - ticket.started_at
        first_token_s = None if ticket.first_token_at is None else ticket.first_token_at - ticket.started_at
        finish = ticket.finish or ""
        self._count(ticket, code, finish, took_s, first_token_s)
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

    def _count(self, ticket: Ticket, code: str, finish: str, took_s: float, first_token_s: float | None) -> None:
        metrics = self._metrics
        model = ticket.model.partition("@")[0]  # the node has a label of its own
        metrics.outcome(ticket.route, model, ticket.provider, code, finish).inc()
        metrics.latency(ticket.route).observe(took_s)
        if not ticket.provider:
            return
        figures = metrics.of_model(model, ticket.provider)
        if ticket.queue_s is not None:
            figures.queue_s.observe(ticket.queue_s)
        if first_token_s is not None:
            figures.first_token_s.observe(first_token_s)
        usage = ticket.usage
        if usage is None:
            return
        figures.prompt_tokens.inc(usage.input_tokens)
        figures.completion_tokens.inc(usage.output_tokens)
        figures.tokens.inc(usage.input_tokens + usage.output_tokens)
        if usage.prefill_s is not None:
            figures.prefill_s.observe(usage.prefill_s)
        if usage.decode_s is not None:
            figures.decode_s.observe(usage.decode_s)


def outcome_code(error: BaseException | None) -> str:
    """One stable word for how a request ended."""
    if error is None:
        return OK
    if isinstance(error, YardError):
        return error.code
    return ShuttingDown.code if isinstance(error, asyncio.CancelledError) else YardError.code

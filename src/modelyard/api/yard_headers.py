"""Our own headers: what a request says about its patience, its deadline and its way here, and what an answer says about
what happened to it. A value that makes no sense is refused, never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from modelyard.clock import Clock
from modelyard.errors import N_, BadRequest, DeadlineExceeded, LoopDetected, said
from modelyard.providers.ticket import Ticket

from .bodies import invalid

RawHeaders = list[tuple[bytes, bytes]]

HOPS_MAX = 3
SESSION_CHARS_MAX = 256
_SECONDS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,9})?")
_COUNT = re.compile(rb"[0-9]{1,4}")
_OURS = b"x-modelyard-"
_SESSION = b"x-session-id"


def take_headers(headers: Iterable[tuple[bytes, bytes]], ticket: Ticket) -> None:
    """Note on the ticket what the request's headers ask for."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name.startswith(_OURS) or name == _SESSION:
            if name in found:
                raise _refused(name, N_("it is there more than once"))
            found[name] = value
    if found:
        _take(found, ticket)


def _take(found: dict[bytes, bytes], ticket: Ticket) -> None:
    if (value := found.get(b"x-modelyard-wait-seconds")) is not None:
        ticket.wait_s_max = _number(b"x-modelyard-wait-seconds", value, "seconds, such as 0 or 2.5")
    if (value := found.get(b"x-modelyard-hops")) is not None:
        if not _COUNT.fullmatch(value):
            raise _refused(b"x-modelyard-hops", N_("it is a number of servers"))
        ticket.hops = int(value)
        if ticket.hops > HOPS_MAX:
            raise LoopDetected(hops=ticket.hops)
    if (value := found.get(b"x-modelyard-retry")) is not None:
        if value not in (b"0", b"1"):
            raise _refused(b"x-modelyard-retry", N_("it is 0 or 1"))
        ticket.is_retry = value == b"1"
    for name in (_SESSION, b"x-modelyard-session"):
        if (value := found.get(name)) is not None:
            ticket.affinity = _session(name, value)
    if (value := found.get(b"x-modelyard-deadline-ms")) is not None:
        budget_s = _number(b"x-modelyard-deadline-ms", value, "milliseconds, such as 30000") / 1000
        ticket.deadline_at = ticket.started_at + budget_s  # it counts from when the request came, body included
        if not budget_s:
            raise DeadlineExceeded(budget_s=0)


def _number(name: bytes, value: bytes, of: str) -> float:
    if not _SECONDS.fullmatch(value):
        raise _refused(name, said("it is a number of {of}", of=of))
    return float(value)


def _session(name: bytes, value: bytes) -> str:
    text = value.decode("latin-1")
    if not text or len(text) > SESSION_CHARS_MAX or not text.isprintable():
        raise _refused(
            name,
            said("it is a text of up to {session_chars_max} printable characters", session_chars_max=SESSION_CHARS_MAX),
        )
    return text


def _refused(name: bytes, problem: str) -> BadRequest:
    shown = "-".join(part.capitalize() for part in name.decode("latin-1").split("-"))
    return invalid(shown, problem)


def told_headers(ticket: Ticket, clock: Clock) -> RawHeaders:
    """What happened to this answer, as far as it is known when the head goes out."""
    now = clock.monotonic()
    took_s = now - ticket.started_at
    told = [(b"openai-processing-ms", _ms(took_s))]
    if ticket.model:
        told.append((b"x-modelyard-model", ticket.model.encode("ascii", "replace")))
    told += _asked(ticket)
    if ticket.degraded:
        told.append((b"x-modelyard-degraded", ", ".join(ticket.degraded).encode("ascii", "replace")))
    if ticket.fallback_reason:
        told.append((b"x-modelyard-fallback-reason", ticket.fallback_reason.encode("ascii", "replace")))
    if (trimmed := ticket.trimmed) is not None:
        told.append((b"x-modelyard-trimmed", b"messages=%d, characters=%d" % (trimmed.messages, trimmed.characters)))
    if ticket.queue_s is None or ticket.load_s is None:
        return told
    told.append((b"x-modelyard-queue-ms", _ms(ticket.queue_s)))
    told.append((b"x-modelyard-load-ms", _ms(ticket.load_s)))
    if ticket.sent_at is not None:
        answered_at = ticket.answered_at or now
        ours_s = took_s - ticket.queue_s - ticket.load_s - (answered_at - ticket.sent_at)
        told.append((b"x-modelyard-overhead-ms", b"%.2f" % (max(ours_s, 0.0) * 1000)))
    return told


def asked_headers(ticket: Ticket) -> dict[str, str]:
    """Who was asked, for an error: nothing if nobody was."""
    return {name.decode(): value.decode() for name, value in _asked(ticket)} if ticket.attempts else {}


def _asked(ticket: Ticket) -> RawHeaders:
    """The node that was asked last, why that one, and how many were."""
    told = []
    if ticket.provider:
        told.append((b"x-modelyard-node", ticket.provider.encode("ascii", "replace")))
    if ticket.why:
        told.append((b"x-modelyard-route", ticket.why.encode("ascii", "replace")))
    if ticket.attempts:
        told.append((b"x-modelyard-attempts", b"%d" % ticket.attempts))
    return told


def _ms(seconds: float) -> bytes:
    return b"%d" % round(seconds * 1000)

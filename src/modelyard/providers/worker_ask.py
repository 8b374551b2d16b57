"""Whole answers of one worker under one lease: one question after another, each on a connection of its own.

Bounded in bytes and watched like a stream: a worker that exits or goes quiet ends the question with an error that says
so. Closing the connection is how the worker learns that nobody listens any more.
"""

from __future__ import annotations

from modelyard.errors import N_, UpstreamInvalid, YardError

from .deadlines import Deadlines
from .quiet_watch import QuietWatch
from .ticket import Ticket
from .upstream_errors import http_failure
from .worker_end import WorkerEnd, WorkerLease
from .worker_http import BrokenConnection, NoConnection, WorkerAnswer, post

ANSWER_BYTES_MAX = 64 * 1024**2
ERROR_BODY_BYTES_MAX = 64 * 1024
JSON = b"application/json"


class WorkerAsk:
    """Asks one worker. Whoever makes it closes it."""

    def __init__(self, lease: WorkerLease, source: str, ticket: Ticket, deadlines: Deadlines) -> None:
        self.source = source
        self._lease, self._ticket, self._connect_s = lease, ticket, deadlines.connect_s
        self._watch = QuietWatch(lease, ticket, deadlines, source)
        self._end = WorkerEnd(lease, source, ticket, deadlines.exit_news_s)
        self._answer: WorkerAnswer | None = None

    @property
    def broken(self) -> YardError | None:
        """Why the worker should be replaced, if a question showed that it should."""
        return self._watch.broken or self._end.unreachable

    def close(self) -> None:
        """Stop listening; the worker stops working when it sees the closed connection."""
        self._watch.close()
        self._end.close()
        self._hang_up()

    async def ask(self, path: str, body: bytes) -> bytes:
        """The body of its answer. Raises what it refuses, or what became of it."""
        self._watch.wait()
        try:
            self._answer = answer = await post(
                self._lease.worker.socket, path, body, request_id=self._ticket.request_id, connect_s=self._connect_s
            )
            said = await _bounded(answer, ANSWER_BYTES_MAX if answer.status == 200 else ERROR_BODY_BYTES_MAX)
        except (NoConnection, BrokenConnection) as exc:
            raise await self._end.lost(exc) from exc
        finally:
            self._hang_up()
        self._watch.hear()
        if answer.status != 200:
            raise http_failure(self.source, answer.status, said)
        if answer.content_type != JSON:
            raise UpstreamInvalid(provider=self.source, problem=N_("it is not JSON"))
        if len(said) >= ANSWER_BYTES_MAX:
            raise UpstreamInvalid(provider=self.source, problem=N_("its answer is too large"))
        return said

    def _hang_up(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None


async def _bounded(answer: WorkerAnswer, bytes_max: int) -> bytes:
    body = bytearray()
    while len(body) < bytes_max and (data := await answer.read()):
        body += data
    return bytes(body[:bytes_max])

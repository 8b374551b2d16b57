"""One answer of one worker: its bytes as chunks, and the watch that ends it when the worker exits or goes quiet.

A request for several choices is asked for one choice after another under the same lease, because a lease is one slot.
"""

from __future__ import annotations

from typing import Self

from modelyard.errors import N_, UpstreamInvalid, YardError
from modelyard.types.chat import Chunk, Delta, InferenceRequest, Progress, Usage

from .deadlines import Deadlines
from .openai_request import encode_request, path_of
from .openai_wire import AnswerDecoder
from .quiet_watch import QuietWatch
from .ticket import Ticket
from .upstream_errors import http_failure
from .worker_end import WorkerEnd, WorkerLease
from .worker_http import BrokenConnection, NoConnection, WorkerAnswer, post

ERROR_BODY_BYTES_MAX = 64 * 1024


class WorkerStream:
    """A worker's answer under way. `open` asks, iterating reads, `close` ends it at any point."""

    def __init__(
        self,
        lease: WorkerLease,
        source: str,
        request: InferenceRequest,
        ticket: Ticket,
        deadlines: Deadlines,
    ) -> None:
        self._lease = lease
        self._source = source
        self._request = request
        self._ticket = ticket
        self._connect_s = deadlines.connect_s
        self._watch = QuietWatch(lease, ticket, deadlines, source)
        self._choice = 0
        self._usage: Usage | None = None
        self._decoder = AnswerDecoder(source)
        self._answer: WorkerAnswer | None = None
        self._end = WorkerEnd(lease, source, ticket, deadlines.exit_news_s)

    @property
    def broken(self) -> YardError | None:
        """Why the worker should be replaced, if this answer showed that it should."""
        return self._watch.broken or self._end.unreachable

    async def open(self) -> None:
        """Send the request and wait for the head of the answer."""
        several = self._request.choices > 1
        body = encode_request(
            self._request, choice=self._choice if several else None, progress=self._lease.worker.has_progress
        )
        self._watch.wait()
        try:
            self._answer = answer = await post(
                self._lease.worker.socket, path_of(self._request), body,
                request_id=self._ticket.request_id, connect_s=self._connect_s,
            )  # fmt: skip
            if answer.status != 200:
                raise http_failure(self._source, answer.status, await _bounded_body(answer))
        except (NoConnection, BrokenConnection) as exc:
            raise await self._end.lost(exc) from exc
        if answer.content_type != b"text/event-stream":
            raise UpstreamInvalid(provider=self._source, problem=N_("it is not an event stream"))

    def close(self) -> None:
        """Stop listening; the worker stops working when it sees the closed connection."""
        self._watch.close()
        self._end.close()
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Chunk]:
        decoder, watch = self._decoder, self._watch
        watch.wait()
        while not decoder.done:
            assert self._answer is not None, "the answer was opened"
            try:
                data = await self._answer.read()
            except BrokenConnection as exc:
                raise await self._end.lost(exc) from exc
            if not data:
                raise await self._cut()
            event_count = decoder.event_count
            chunks = decoder.feed(data)
            # Comments and parts of an event are no progress: a hung engine sends pings. An event without text is: it
            # is a token that is not shown, and all there is from engines that tell no progress.
            if decoder.event_count > event_count:
                watch.hear()
                if not chunks:
                    watch.wait()
            if chunks:
                if not watch.has_token and any(type(chunk) is not Progress for chunk in chunks):
                    watch.first_token()
                return self._of_choice(chunks) if self._request.choices > 1 else chunks
        if self._choice + 1 >= self._request.choices:
            raise StopAsyncIteration
        await self._next_choice()
        return await self.__anext__()

    async def _next_choice(self) -> None:
        if self._answer is not None:
            self._answer.close()
        self._choice += 1
        self._decoder = AnswerDecoder(self._source)
        await self.open()

    def _of_choice(self, chunks: list[Chunk]) -> list[Chunk]:
        """Number the pieces, and keep usage until the last choice: the prompt counts once, answers add up."""
        kept: list[Chunk] = []
        for chunk in chunks:
            if isinstance(chunk, Usage):
                self._usage = _sum(self._usage, chunk)
            else:
                if isinstance(chunk, Delta):
                    chunk.choice = self._choice
                kept.append(chunk)
        if self._decoder.done and self._choice + 1 == self._request.choices and self._usage is not None:
            kept.append(self._usage)
        return kept

    async def _cut(self) -> YardError:
        """The connection ended too early: the worker's death if that is why."""
        await self._end.news()
        early = self._decoder.end()
        assert early is not None, "only an unfinished answer is cut"
        return early


def _sum(before: Usage | None, now: Usage) -> Usage:
    if before is None:
        return now
    return Usage(
        before.input_tokens,
        before.output_tokens + now.output_tokens,
        before.cached_tokens,
        before.reasoning_tokens + now.reasoning_tokens,
        _add(before.prefill_s, now.prefill_s),
        _add(before.decode_s, now.decode_s),
    )


def _add(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left + right


async def _bounded_body(answer: WorkerAnswer) -> bytes:
    body = bytearray()
    while len(body) < ERROR_BODY_BYTES_MAX and (data := await answer.read()):
        body += data
    return bytes(body[:ERROR_BODY_BYTES_MAX])

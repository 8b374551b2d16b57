"""Questions to a node that it answers at once: a whole JSON answer of bounded size, or lines as they come.

The caller sets the time. Errors are ours and name the node, never its address or key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import orjson

from modelyard.errors import N_, UpstreamInvalid, UpstreamRefusedKey, YardError

from .node_http import NodeAnswer, NodeConnections
from .remote_stream import connection_error, read_bounded
from .upstream_errors import node_failure
from .worker_http import BrokenConnection, NoConnection

BODY_BYTES_MAX = 16 * 1024**2
ERROR_BYTES_MAX = 64 * 1024
LINE_BYTES_MAX = 1024**2
Value = TypeVar("Value")
Reported = Callable[[Any, int | None], YardError]


class NodeQuestions:
    """Asks one node."""

    def __init__(
        self, name: str, connections: NodeConnections, *, key: str = "", connect_s: float = 2.0,
        failure: Callable[[str], Reported] | None = None,
    ) -> None:  # fmt: skip
        """`failure` reads what the node's dialect reports about a model; OpenAI's if not given."""
        self.name = name
        self._connections, self._connect_s, self._failure = connections, connect_s, failure
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def ask(
        self,
        method: str,
        path: str,
        kind: type[Value],
        body: object = None,
        *,
        model: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Value:
        """One question, and its answer as a value of this kind."""
        raw = await self.raw(method, path, body, model=model, headers=headers)
        try:
            return msgspec.json.decode(raw, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise UpstreamInvalid(
                provider=self.name, problem=N_("it answered something else than was asked for")
            ) from exc

    async def raw(
        self, method: str, path: str, body: object = None, *, model: str = "", headers: Mapping[str, str] | None = None
    ) -> bytes:
        """One question, and its answer as it came."""
        async with self._answer(method, path, body, model, headers) as answer:
            raw = await read_bounded(answer, BODY_BYTES_MAX + 1)
            if len(raw) > BODY_BYTES_MAX:
                raise UpstreamInvalid(provider=self.name, problem=N_("its answer is too large"))
            return raw

    async def lines(self, method: str, path: str, body: object = None, *, model: str = "") -> AsyncIterator[bytes]:
        """The lines of an answer as they come."""
        async with self._answer(method, path, body, model) as answer:
            tail = b""
            while data := await answer.read():
                *lines, tail = (tail + data).split(b"\n")
                if len(tail) > LINE_BYTES_MAX:
                    raise UpstreamInvalid(provider=self.name, problem=N_("a line is longer than any honest one"))
                for line in lines:
                    if line.strip():
                        yield line
            if tail.strip():
                yield tail

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: object, model: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[NodeAnswer]:
        raw = b"" if body is None else orjson.dumps(body)
        try:
            answer = await self._connections.request(
                method, path, raw, {**self._headers, **(headers or {})}, connect_s=self._connect_s
            )
            is_complete = False
            try:
                if not 200 <= answer.status < 300:
                    told = await read_bounded(answer, ERROR_BYTES_MAX)
                    failure = self._failure(model) if self._failure is not None else None
                    if answer.status == 403:  # of us, and of nobody's request
                        raise UpstreamRefusedKey(provider=self.name)
                    raise node_failure(
                        self.name, model, answer.status, told, answer.retry_after_s, failure, path=path
                    )  # fmt: skip
                yield answer
                is_complete = True
            finally:
                self._connections.done(answer, is_complete=is_complete)
        except (NoConnection, BrokenConnection) as exc:
            raise connection_error(self.name, exc) from exc

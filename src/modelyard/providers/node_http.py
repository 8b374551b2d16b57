"""HTTP to other nodes: TCP and TLS, one answer at a time per connection, and nothing that this does not need.

Promises: an answer that was cut short, cancelled or not read to its end takes its connection with it, so nobody ever
reads the rest of somebody else's; redirects are never followed, so a key goes to the configured address alone; there is
no proxy, no cookie, no compression, and a bound on everything. What goes wrong is `NoConnection` or `BrokenConnection`,
and says nothing that is secret.
"""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import hmac
import math
import os
import re
import socket
import ssl
import time
from collections import deque
from collections.abc import Mapping

import httptools

from .node_address import Address
from .worker_http import BrokenConnection, NoConnection, WorkerAnswer

IDLE_COUNT_MAX = 32
IDLE_S = 30.0
END_S = 1.0  # for the end of an answer that has said all it has to say
RETRY_AFTER_S_MAX = 86_400.0
_UNSAFE = re.compile(r"[^\t -~]")


class NodeAnswer(WorkerAnswer):
    """One connection to a node, and the answer that comes over it."""

    def __init__(self) -> None:
        super().__init__()
        self.retry_after_s: float | None = None
        self._is_complete = False  # the answer ended as HTTP says, and not with the connection
        self._is_dirty = False  # something came that belongs to no answer
        self._keeps_alive = False
        self._ended: asyncio.Future[None] | None = None

    def begin(self) -> None:
        """Before every request: what comes next is the answer to it."""
        self.status, self.content_type, self.retry_after_s = 0, b"", None
        self._parser = httptools.HttpResponseParser(self)
        self._has_head = self._has_ended = self._is_complete = self._keeps_alive = False
        self._error, self._head_bytes = None, 0

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_untouched(self) -> bool:
        """Not a byte of an answer has come."""
        return not self._head_bytes

    @property
    def is_reusable(self) -> bool:
        """Read to the end, with a connection that stays."""
        return (
            self.is_open and self._is_complete and self._keeps_alive and not (self._pieces or self._is_dirty)
            and self._error is None
        )  # fmt: skip

    async def ended(self) -> None:
        """Wait for the end of the answer, or of the connection."""
        if not self._has_ended:
            self._ended = self._loop.create_future()
            await self._ended

    def _tell(self) -> None:
        super()._tell()
        if self._has_ended and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    # ---- called by the transport and the parser ----

    def data_received(self, data: bytes) -> None:
        if self._has_ended:
            self._is_dirty = True
        super().data_received(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if self._has_head:
            return
        lowered = name.lower()
        if lowered == b"retry-after-ms":
            self.retry_after_s = _seconds(value, 0.001)
        elif lowered == b"retry-after" and self.retry_after_s is None:
            self.retry_after_s = _seconds(value, 1.0) if value.strip()[:1].isdigit() else _until(value)

    def on_message_complete(self) -> None:
        assert self._parser is not None, "it is the parser that calls"
        self._is_complete, self._keeps_alive = True, self._parser.should_keep_alive()
        super().on_message_complete()


class NodeConnections:
    """The connections to one node."""

    def __init__(self, address: Address, kind: type[NodeAnswer] = NodeAnswer) -> None:
        """`kind` is what an answer is kept in."""
        self.address, self._kind = address, kind
        self._tls = _tls(address) if address.is_tls else None
        self._idle: deque[tuple[NodeAnswer, float]] = deque()
        self._ending: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self.heard_at = -math.inf  # when the head of an answer came last, monotonic

    async def request(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], *, connect_s: float
    ) -> NodeAnswer:
        """Send a request and wait for the head of its answer. The caller gives back what it gets, by `done`."""
        message = self._message(method, path, body, headers)
        if (kept := self._take()) is not None:
            try:
                return await self._asked(kept, message)
            except BrokenConnection:
                if not kept.is_untouched:
                    raise
                # It had hung up on an idle connection, and we had not heard of it yet. The others are no better, and
                # the request is sent once more and no oftener: else one request could be asked as often as there are.
                self.drop_idle()
        return await self._asked(await self._connected(connect_s), message)

    async def _asked(self, answer: NodeAnswer, message: bytes) -> NodeAnswer:
        try:
            answer.begin()
            answer.send(message)
            await answer.head()
        except BaseException:
            answer.close()
            raise
        self.heard_at = time.monotonic()
        return answer

    def drop_idle(self) -> None:
        """Hang up on every connection that nobody uses."""
        while self._idle:
            self._idle.pop()[0].close()

    def done(self, answer: NodeAnswer, *, is_complete: bool) -> None:
        """An answer is over. Its connection is kept only if what came is complete to its last byte."""
        if not is_complete or not answer.is_open or self._is_closed:
            answer.close()
        elif answer.is_reusable:
            self._keep(answer)
        else:  # all is said, and the last bytes of HTTP are still on their way
            task = asyncio.get_running_loop().create_task(self._end(answer))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def close(self) -> None:
        """Hang up on every connection that nobody uses, and on the others when their answers are over."""
        self._is_closed = True
        for task in self._ending:
            task.cancel()
        self.drop_idle()

    async def _end(self, answer: NodeAnswer) -> None:
        try:
            async with asyncio.timeout(END_S):
                await answer.ended()
        except TimeoutError:
            answer.close()
        except asyncio.CancelledError:
            answer.close()
            raise
        if answer.is_reusable:
            self._keep(answer)
        else:
            answer.close()

    def _keep(self, answer: NodeAnswer) -> None:
        self._idle.append((answer, time.monotonic()))
        while len(self._idle) > IDLE_COUNT_MAX or time.monotonic() - self._idle[0][1] > IDLE_S:
            self._idle.popleft()[0].close()

    def _take(self) -> NodeAnswer | None:
        """The connection used last: the others may go stale."""
        while self._idle:
            answer, since = self._idle.pop()
            if answer.is_reusable and time.monotonic() - since <= IDLE_S:
                return answer
            answer.close()
        return None

    async def _connected(self, connect_s: float) -> NodeAnswer:
        """Name, connection and TLS together within `connect_s`."""
        address = self.address
        try:
            async with asyncio.timeout(connect_s):
                transport, answer = await asyncio.get_running_loop().create_connection(
                    self._kind, address.host, address.port, ssl=self._tls,
                    server_hostname=address.host if self._tls is not None else None,
                )  # fmt: skip
        except TimeoutError as exc:
            what = "connection" if self._tls is None else "TLS connection"
            raise NoConnection(f"no {what} within {connect_s:g} s") from exc
        except socket.gaierror as exc:
            raise NoConnection("its name is not known") from exc
        except ssl.SSLError as exc:
            raise NoConnection(f"TLS failed: {exc.reason or type(exc).__name__}".replace("_", " ").lower()) from exc
        except OSError as exc:
            # Not `strerror`: asyncio's own loops write the address there.
            raise NoConnection((os.strerror(exc.errno) if exc.errno else "it refuses connections").lower()) from exc
        if address.fingerprint and not _is_pinned(transport, address.fingerprint):
            answer.close()
            raise NoConnection("its certificate is not the one that is pinned")
        return answer

    def _message(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        lines = [f"{method} {self.address.path(path)} HTTP/1.1", f"Host: {self.address.host_header}"]
        for name, value in headers.items():
            if _UNSAFE.search(value):
                raise BrokenConnection("a header holds what no header can")
            lines.append(f"{name}: {value}")
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += ["Accept-Encoding: identity", "User-Agent: modelyard", "", ""]
        return "\r\n".join(lines).encode("ascii") + body


def _tls(address: Address) -> ssl.SSLContext:
    """Certificates are checked; with a pinned one that check replaces the authorities', since it says more."""
    context = ssl.create_default_context(cafile=str(address.ca_file) if address.ca_file else None)
    if address.fingerprint:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _is_pinned(transport: asyncio.BaseTransport, fingerprint: str) -> bool:
    connection = transport.get_extra_info("ssl_object")
    certificate = connection.getpeercert(binary_form=True) if connection is not None else None
    return certificate is not None and hmac.compare_digest(hashlib.sha256(certificate).hexdigest(), fingerprint)


def _seconds(value: bytes, unit_s: float) -> float | None:
    try:
        seconds = float(value) * unit_s
    except ValueError:
        return None
    return min(seconds, RETRY_AFTER_S_MAX) if 0 <= seconds < float("inf") else None


def _until(value: bytes) -> float | None:
    """From a date, by this machine's clock."""
    try:
        at = email.utils.parsedate_to_datetime(value.decode("ascii"))
    except (ValueError, TypeError, IndexError):
        return None
    return min(max(0.0, at.timestamp() - time.time()), RETRY_AFTER_S_MAX) if at.tzinfo is not None else None

"""How bytes become requests: uvicorn's fast parser with the limits it lacks, and listeners with small send buffers.

Refuses here, before any request exists: heads that are too large or too slow, bodies that stop coming, framing that
two servers could read in two ways, a missing or second Host, targets that are not a path.
"""

from __future__ import annotations

import asyncio
import socket
from typing import ClassVar

import httptools
import orjson
import uvicorn
from starlette.types import ASGIApp
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from modelyard.errors import N_, BadRequest, ConfigError, RequestTimeout, RequestTooLarge, YardError

from .framing import framing_problem
from .problems import error_body, status_of
from .security import new_request_id
from .slow_readers import ReaderWatch

SEND_BUFFER_BYTES = 64 * 1024
BACKLOG_MAX = 2048
KEEP_ALIVE_S = 30
CLOSE = (b"connection", b"close")  # among the default headers of a server that stops
_PHRASES = {400: "Bad Request", 408: "Request Timeout", 414: "URI Too Long", 431: "Request Header Fields Too Large"}


class HttpProtocol(HttpToolsProtocol):
    """One connection. Limits are class attributes, so that tests can have shorter ones."""

    HEAD_BYTES_MAX: ClassVar[int] = 32 * 1024
    FIELDS_MAX: ClassVar[int] = 100
    URL_BYTES_MAX: ClassVar[int] = 8 * 1024
    HEAD_S: ClassVar[float] = 10.0  # from the first moment a request could come until its head is complete
    BODY_IDLE_S: ClassVar[float] = 30.0  # silence inside a body
    BLOCKED_S: ClassVar[float] = 30.0  # a reader that takes nothing for so long is gone or as good as gone
    LAST_REQUEST_S: ClassVar[float] = 1.0  # for one already on its way when the server stops
    UNREAD_BODY_BYTES_MAX: ClassVar[int] = 1024 * 1024  # sent on after the answer: then we hang up

    # ---- state of the message that is coming in ----
    _in_head = False
    _in_body = False
    _head_bytes = 0
    _fields_bytes = 0
    _fields_count = 0
    _unread_bytes = 0
    _plain_bytes_left = 0
    _is_deaf = False  # refused, or asked for another protocol: nothing more is read
    _refusal: YardError | None = None
    _refusal_status: int | None = None
    _timer: asyncio.TimerHandle | None = None

    # ---- state of the answer that is going out ----
    _answering: RequestResponseCycle | None = None  # `cycle` is the request read last, which may wait behind it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # what the kernel does not take at once is a reader that is behind
        self._reader = ReaderWatch(transport, self.loop, self.BLOCKED_S, transport.abort)
        is_stopping = CLOSE in self.server_state.default_headers
        self._timer = self.loop.call_later(self.LAST_REQUEST_S if is_stopping else self.HEAD_S, self._too_slow)

    def shutdown(self) -> None:
        """The server stops. An answer under way is the last one; whoever is about to ask gets a moment to do so."""
        if not self._is_idle:
            self.cycle.keep_alive = False
            self.cycle.default_headers = self.server_state.default_headers
        elif not self._in_head:
            self._stop_timer()
            self._timer = self.loop.call_later(self.LAST_REQUEST_S, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._reader.end()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader.begin()

    def resume_writing(self) -> None:
        self._reader.end()
        super().resume_writing()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._unset_keepalive_if_required()
        if self._plain_bytes_left:
            self._take_plain_body(data)
            self._watch()
            return
        was_in_head = self._in_head
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._begin_plain_body(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._refusal or BadRequest(N_("The request is not valid HTTP.")))
            return
        if self._in_head and was_in_head:
            # The parser keeps a field until it is whole, so what has come must be counted here too.
            self._head_bytes += len(data)
            if self._head_bytes > self.HEAD_BYTES_MAX:
                self._refuse(self._head_too_large())
                return
        self._watch()

    # ---- the parser's callbacks ----

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["reader"] = self._reader
        self._in_head = True
        self._head_bytes = self._unread_bytes = self._fields_bytes = self._fields_count = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.URL_BYTES_MAX:
            self._refusal_status = 414
            self._stop(RequestTooLarge(what=N_("the URL"), limit=f"{self.URL_BYTES_MAX} bytes", hints=()))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields_bytes += len(name) + len(value) + 4
        self._fields_count += 1
        if self._fields_bytes > self.HEAD_BYTES_MAX or self._fields_count > self.FIELDS_MAX:
            self._stop(self._head_too_large())
        if self._in_head:  # else a trailer: it comes after the decisions that headers are for
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        problem = framing_problem(self.parser.get_http_version(), self.url, self.headers)
        if problem is not None:
            self._stop(BadRequest(problem))
        self._in_body = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self.cycle.response_complete:
            self._unread_bytes += len(body)
            if self._unread_bytes > self.UNREAD_BODY_BYTES_MAX:
                self._hang_up()
            return
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    # ---- a request that asks for another protocol ----
    # None is spoken: the request is answered as it is, then we hang up. Java's client asks for h2c with every POST,
    # and the parser hands out no body of such a request, so the body is taken here.

    def _begin_plain_body(self, data: bytes) -> None:
        self.cycle.keep_alive = False
        lengths = [int(value) for name, value in self.headers if name == b"content-length"]
        self._plain_bytes_left = lengths[0] if lengths else 0
        if self._plain_bytes_left:
            self._in_body = self.cycle.more_body = True
        self._take_plain_body(data)

    def _take_plain_body(self, data: bytes) -> None:
        piece = data[: self._plain_bytes_left]
        self._plain_bytes_left -= len(piece)
        if piece:
            self.on_body(piece)
        if not self._plain_bytes_left:
            self.on_message_complete()
            self._is_deaf = True

    # ---- refusing ----

    def _head_too_large(self) -> RequestTooLarge:
        self._refusal_status = 431
        limit = f"{self.HEAD_BYTES_MAX} bytes and {self.FIELDS_MAX} fields"
        return RequestTooLarge(what=N_("the head"), limit=limit, hints=())

    def _stop(self, error: YardError) -> None:
        """Leave the parser; `data_received` then refuses."""
        self._refusal = error
        raise error

    def _refuse(self, error: YardError) -> None:
        if self._is_idle:
            self._hang_up(error, self._refusal_status or status_of(error))
        else:  # an answer is still to come, and the client would take this one for it
            self._hang_up()

    def _hang_up(self, error: YardError | None = None, status: int = 0) -> None:
        self._is_deaf = True
        self._stop_timer()
        if self.transport.is_closing():
            return
        if error is not None:
            self.transport.write(_answer(error, status))
        self.transport.close()

    # ---- time ----

    def _watch(self) -> None:
        """One timer for the head or the body that is coming in; none while there is nothing to wait for."""
        if self._in_body:
            self._stop_timer()
            self._timer = self.loop.call_later(self.BODY_IDLE_S, self._too_slow)
        elif not self._in_head and not self._is_idle:
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.HEAD_S, self._too_slow)

    @property
    def _is_idle(self) -> bool:
        """No answer is owed."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _too_slow(self) -> None:
        """(1) we do not read, or an answer is under way: wait on; (2) a body or (3) a head is cut: 408; (4) hang up."""
        self._timer = None
        if self._in_body and self.flow.read_paused:  # (1)
            self._timer = self.loop.call_later(self.BODY_IDLE_S, self._too_slow)
        elif self._in_head and not self._is_idle:  # (1)
            self._timer = self.loop.call_later(self.HEAD_S, self._too_slow)
        elif self._in_body and not self.cycle.response_started:  # (2)
            self.cycle.disconnected = True  # the application waits for this body; it need not answer any more
            self.cycle.message_event.set()
            self._hang_up(RequestTimeout(budget_s=self.BODY_IDLE_S), 408)
        elif self._in_head:  # (3)
            self._hang_up(RequestTimeout(budget_s=self.HEAD_S), 408)
        else:  # (4)
            self._hang_up()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _answer(error: YardError, status: int) -> bytes:
    request_id = new_request_id()
    body = orjson.dumps(error_body(error, request_id))
    head = (
        f"HTTP/1.1 {status} {_PHRASES.get(status, 'Error')}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nx-request-id: {request_id}\r\nconnection: close\r\n\r\n"
    )
    return head.encode("ascii") + body


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of a name, with send buffers small enough to notice a slow reader."""
    where = f"server.host {host}, port {port}"
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _name, address in dict.fromkeys(found[:1] if port == 0 else found):
            listener = socket.socket(family, kind, protocol)
            sockets.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(BACKLOG_MAX)
            listener.setblocking(False)
    except OSError as error:
        for listener in sockets:
            listener.close()
        problem = error.strerror or str(error)
        raise ConfigError(where=where, problem=problem, hints=(N_("Choose another port with --port."),)) from error
    return sockets


def server_config(
    app: ASGIApp, *, drain_s: float | None = None, protocol: type[HttpProtocol] = HttpProtocol
) -> uvicorn.Config:
    """How uvicorn runs our app: our protocol, nothing that logs, names itself or believes proxies."""
    return uvicorn.Config(
        app, http=protocol, ws="none", lifespan="auto", log_config=None, access_log=False, proxy_headers=False,
        server_header=False, timeout_keep_alive=KEEP_ALIVE_S, backlog=BACKLOG_MAX,
        timeout_graceful_shutdown=None if drain_s is None else max(1, round(drain_s)),
    )  # fmt: skip

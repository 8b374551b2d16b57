"""What every request passes, in and out: its id and language, Host and Origin, the headers of every answer, and the
one place where whatever was raised becomes an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelyard.errors import N_, BadRequest, YardError
from modelyard.gateway.limits import limit_headers
from modelyard.words import language_of_header

from .problems import dialect_of, failure_response
from .security import Guard, Headers, new_request_id, read_headers, request_id_of

LANGUAGES_MAX = 256
_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"DENY"))
_CORS_HEADERS = {
    "access-control-allow-methods": "GET, POST, PATCH, DELETE",
    "access-control-allow-headers": (
        "authorization, content-type, x-api-key, api-key, x-request-id, last-event-id, user-agent, x-session-id, "
        "x-modelyard-session, x-modelyard-deadline-ms, x-modelyard-wait-seconds"
    ),
    "access-control-max-age": "600",
}
_CORS_EXPOSED = b"x-request-id, retry-after, openai-processing-ms, x-modelyard-node, x-modelyard-model"


class Door:
    """The outermost ASGI app."""

    def __init__(
        self, app: ASGIApp, guard: Guard, language: str, count_refusal: Callable[[str], None] = lambda _code: None
    ) -> None:
        self._app = app
        self._guard = guard
        self._language = language
        self._count_refusal = count_refusal
        self._languages: dict[bytes, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope.setdefault("state", {})
        state["language"], state["dialect"] = self._language, dialect_of(scope["path"])
        needs_cors = is_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal is_started
            if message["type"] == "http.response.start":
                is_started = True
                message["headers"] = _completed(message.get("headers", ()), state)
                if needs_cors:
                    _add_cors(message, state["headers"][b"origin"])
            await send(message)

        try:
            headers: Headers = read_headers(scope)
            state["headers"] = headers
            state["request_id"] = request_id_of(headers)
            if b"accept-language" in headers:
                state["language"] = self._language_for(headers[b"accept-language"])
            needs_cors = self._guard.check_source(scope, headers)
            if needs_cors and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
                await Response(status_code=204, headers=_CORS_HEADERS)(scope, receive, send_with_headers)
                return
            if not scope["path"].isprintable():
                raise BadRequest(N_("The path has characters that cannot be in one."))
            await self._app(scope, receive, send_with_headers)
        except Exception as failure:
            state.setdefault("request_id", new_request_id())
            if "caller" not in state:
                self._count_refusal(failure.code if isinstance(failure, YardError) else YardError.code)
            response = failure_response(failure, state, path=scope["path"])
            if not is_started:  # else the answer is cut: the server closes the connection
                await response(scope, receive, send_with_headers)

    def _language_for(self, accept_language: bytes) -> str:
        language = self._languages.get(accept_language)
        if language is None:
            language = language_of_header(accept_language.decode("latin-1")) or self._language
            if len(self._languages) < LANGUAGES_MAX and len(accept_language) <= LANGUAGES_MAX:
                self._languages[accept_language] = language
        return language


def _completed(given: Iterable[tuple[bytes, bytes]], state: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """An answer's headers with those that every answer has. Endpoints add none of these themselves."""
    headers = [*given, (b"x-request-id", state["request_id"].encode("ascii")), *_ALWAYS]
    limit = state.get("limit")
    if limit is not None:
        headers += [(name.encode("ascii"), value.encode("ascii")) for name, value in limit_headers(limit).items()]
    return headers


def _add_cors(message: Message, origin: bytes) -> None:
    headers = MutableHeaders(raw=message["headers"])
    headers["access-control-allow-origin"] = origin.decode("latin-1")
    headers["access-control-expose-headers"] = _CORS_EXPOSED.decode()
    headers.add_vary_header("origin")

"""Our errors as HTTP: the one status table, and one function per dialect.

OpenAI's envelope for everything but `/admin`, which speaks problem+json (RFC 9457), and the paths of Ollama's API, with
Ollama's. What we did not foresee becomes `internal` without any detail: the log has it.
"""

from __future__ import annotations

import http
import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import PurePath
from traceback import extract_tb
from typing import Any, TypeVar

import orjson
import structlog
from starlette.exceptions import HTTPException
from starlette.responses import Response

from modelyard import errors
from modelyard.errors import YardError
from modelyard.gateway.limits import LimitState, limit_headers
from modelyard.words import render

log = structlog.get_logger()
Value = TypeVar("Value")
_OLLAMA_ABILITIES = {
    "completion": "generate",
    "embed": "embeddings",
    "images": "vision",
}  # its words for what a model cannot do
PATH_CHARS_MAX = 200
RETRY_AFTER_S = 2.0  # told when the error itself does not know better
RETRY_AFTER_S_MAX = 120.0  # clients give up on longer ones


class Dialect(StrEnum):
    """How an error is written."""

    OPENAI = "openai"
    OLLAMA = "ollama"
    PROBLEM = "problem"


def dialect_of(path: str) -> Dialect:
    """In which dialect a path answers that is in no table."""
    if path.startswith("/admin"):
        return Dialect.PROBLEM
    return Dialect.OLLAMA if path.startswith("/api/") and not path.startswith("/api/v1/") else Dialect.OPENAI


# The nearest class in an error's ancestry decides.
_STATUS: Mapping[type[YardError], int] = {
    YardError: 500,
    errors.BadRequest: 400,
    errors.RequestTooLarge: 413,
    errors.UnsupportedMediaType: 415,
    errors.MethodNotAllowed: 405,
    errors.RequestTimeout: 408,
    errors.NotAuthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.RateLimited: 429,
    errors.Unavailable: 503,
    errors.DiskFull: 507,
    errors.UpstreamError: 502,
    errors.UpstreamStalled: 504,
    errors.UpstreamTimeout: 504,
    errors.UpstreamLimited: 429,
    errors.UpstreamOverloaded: 503,
    errors.DeadlineExceeded: 504,
    errors.NotBuilt: 501,
    errors.ExtraMissing: 501,
    errors.LoopDetected: 508,
    errors.RequestCancelled: 409,
    errors.ClientClosed: 499,  # seen in logs only
    errors.ModelFileError: 503,
}
_TYPE: Mapping[type[YardError], str] = {
    YardError: "server_error",
    errors.BadRequest: "invalid_request_error",
    errors.NotAuthenticated: "authentication_error",
    errors.PermissionDenied: "permission_error",
    errors.NotFound: "invalid_request_error",
    errors.RateLimited: "rate_limit_error",
    errors.QueueFull: "overloaded_error",
    errors.QueueTimeout: "overloaded_error",
    errors.InsufficientMemory: "overloaded_error",
    errors.UpstreamError: "upstream_error",
    errors.NotBuilt: "invalid_request_error",
    errors.ExtraMissing: "invalid_request_error",
}
_HOPELESS = (
    errors.RequestCancelled,
    errors.ModelFileError,
    errors.NotBuilt,
    errors.ExtraMissing,
    errors.LoopDetected,
    errors.DiskFull,
    errors.DigestMismatch,
)  # the same request again fails in the same way


def status_of(error: YardError) -> int:
    """The HTTP status of an error."""
    return _nearest(_STATUS, error)


def error_type(error: YardError) -> str:
    """OpenAI's `error.type`."""
    return _nearest(_TYPE, error)


def error_body(error: YardError, request_id: str, language: str = "en") -> dict[str, object]:
    """OpenAI's envelope: a whole answer, or a frame in a stream that has begun."""
    message, suggestions = _render(error, language)
    body: dict[str, object] = {
        "message": message,
        "type": error_type(error),
        "param": error.param,
        "code": error.code,
        "backend": error.fields.get("engine"),
        "suggestions": suggestions,
        "request_id": request_id,
    }
    if "verdict" in error.fields:
        body["verdict"] = error.fields["verdict"]
    return {"error": body}


def ollama_body(error: YardError, request_id: str, language: str = "en") -> dict[str, object]:
    """Ollama's `error`, a text, in its own words where it has some: clients look for them. Ours stand beside it."""
    message, suggestions = _render(error, language)
    body: dict[str, object] = {
        "error": _ollama_text(error) or message,
        "code": error.code,
        "suggestions": suggestions,
        "request_id": request_id,
    }
    if "verdict" in error.fields:
        body["verdict"] = error.fields["verdict"]
    return body


def problem_body(error: YardError, request_id: str, language: str = "en") -> dict[str, object]:
    """RFC 9457's members, with ours beside them."""
    message, suggestions = _render(error, language)
    status = status_of(error)
    body: dict[str, object] = {
        "type": "about:blank",
        "title": _phrase(status),
        "status": status,
        "detail": message,
        "code": error.code,
        "backend": error.fields.get("engine"),
        "suggestions": suggestions,
        "request_id": request_id,
    }
    if "verdict" in error.fields:
        body["verdict"] = error.fields["verdict"]
    if "problems" in error.fields:
        body["errors"] = error.fields["problems"]
    return body


def body_of(dialect: Dialect | str, error: YardError, request_id: str, language: str = "en") -> dict[str, object]:
    """An error as its dialect writes it."""
    return _BODIES.get(dialect, error_body)(error, request_id, language)


def error_headers(error: YardError) -> dict[str, str]:
    """What clients act on: when to try again and whether to, whom to authenticate as, which methods are possible."""
    status = status_of(error)
    headers: dict[str, str] = {}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if "remaining" in error.fields:
        headers.update(limit_headers(_state_of(error)))
    if "allow" in error.fields:
        headers["allow"] = str(error.fields["allow"])
    if isinstance(error, _HOPELESS) or (isinstance(error, errors.InsufficientMemory) and error.never_fits):
        headers["x-should-retry"] = "false"
    elif status in (429, 503):
        wait_s = min(max(error.retry_after_s or RETRY_AFTER_S, 0.001), RETRY_AFTER_S_MAX)
        headers["retry-after"] = str(math.ceil(wait_s))
        headers["retry-after-ms"] = str(math.ceil(wait_s * 1000))
        headers["x-should-retry"] = "true"
    return headers


def error_response(
    error: YardError,
    dialect: Dialect | str = Dialect.OPENAI,
    request_id: str = "",
    language: str = "en",
    *,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error as a whole answer. `headers` come on top of those the error calls for."""
    body = body_of(dialect, error, request_id, language)
    media_type = "application/problem+json" if dialect == Dialect.PROBLEM else "application/json"
    return Response(
        orjson.dumps(body, default=str, option=orjson.OPT_NON_STR_KEYS),
        status_of(error),
        {**(headers or {}), **error_headers(error), "cache-control": "no-store"},
        media_type,
    )


def failure_response(failure: Exception, state: Mapping[str, Any], *, path: str = "") -> Response:
    """Whatever was raised as an answer. What we did not foresee goes to the log, and only its name: no contents."""
    request_id = str(state.get("request_id", ""))
    match failure:
        case YardError():
            error = failure
        case HTTPException(status_code=404):
            error = errors.NotFound(path=path[:PATH_CHARS_MAX])
        case HTTPException(status_code=status) if 400 <= status < 500:
            error = errors.BadRequest()
        case _:
            error = YardError()
            trace = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in extract_tb(failure.__traceback__)]
            log.error("request.failed", request_id=request_id, error=type(failure).__qualname__, trace=trace)
    asked: Callable[[], Mapping[str, str]] = state.get("asked", dict)
    return error_response(
        error, state.get("dialect", Dialect.OPENAI), request_id, state.get("language", "en"), headers=asked()
    )


_BODIES: Mapping[str, Callable[[YardError, str, str], dict[str, object]]] = {
    Dialect.OPENAI: error_body,
    Dialect.OLLAMA: ollama_body,
    Dialect.PROBLEM: problem_body,
}


def _ollama_text(error: YardError) -> str:
    fields = error.fields
    match error:
        case errors.ModelNotFound():
            return f'model "{fields.get("model", "")}" not found, try pulling it first'
        case errors.QueueFull():
            return "server busy, please try again. maximum pending requests exceeded"
        case errors.CapabilityMissing():
            word = str(fields.get("capability", ""))
            return f'"{fields.get("model", "")}" does not support {_OLLAMA_ABILITIES.get(word, word)}'
    return ""


def _nearest(table: Mapping[type[YardError], Value], error: YardError) -> Value:
    for ancestor in type(error).__mro__:
        if ancestor in table:
            return table[ancestor]
    return table[YardError]


def _render(error: YardError, language: str) -> tuple[str, list[str]]:
    message, suggestions = render(error, language)
    path = error.fields.get("path")
    if isinstance(error, errors.ModelFileError) and path is not None:
        message = message.replace(str(path), PurePath(str(path)).name)  # callers do not learn where files lie
    return message, suggestions


def _state_of(error: YardError) -> LimitState:
    limit, reset_s, window_s = (float(str(error.fields[name])) for name in ("limit", "reset_s", "window_s"))
    return LimitState(int(limit), 0, reset_s, window_s)


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"

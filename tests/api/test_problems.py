"""Errors as HTTP: status, envelope, problem+json, and what clients are told about trying again."""

from __future__ import annotations

import inspect

import orjson
import pytest
from starlette.exceptions import HTTPException
from structlog.testing import capture_logs

from modelyard import errors
from modelyard.api.problems import (
    RETRY_AFTER_S_MAX,
    Dialect,
    error_body,
    error_headers,
    error_response,
    failure_response,
    problem_body,
    status_of,
)
from modelyard.errors import YardError

EVERY_ERROR = [
    error for _name, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, YardError)
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.BadRequest(), 400, "invalid_request_error"), (errors.MalformedBody(), 400, "invalid_request_error"),
        (errors.ContextLengthExceeded(), 400, "invalid_request_error"),
        (errors.NotAuthenticated(), 401, "authentication_error"), (errors.ModelNotAllowed(), 403, "permission_error"),
        (errors.HostRefused(), 403, "permission_error"), (errors.ModelNotFound(), 404, "invalid_request_error"),
        (errors.MethodNotAllowed(), 405, "invalid_request_error"),
        (errors.RequestTimeout(), 408, "invalid_request_error"),
        (errors.RequestTooLarge(), 413, "invalid_request_error"),
        (errors.UnsupportedMediaType(), 415, "invalid_request_error"), (errors.RateLimited(), 429, "rate_limit_error"),
        (YardError(), 500, "server_error"), (errors.ConfigError(), 500, "server_error"),
        (errors.WorkerCrashed(), 502, "upstream_error"), (errors.UpstreamInvalid(), 502, "upstream_error"),
        (errors.QueueFull(), 503, "overloaded_error"), (errors.InsufficientMemory(), 503, "overloaded_error"),
        (errors.LoadFailed(), 503, "server_error"), (errors.LoadStalled(), 503, "server_error"),
        (errors.ShuttingDown(), 503, "server_error"), (errors.UpstreamTimeout(), 504, "upstream_error"),
        (errors.UpstreamStalled(), 504, "upstream_error"),
    ],
)  # fmt: skip
def test_every_error_has_its_status_and_type(error: YardError, status: int, kind: str) -> None:
    body = error_body(error, "r")["error"]

    assert isinstance(body, dict)
    assert (status_of(error), body["type"], body["code"]) == (status, kind, error.code)


@pytest.mark.parametrize("error", EVERY_ERROR)
def test_the_envelope_has_every_member_and_a_text_code(error: type[YardError]) -> None:
    body = orjson.loads(error_response(error(), Dialect.OPENAI, "req-7").body)["error"]

    assert set(body) == {"message", "type", "param", "code", "backend", "suggestions", "request_id"}
    assert isinstance(body["code"], str)
    assert isinstance(body["suggestions"], list)
    assert body["request_id"] == "req-7"


def test_admin_errors_are_problem_json() -> None:
    response = error_response(errors.ModelNotFound(model="x", near="y"), "problem", "req-7")

    body = orjson.loads(response.body)
    assert response.media_type == "application/problem+json"
    assert body["type"] == "about:blank"
    assert (body["title"], body["status"], body["code"]) == ("Not Found", 404, "model_not_found")
    assert body["detail"] == "There is no model named x."
    assert "Did you mean: y?" in body["suggestions"]
    assert problem_body(errors.BadRequest(problems=[1]), "r")["errors"] == [1]


def test_clients_are_told_when_to_try_again() -> None:
    headers = error_headers(errors.QueueFull(waiting=3, retry_after_s=1.25))

    assert headers == {"retry-after": "2", "retry-after-ms": "1250", "x-should-retry": "true"}
    assert int(error_headers(errors.LoadFailed(retry_after_s=9999))["retry-after"]) == RETRY_AFTER_S_MAX
    assert "retry-after" in error_headers(errors.Unavailable())
    assert error_headers(errors.BadRequest()) == {}


def test_clients_are_told_when_trying_again_is_pointless() -> None:
    for error in (errors.InsufficientMemory(never=True), errors.RequestCancelled(), errors.ModelFileError()):
        headers = error_headers(error)

        assert headers == {"x-should-retry": "false"}


def test_a_model_that_might_fit_later_may_be_asked_for_again() -> None:
    assert error_headers(errors.InsufficientMemory(never=False))["x-should-retry"] == "true"


def test_nobody_learns_where_model_files_lie() -> None:
    body = error_body(errors.ModelFileError(path="/home/me/models/a.gguf", problem="cut"), "r")["error"]

    assert isinstance(body, dict)
    assert body["message"] == "a.gguf is not a usable model file: cut"


def test_what_we_did_not_foresee_is_internal_without_details_and_logged_without_contents() -> None:
    try:
        raise ValueError("the prompt was: secret")
    except ValueError as failure:
        with capture_logs() as logs:
            response = failure_response(failure, {"request_id": "req-9"})

    assert response.status_code == 500
    assert b"secret" not in bytes(response.body)
    assert orjson.loads(response.body)["error"]["code"] == "internal"
    (line,) = logs
    assert (line["event"], line["error"], line["request_id"]) == ("request.failed", "ValueError", "req-9")
    assert "secret" not in str(line)
    assert line["trace"]


def test_the_frameworks_own_errors_become_ours() -> None:
    def status(failure: HTTPException) -> int:
        return failure_response(failure, {}, path="/x").status_code

    assert status(HTTPException(404)) == 404
    assert status(HTTPException(422)) == 400
    assert status(HTTPException(503)) == 500

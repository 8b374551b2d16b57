"""The HTTP client below the Ollama client: its limits, its times, and its exceptions as ours. For both twins.

Nothing of the HTTP library leaves here: every failure is an error of our tree with the original as its cause. Each call
is logged with path, model and time, never with prompts, answers or keys.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

import httpx2
import msgspec
import structlog

from modelyard.client.ollama_questions import Question
from modelyard.client.ollama_replies import Reply, lost
from modelyard.client.ollama_settings import URL_HINT, OllamaSettings
from modelyard.errors import N_, ConfigError, OllamaConnectionError, OllamaServiceError

CONNECT_S = 10.0
WRITE_S = 30.0
HEALTH_S = 10.0  # whoever needs longer to say its version is not well
KEEPALIVE_S = 30.0


class ClientArguments(TypedDict):
    """What both HTTP clients are made with."""

    base_url: str
    headers: dict[str, str]
    timeout: httpx2.Timeout
    limits: httpx2.Limits
    follow_redirects: bool
    trust_env: bool


def client_arguments(
    settings: OllamaSettings, key: str | None, language: str | None = None, connect_s: float | None = None
) -> ClientArguments:
    """The pool and the times as documented."""
    try:
        httpx2.URL(settings.ollama_base_url)
    except httpx2.InvalidURL as problem:  # names in other scripts have rules that only it knows
        raise ConfigError(where=settings.ollama_base_url, problem=str(problem), hints=(URL_HINT,)) from problem
    headers = {"accept-encoding": "identity"}  # what is compressed may be a thousand times as large
    if language:
        headers["accept-language"] = language.replace("_", "-")
    if key := (key or "").strip():
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(where="key", problem=N_("it has characters that no key has"), hints=())
        headers["authorization"] = f"Bearer {key}"
    return {
        "base_url": settings.ollama_base_url,
        "headers": headers,
        "timeout": httpx2.Timeout(settings.ollama_timeout, connect=connect_s or CONNECT_S, write=WRITE_S),
        "limits": httpx2.Limits(
            max_connections=2 * settings.ollama_max_connections,
            max_keepalive_connections=settings.ollama_max_connections,
            keepalive_expiry=KEEPALIVE_S,
        ),
        "follow_redirects": False,
        "trust_env": False,  # a proxy for the web has no business between us and a machine beside us
    }


class RequestArguments(TypedDict, total=False):
    """What a request is made with, beside its method and path."""

    content: bytes
    headers: dict[str, str]
    timeout: httpx2.Timeout


def request_arguments(question: Question, timeout: httpx2.Timeout | None) -> RequestArguments:
    """The body as JSON, and times other than the usual."""
    arguments: RequestArguments = {}
    if question.body is not None:
        arguments["content"] = msgspec.json.encode(question.body)
        arguments["headers"] = {"content-type": "application/json"}
    if timeout is not None:
        arguments["timeout"] = timeout
    return arguments


def health_times(settings: OllamaSettings) -> httpx2.Timeout:
    """A question after health is answered soon, or the answer is no."""
    short = min(settings.ollama_timeout, HEALTH_S)
    return httpx2.Timeout(short, connect=CONNECT_S, write=WRITE_S)


@contextmanager
def asking(question: Question, url: str) -> Iterator[Reply]:
    """One attempt: the reply to fill, its failure as ours, and a line in the log either way."""
    reply, began_at = Reply(question, url), time.monotonic()
    try:
        with _ours(reply):
            yield reply
    except OllamaServiceError as error:
        told = {name: error.fields[name] for name in ("trouble", "status") if name in error.fields}
        _log().info("ollama.failed", code=error.code, **told, **_facts(question, began_at))
        raise
    _log().debug("ollama.answered", **_facts(question, began_at))


@contextmanager
def _ours(reply: Reply) -> Iterator[None]:
    """The only place where the HTTP library's exceptions become ours."""
    url = reply.url
    try:
        yield
    except httpx2.ConnectError as problem:
        raise OllamaConnectionError(url=url, problem=_said(problem), trouble="connect") from problem
    except httpx2.ConnectTimeout as problem:
        raise OllamaConnectionError(
            N_("No connection to {url} came about within {timeout_s} s."),
            url=url, timeout_s=_seconds(problem, "connect"), trouble="connect", is_silence=True,
        ) from problem  # fmt: skip
    except httpx2.ReadTimeout as problem:
        raise OllamaConnectionError(
            N_("{url} said nothing for {timeout_s} s."),
            hints=(N_("A large model may load for minutes: give it more time with `timeout`, or OLLAMA_TIMEOUT."),),
            url=url, timeout_s=_seconds(problem, "read"), trouble="silence",
        ) from problem  # fmt: skip
    except httpx2.PoolTimeout as problem:
        raise OllamaConnectionError(
            N_("All connections to {url} were in use for {timeout_s} s."),
            hints=(N_("Allow more with `max_connections`, or OLLAMA_MAX_CONNECTIONS; leave streams you do not read."),),
            url=url, timeout_s=_seconds(problem, "pool"), trouble="busy",
        ) from problem  # fmt: skip
    except httpx2.WriteTimeout as problem:
        raise OllamaConnectionError(
            N_("{url} did not take the request within {timeout_s} s."),
            url=url, timeout_s=_seconds(problem, "write"), trouble="sending",
        ) from problem  # fmt: skip
    except (httpx2.NetworkError, httpx2.RemoteProtocolError) as problem:
        error = lost(url, _said(problem).rstrip("."))
        error.fields["has_begun"] = reply.has_begun
        raise error from problem
    except OllamaConnectionError as error:
        error.fields["has_begun"] = reply.has_begun
        raise
    except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError) as problem:
        raise OllamaServiceError(url=url, problem=_said(problem)) from problem


def closed(url: str) -> OllamaServiceError:
    """Asked after `close()`."""
    return OllamaServiceError(N_("This client of {url} is closed."), hints=(), url=url)


def _seconds(problem: httpx2.TimeoutException, phase: str) -> str:
    return f"{problem.request.extensions['timeout'][phase]:g}"


def _said(problem: Exception) -> str:
    """In the system's words, if it was the system that said no: the library's are "All connection attempts failed"."""
    cause: BaseException | None = problem
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        if isinstance(cause, OSError) and cause.strerror and cause.errno is not None:
            return os.strerror(cause.errno) if cause.errno > 0 else cause.strerror  # below 0: a name nobody knows
        cause = cause.__cause__ or cause.__context__
    return str(problem) or type(problem).__name__


def _facts(question: Question, began_at: float) -> dict[str, Any]:
    facts = {"path": question.path, "took_s": round(time.monotonic() - began_at, 3)}
    return facts | {"model": question.model} if question.model else facts


def _log() -> Any:
    """The program's own structlog. Where none is set up, warnings go to stderr: stdout is the program's own."""
    if structlog.is_configured():
        return structlog.get_logger("modelyard.client")
    return structlog.wrap_logger(
        logging.getLogger("modelyard.client"),
        processors=[structlog.stdlib.filter_by_level, structlog.processors.KeyValueRenderer(key_order=["event"])],
        wrapper_class=structlog.stdlib.BoundLogger,
    )

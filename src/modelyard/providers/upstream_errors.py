"""What servers report when they refuse or fail, as errors of our tree. Pure.

Their texts are not repeated to callers: they may hold paths, addresses or parts of a prompt. The exception is a plain
refusal of the request (400), whose text names what the caller must change, and only from workers we started.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from modelyard.diagnosis import Evidence, diagnose, explained
from modelyard.diagnosis.showing import shown
from modelyard.errors import (
    N_,
    BadRequest,
    CapabilityMissing,
    ContextLengthExceeded,
    DeadlineExceeded,
    LoopDetected,
    NotOfferedThere,
    RefusedThere,
    RequestCancelled,
    TemplateFailed,
    UpstreamError,
    UpstreamInvalid,
    UpstreamLimited,
    UpstreamModelMissing,
    UpstreamOverloaded,
    UpstreamRefusedKey,
    UpstreamTimeout,
    YardError,
    said,
)

# What llama.cpp answers with 500 although the request is at fault.
_OUR_CALLERS = ("Failed to parse tool call arguments", "got exception: Unexpected empty grammar stack")
_KEY_CODES = {"invalid_api_key", "authentication_error", "unauthorized", "invalid_authentication"}
_TOO_LARGE = re.compile(r"input \((\d+) tokens\) is too large to process.*?batch size: (\d+)")  # to embed
_TWO_NUMBERS = re.compile(r"\((\d+) tokens\).*?\((\d+) tokens\)")


# As vLLM, sglang and OpenAI say it: first the context, then the prompt, and with some what it is made of.
_MAXIMUM = re.compile(
    r"maximum context length is (\d+) tokens.*?(?:requested|has|resulted in) (\d+)(?: tokens \((\d+))?"
)
_LONGER = "longer than the model's context length"


class _Envelope(msgspec.Struct):
    error: Any = None
    message: Any = None  # vLLM and sglang have no envelope
    type: Any = None
    code: Any = None
    detail: Any = None  # FastAPI's own


def http_failure(source: str, status: int, body: bytes) -> YardError:
    """An answer whose status is not 200."""
    return upstream_failure(source, _reported(body), status)


def node_failure(
    source: str,
    model: str,
    status: int,
    body: bytes,
    retry_after_s: float | None,
    failure: Callable[[Any, int | None], YardError] | None = None,
    *,
    path: str,
) -> YardError:
    """What another node answered in place of an answer. `status` 0: an error where a stream was expected.

    `failure` reads what the node's dialect reports; OpenAI's if not given. `path` is what was asked there. What says
    only something of this request must not look like a fault of the node's: its other callers would pay for it.
    """
    error = _reported(body)
    if isinstance(error, dict) and (told := _of_one_like_us(error.get("code"))) is not None:
        return told
    match status:
        case 401:
            return UpstreamRefusedKey(provider=source)
        case 403:
            return _forbidden(source, error)
        case 404 | 405 | 410:
            return _not_found(source, model, error, path)
        case 429:
            return UpstreamLimited(provider=source, retry_after_s=retry_after_s)
        case 408 | 504:
            return UpstreamTimeout(N_("{provider} gave up on {model}."), provider=source, model=model)
        case _ if 300 <= status < 400:
            return UpstreamInvalid(provider=source, problem=N_("it redirects, and redirects are not followed"))
    failed = upstream_failure(source, error, status or None) if failure is None else failure(error, status or None)
    if status == 503 and "verdict" not in failed.fields:
        return UpstreamOverloaded(provider=source, retry_after_s=retry_after_s)
    failed.retry_after_s = retry_after_s
    return failed


def _reported(body: bytes) -> Any:
    """What a body reports, however it is wrapped; None if it says nothing that we know."""
    try:
        told = msgspec.json.decode(body, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if told.error is None and told.message is not None:
        return {"message": told.message, "type": told.type, "code": told.code}
    return told.detail if told.error is None and isinstance(told.detail, str) else told.error


def upstream_failure(source: str, error: Any, status: int | None = None) -> YardError:
    """A reported error: the `error` member of a body or of an event. `status` is what the server answered, if known."""
    details: dict[str, Any] = error if isinstance(error, dict) else {}
    text = details.get("message", error)
    text = text if isinstance(text, str) else ""
    kind = details.get("type")
    code = details.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else status
    if (told := _of_one_like_us(code)) is not None:
        return told
    if kind == "exceed_context_size_error" or code == "context_length_exceeded":
        return _too_long(source, details, text)
    if found := _TOO_LARGE.match(text):
        return ContextLengthExceeded(prompt_tokens=int(found[1]), model=source, context_length=int(found[2]))
    if kind == "chat_template_error":
        return TemplateFailed(model=source, problem=shown(text))
    if _LONGER in text or _MAXIMUM.search(text):
        return _too_long(source, details, text)
    if kind == "not_supported_error" or "mmproj" in text or "does not support" in text:
        return CapabilityMissing(model=source, capability=shown(text) or N_("this kind of request"))
    if status in (400, 413, 422) or text.startswith(_OUR_CALLERS):
        return BadRequest(N_("The engine refused the request: {problem}"), problem=shown(text) or N_("no reason given"))
    failed = UpstreamError(
        provider=source, problem=said("it answered {status}", status=status) if status else N_("it reported an error")
    )
    verdict = diagnose(Evidence(text=text))
    if verdict.is_memory:  # in words that every client of such a server knows
        failed.text = N_("{provider} failed: it ran out of memory, by its own words.")
    return failed if verdict.code == "unknown" else explained(failed, verdict)


def _forbidden(source: str, error: Any) -> YardError:
    """The key, if it says so; else this one request, by a moderation or a right it does not give for this model."""
    details: dict[str, Any] = error if isinstance(error, dict) else {}
    if {details.get("code"), details.get("type")} & _KEY_CODES:
        return UpstreamRefusedKey(provider=source)
    text = error if isinstance(error, str) else details.get("message")
    return RefusedThere(provider=source, problem=shown(text) if isinstance(text, str) and text else "403")


def _not_found(source: str, model: str, error: Any, path: str) -> YardError:
    """The model, if it says so; else there is nothing at this path, whatever the model."""
    details: dict[str, Any] = error if isinstance(error, dict) else {}
    text = error if isinstance(error, str) else details.get("message")
    text = text.lower() if isinstance(text, str) else ""
    if details.get("code") == "model_not_found" or model.lower() in text or "model" in text:
        return UpstreamModelMissing(provider=source, model=model)
    return NotOfferedThere(provider=source, model=model, path=path)


def _of_one_like_us(code: object) -> YardError | None:
    """What means the same here as at a server like us that had the request after us."""
    if code == DeadlineExceeded.code:
        return DeadlineExceeded(N_("The answer was not complete in the time that the request had."))
    if code == LoopDetected.code:
        return LoopDetected(N_("The request came back to a server it had passed: nodes here are nodes of each other."))
    if code == RequestCancelled.code:
        return RequestCancelled()
    return None


def _too_long(source: str, details: dict[str, Any], text: str) -> YardError:
    prompt, context = details.get("n_prompt_tokens"), details.get("n_ctx")
    if (not isinstance(prompt, int) or not isinstance(context, int)) and (found := _TWO_NUMBERS.search(text)):
        prompt, context = int(found[1]), int(found[2])
    if not isinstance(prompt, int) and (told := _MAXIMUM.search(text)):
        prompt, context = int(told[3] or told[2]), int(told[1])
    if not isinstance(prompt, int) or not isinstance(context, int):
        return ContextLengthExceeded(N_("The prompt is longer than the context of {model}."), model=source)
    place = details.get("place")  # among several inputs, where a worker of ours tells it
    return ContextLengthExceeded(
        prompt_tokens=prompt, model=source, context_length=context, **({"place": place} if place is not None else {})
    )

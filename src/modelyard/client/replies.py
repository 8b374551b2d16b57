"""What a server says, as values: model entries, pieces of an answer, and errors of our own tree. Knows no transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from modelyard import errors
from modelyard.errors import N_, YardError
from modelyard.types.chat import FINISH_REASONS, Delta, Message, TextPart, ToolCallDelta, Usage

Value = TypeVar("Value")
MESSAGE_CHARS_MAX = 4000
SUGGESTIONS_MAX = 10


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One line of a server's model list. `details` has everything the server says beyond OpenAI's members."""

    name: str
    created_at: float = 0.0
    state: str = ""
    size_bytes: int | None = None
    context_length: int | None = None
    engine: str = ""
    capabilities: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    problem: str = ""
    details: Mapping[str, object] = field(default_factory=dict)


def decode(raw: bytes, url: str) -> dict[str, Any]:
    """One JSON object; anything else means that something other than us answered."""
    try:
        value = msgspec.json.decode(raw)
    except msgspec.DecodeError as problem:
        raise errors.UpstreamInvalid(N_("{provider} sent something that is not JSON."), provider=url) from problem
    if not isinstance(value, dict):
        raise errors.UpstreamInvalid(N_("{provider} sent something that is not a JSON object."), provider=url)
    return value


def convert(value: object, kind: type[Value], url: str) -> Value:
    """A value of a known shape. Members that we do not know are passed over: servers may be newer."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as problem:
        raise errors.UpstreamInvalid(provider=url, problem=str(problem)) from problem


def model_entry(body: Mapping[str, Any], url: str) -> ModelEntry:
    """One member of `/v1/models`, from our server or any other."""
    ours = body.get("modelyard")
    details = dict(ours) if isinstance(ours, dict) else {}
    known = {name: details[name] for name in ModelEntry.__dataclass_fields__ if details.get(name) is not None}
    known.pop("details", None)
    entry = {**known, "name": body.get("id"), "created_at": body.get("created") or 0.0}
    return convert({**entry, "details": details}, ModelEntry, url)


def content_of(message: Message) -> object:
    """A message's content as OpenAI writes it."""
    if not isinstance(message.content, tuple):
        return message.content
    return [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": "image_url", "image_url": {"url": f"data:{part.media_type};base64,{part.base64}"}}
        for part in message.content
    ]


def chunks_of(body: Mapping[str, Any]) -> list[Delta | Usage]:
    """The pieces in one `chat.completion.chunk`."""
    found: list[Delta | Usage] = []
    for choice in body.get("choices") or ():
        delta = choice.get("delta") or {}
        finish = choice.get("finish_reason")
        piece = Delta(
            choice=choice.get("index") or 0,
            text=delta.get("content") or "",
            reasoning=delta.get("reasoning_content") or delta.get("reasoning") or "",
            tool_calls=tuple(_tool_call(call) for call in delta.get("tool_calls") or ()),
            finish=finish if finish in FINISH_REASONS else None,
        )
        if piece.has_content or piece.finish:
            found.append(piece)
    usage = body.get("usage")
    if isinstance(usage, dict):
        found.append(Usage(usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0))
    return found


def _tool_call(call: Mapping[str, Any]) -> ToolCallDelta:
    function = call.get("function") or {}
    return ToolCallDelta(call.get("index") or 0, call.get("id"), function.get("name"), function.get("arguments") or "")


def error_of(status: int, body: object, request_id: str = "") -> YardError:
    """The error a server answered with, in either of its dialects, as the class of our tree that has its code."""
    told: Mapping[str, Any] = body if isinstance(body, dict) else {}
    inner = told.get("error")
    if isinstance(inner, dict):
        told = inner
    elif isinstance(inner, str):
        told = {"message": inner}
    message = told.get("message") or told.get("detail") or f"HTTP {status}"
    hints = told.get("suggestions")
    kind = _classes().get(str(told.get("code"))) or _by_status(status)
    error = kind(
        str(message)[:MESSAGE_CHARS_MAX],
        hints=[str(hint) for hint in hints[:SUGGESTIONS_MAX]] if isinstance(hints, list) else None,
        param=told.get("param"),
    )
    if isinstance(verdict := told.get("verdict"), dict):
        error.fields["verdict"] = verdict
    request_id = str(told.get("request_id") or request_id)
    if request_id:
        error.add_note(f"request id: {request_id[:200]}")
    return error


def _classes(root: type[YardError] = YardError) -> dict[str, type[YardError]]:
    found = {root.code: root}
    for kind in root.__subclasses__():
        found = {**_classes(kind), **found}
    return found


def _by_status(status: int) -> type[YardError]:
    exact: dict[int, type[YardError]] = {
        401: errors.NotAuthenticated,
        403: errors.PermissionDenied,
        404: errors.NotFound,
        429: errors.RateLimited,
        503: errors.Unavailable,
        504: errors.UpstreamTimeout,
    }
    return exact.get(status, errors.BadRequest if 400 <= status < 500 else errors.UpstreamError)

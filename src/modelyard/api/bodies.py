"""Reads request bodies: bounded in bytes, in time and in structure before anything is decoded, then into a given type.

A small hostile body can cost a decoder a thousand times its size, so brackets and commas are counted first. Values in
free-form members (schemas) are bounded in depth. Every refusal names the member at fault. Knows no dialect.
"""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

import msgspec
import orjson
from starlette.requests import Request

from modelyard.errors import (
    N_,
    BadRequest,
    ClientClosed,
    MalformedBody,
    RequestTimeout,
    RequestTooLarge,
    UnsupportedMediaType,
    said,
)
from modelyard.units import MIB, format_bytes

BODY_BYTES_MAX = 10 * MIB
BODY_S = 60.0  # a whole body must arrive in this time
BRACKETS_MAX = 100_000
COMMAS_MAX = 500_000
ESCAPES_MAX = 500_000  # each costs a decoder ten times a plain character
DEPTH_MAX = 64
LARGE_BYTES = MIB  # one that takes milliseconds to read: others are served between reading it and sending it on
PLAIN_TYPES = (b"", b"application/x-www-form-urlencoded")
UNCHECKED_BYTES_MAX = 64 * 1024  # too small to hold enough structure to matter
_WHERE = re.compile(r"^(?P<problem>.*?)(?: - at `(?P<key>key in )?\$\.?(?P<path>.*)`)?$", re.DOTALL)

Body = TypeVar("Body")


async def read_body(request: Request, *, bytes_max: int = BODY_BYTES_MAX, is_plain_read: bool = False) -> bytes:
    """The body's bytes. Raise when it is too large, too slow, not JSON by its type, or its sender has left.

    `is_plain_read` takes what curl sends by itself, too, which is what another server's clients are used to: the Origin
    of web pages was checked at the door.
    """
    length: bytes | None = None
    media_type = b""
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            media_type = value
        elif name == b"content-length":
            length = value
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise UnsupportedMediaType(media_type=f"{_printable(value)} encoding")
    kind = media_type.partition(b";")[0].strip().lower()
    if kind != b"application/json" and not kind.endswith(b"+json") and not (is_plain_read and kind in PLAIN_TYPES):
        raise UnsupportedMediaType(media_type=_printable(media_type) or "a body without a type")
    if length is not None and length.isdigit() and int(length[:20]) > bytes_max:
        raise _too_large(bytes_max)
    try:
        async with asyncio.timeout(BODY_S):
            return await _receive(request, bytes_max)
    except TimeoutError:
        raise RequestTimeout(budget_s=round(BODY_S)) from None


async def _receive(request: Request, bytes_max: int) -> bytes:
    receive = request.receive
    message = await receive()
    if not message.get("more_body", False) and message["type"] == "http.request":
        body: bytes = message.get("body", b"")
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body
    parts = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            raise ClientClosed()
        parts += message.get("body", b"")
        if len(parts) > bytes_max:
            raise _too_large(bytes_max)
        if not message.get("more_body", False):
            return bytes(parts)
        message = await receive()


def _too_large(bytes_max: int) -> RequestTooLarge:
    return RequestTooLarge(what=N_("the body"), limit=format_bytes(bytes_max), setting="server.body_max_bytes")


def decode_body(body: bytes, decoder: msgspec.json.Decoder[Body]) -> Body:
    """The body as the decoder's type."""
    if len(body) > UNCHECKED_BYTES_MAX:
        _check_structure(body)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise _not_valid(str(exc)) from None
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError:
        raise MalformedBody(problem=N_("it is not UTF-8")) from None
    except msgspec.DecodeError as exc:
        raise MalformedBody(problem=str(exc).removeprefix("JSON is malformed: ")) from None


def _check_structure(body: bytes) -> None:
    if body.count(b"[") + body.count(b"{") > BRACKETS_MAX:
        raise RequestTooLarge(what=N_("the number of brackets in the body"), limit=BRACKETS_MAX)
    if body.count(b",") > COMMAS_MAX:
        raise RequestTooLarge(what=N_("the number of commas in the body"), limit=COMMAS_MAX)
    if body.count(b"\\") > ESCAPES_MAX:
        raise RequestTooLarge(what=N_("the number of escapes in the body"), limit=ESCAPES_MAX)


def check_nesting(value: object, param: str, items_max: int) -> None:
    """Refuse a free-form value that is nested too deeply or has too many items."""
    level: list[object] = [value]
    items = 0
    for _depth in range(DEPTH_MAX):
        below: list[object] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        items += len(below)
        if items > items_max:
            raise invalid(param, said("it has more than {items_max} items", items_max=items_max))
        if not below:
            return
        level = below
    raise _too_deep(param)


def json_text(value: object, param: str, items_max: int) -> str:
    """A free-form value as JSON again. Refuse what is nested too deeply, or has a number that nobody can take."""
    check_nesting(value, param, items_max)
    try:
        return orjson.dumps(value).decode()
    except TypeError:
        raise invalid(param, N_("it has a number or a text that JSON cannot carry")) from None


def invalid(param: str, problem: str) -> BadRequest:
    """The error of one member."""
    return BadRequest(N_("{where} is not valid: {problem}"), param=param, where=param, problem=problem)


def _not_valid(text: str) -> BadRequest:
    match = _WHERE.match(text)
    assert match is not None, "the pattern matches any text"
    path = (match["path"] or "").lstrip(".")[:200]
    problem = match["problem"].replace("`", "").replace(" | null", "")
    if missing := re.search(r"missing required field (\w+)", problem):
        path = f"{path}.{missing[1]}".lstrip(".")
        problem = N_("it is required")
    if not path:
        return MalformedBody(problem=problem)
    return invalid(path, problem[:300])


def _too_deep(param: str | None = None) -> BadRequest:
    return RequestTooLarge(what=N_("the nesting of the body"), limit=DEPTH_MAX, param=param)


def _printable(value: bytes) -> str:
    text = value[:100].decode("latin-1")
    return "".join(sign for sign in text if sign.isprintable())

"""Tool calls that come in pieces, put together: a call is whole when its arguments are a complete JSON object. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import orjson

from modelyard.errors import N_, UpstreamInvalid
from modelyard.types.chat import ToolCallDelta

_SIGNS = re.compile(r'[\\"{}\[\]]')


class _Call:
    """One call so far."""

    __slots__ = ("depth", "id", "in_text", "index", "is_sent", "name", "pieces", "skips")

    def __init__(self, index: int) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.pieces: list[str] = []
        self.depth = 0
        self.in_text = self.skips = self.is_sent = False

    def add(self, text: str) -> bool:
        """Take in a piece; tell whether a bracket was closed that no other encloses."""
        self.pieces.append(text)
        is_closed = False
        end = len(text)
        if self.skips and end:  # the last piece ended in a backslash
            self.skips, at = False, 1
        else:
            at = 0
        while (found := _SIGNS.search(text, at)) is not None:
            at, sign = found.end(), found[0]
            if sign == "\\":
                if self.in_text:
                    self.skips = at >= end
                    at += 1
            elif sign == '"':
                self.in_text = not self.in_text
            elif not self.in_text:
                self.depth += 1 if sign in "{[" else -1
                is_closed = is_closed or self.depth == 0
        return is_closed


class ToolCalls:
    """The calls of one answer. Each is handed out once, in the shape of Ollama, as soon as it is whole."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._calls: dict[int, _Call] = {}

    def add(self, pieces: Iterable[ToolCallDelta]) -> list[dict[str, object]]:
        """The calls that these pieces complete."""
        whole = []
        for piece in pieces:
            call = self._calls.get(piece.index)
            if call is None:
                call = self._calls[piece.index] = _Call(piece.index)
            call.id = call.id or piece.id or ""
            call.name = call.name or piece.name or ""
            if piece.arguments and call.add(piece.arguments) and call.name and not call.is_sent:
                whole.append(self._sent(call))
        return whole

    def rest(self, *, is_cut: bool) -> list[dict[str, object]]:
        """Those that were not whole before. Of an answer that was cut for its length they are not told."""
        open_calls = [call for _index, call in sorted(self._calls.items()) if not call.is_sent]
        if is_cut:
            open_calls = [call for call in open_calls if not call.depth and not call.in_text]
        return [self._sent(call) for call in open_calls]

    def _sent(self, call: _Call) -> dict[str, object]:
        call.is_sent = True
        arguments = self._arguments("".join(call.pieces))
        function = {"index": call.index, "name": call.name, "arguments": arguments}
        return {"id": call.id, "function": function} if call.id else {"function": function}

    def _arguments(self, text: str) -> object:
        try:
            arguments = orjson.loads(text) if text.strip() else {}
        except orjson.JSONDecodeError:
            arguments = self._odd(text)
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            raise UpstreamInvalid(provider=self._source, problem=N_("the arguments of a tool call are no JSON object"))
        return arguments

    def _odd(self, text: str) -> object:
        """JSON that a stricter reader refuses, such as half of a character pair: written down again as it came."""
        try:
            found = json.loads(text)
            return orjson.Fragment(json.dumps(found, allow_nan=False)) if isinstance(found, dict) else found
        except (ValueError, RecursionError):
            raise UpstreamInvalid(
                provider=self._source, problem=N_("the arguments of a tool call are not JSON")
            ) from None

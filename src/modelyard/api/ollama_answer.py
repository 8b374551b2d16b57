"""Our chunks as Ollama's answers: whole, or as lines of JSON, each with its own time.

The last line of a stream has `done: true`, the counts and the times in nanoseconds; only a complete answer has one.
Where the engine does not tell how long it read and wrote, it is as long as it took seen from here.
Knows nothing about connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import orjson

from modelyard.clock import Clock
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import Chunk, Delta, Progress, Usage

from .asked import Asked
from .tool_calls import ToolCalls

Shape = Literal["message", "response"]  # of a chat, of a generated text
NANO = 1_000_000_000
_SPLITTERS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
_dumps = orjson.dumps


def dumps(value: object) -> bytes:
    """JSON on one line, also for readers that take every line end of Unicode for one.

    >>> dumps("a\\u2028b\\nc")
    b'"a\\\\u2028b\\\\nc"'
    """
    data = _dumps(value)
    return data if data.isascii() else _escaped(data)


def _escaped(data: bytes) -> bytes:
    if b"\xe2\x80" in data or b"\xc2\x85" in data:
        for sign, written in _SPLITTERS:
            data = data.replace(sign, written)
    return data


def time_text(seconds: float) -> str:
    """A time as Ollama writes it.

    >>> time_text(1_700_000_000.25)
    '2023-11-14T22:13:20.250000Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class _Head:
    """What every line begins with, up to its time. Most lines share their second with the one before."""

    __slots__ = ("_open", "_second", "_wall", "_written")

    def __init__(self, model: str, clock: Clock) -> None:
        self._open = b'{"model":' + dumps(model) + b',"created_at":"'
        self._wall = clock.wall
        self._second = 0
        self._written = b""

    def now(self) -> tuple[bytes, bytes]:
        """The head and the rest of the time."""
        wall = self._wall()
        part = wall - self._second
        if not 0 <= part < 1:
            self._second = int(wall)
            part = wall - self._second
            self._written = self._open + time_text(self._second)[:-7].encode()
        return self._written, b"%06dZ" % (part * 1_000_000)


class _Ending:
    """What the last object of an answer tells beside its text."""

    def __init__(self, asked: Asked, ticket: Ticket, *, names_node: bool) -> None:
        self.usage: Usage | None = None
        self.finish = ""
        self._act, self._ticket, self._names_node = asked.act, ticket, names_node

    def members(self, now: float, note: bytes) -> dict[str, object]:
        ticket, usage = self._ticket, self.usage
        reason = self._act or ("stop" if self.finish == "tool_calls" else self.finish)
        members: dict[str, object] = {"done": True, "done_reason": reason}
        if not self._act:
            members |= _figures(ticket, usage, now)
        if self._names_node:
            members["node"] = ticket.provider
        if note:
            members["modelyard"] = orjson.Fragment(note)
        return members


def _figures(ticket: Ticket, usage: Usage | None, now: float) -> dict[str, object]:
    """Counts and times; what is zero or unknown is left out, as Ollama does."""
    read_s, wrote_s = (usage.prefill_s, usage.decode_s) if usage else (None, None)
    if read_s is None and ticket.sent_at is not None and ticket.first_token_at is not None:
        read_s = ticket.first_token_at - ticket.sent_at
    if wrote_s is None and ticket.first_token_at is not None and ticket.answered_at is not None:
        wrote_s = ticket.answered_at - ticket.first_token_at
    figures = {
        "total_duration": _nano(now - ticket.started_at),
        "load_duration": _nano(usage.load_s if usage is not None and usage.load_s is not None else ticket.load_s),
        "prompt_eval_count": usage.input_tokens if usage else 0,
        "prompt_eval_duration": _nano(read_s),
        "eval_count": usage.output_tokens if usage else 0,
        "eval_duration": _nano(wrote_s),
    }
    return {name: value for name, value in figures.items() if value > 0}


def _nano(seconds: float | None) -> int:
    return 0 if seconds is None else round(seconds * NANO)


class OllamaFrames:
    """The lines of a streamed answer."""

    def __init__(self, shape: Shape, asked: Asked, ticket: Ticket, clock: Clock, *, names_node: bool = False) -> None:
        self.note = b""
        self._is_chat = shape == "message"
        self._clock = clock
        self._head = _Head(asked.request.model, clock)
        self._ending = _Ending(asked, ticket, names_node=names_node)
        self._calls = ToolCalls(asked.request.model)
        # A line of nothing but text, by far the most common, is four pieces around its text.
        self._text_open = b'","message":{"role":"assistant","content":' if self._is_chat else b'","response":'
        self._text_close = b'},"done":false}\n' if self._is_chat else b',"done":false}\n'

    def encode(self, chunks: Sequence[Chunk]) -> bytes:
        """The lines for these chunks; empty when they hold nothing for the caller."""
        lines: list[bytes] = []
        for chunk in chunks:
            if type(chunk) is Delta:
                if chunk.text and not (
                    chunk.reasoning or chunk.tool_calls or chunk.finish or chunk.logprobs is not None
                ):
                    text = _dumps(chunk.text)
                    lines += self._head.now()
                    lines += (self._text_open, text if text.isascii() else _escaped(text), self._text_close)
                else:
                    self._add_rare(chunk, lines)
            elif type(chunk) is Usage:
                self._ending.usage = chunk
        return b"".join(lines)

    def silence(self) -> bytes:
        """A valid line that says nothing."""
        return b"".join((*self._head.now(), self._text_open, b'""', self._text_close))

    def end(self) -> bytes:
        """The last line."""
        members = self._ending.members(self._clock.monotonic(), self.note)
        return self._line(_said(self._is_chat, "", "", []) | members)

    def _add_rare(self, chunk: Delta, lines: list[bytes]) -> None:
        calls = self._calls.add(chunk.tool_calls)
        if chunk.finish is not None:
            self._ending.finish = chunk.finish
            calls += self._calls.rest(is_cut=chunk.finish == "length")
        if not (chunk.text or chunk.reasoning or calls or chunk.logprobs is not None):
            return
        said = _said(self._is_chat, chunk.text, chunk.reasoning, calls)
        if logprobs := _logprobs(chunk.logprobs):
            said["logprobs"] = logprobs
        lines.append(self._line(said | {"done": False}))

    def _line(self, members: dict[str, object]) -> bytes:
        return b"".join((*self._head.now(), b'",', dumps(members)[1:], b"\n"))


class OllamaWhole:
    """A whole answer."""

    def __init__(self, shape: Shape, asked: Asked, ticket: Ticket, clock: Clock, *, names_node: bool = False) -> None:
        self._is_chat = shape == "message"
        self._model, self._clock = asked.request.model, clock
        self._ending = _Ending(asked, ticket, names_node=names_node)
        self._pieces = ToolCalls(asked.request.model)
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, object]] = []
        self._logprobs: list[object] = []

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Take in more of the answer."""
        for chunk in chunks:
            if isinstance(chunk, Delta):
                self._text.append(chunk.text)
                self._reasoning.append(chunk.reasoning)
                self._calls += self._pieces.add(chunk.tool_calls)
                self._logprobs += _logprobs(chunk.logprobs)
                if chunk.finish is not None:
                    self._ending.finish = chunk.finish
                    self._calls += self._pieces.rest(is_cut=chunk.finish == "length")
            elif not isinstance(chunk, Progress):
                self._ending.usage = chunk

    def body(self, note: bytes = b"") -> bytes:
        """The answer as JSON."""
        said = _said(self._is_chat, "".join(self._text), "".join(self._reasoning), self._calls)
        if self._logprobs:
            said["logprobs"] = self._logprobs
        head = {"model": self._model, "created_at": time_text(self._clock.wall())}
        return dumps(head | said | self._ending.members(self._clock.monotonic(), note))


def _said(is_chat: bool, text: str, reasoning: str, calls: list[dict[str, object]]) -> dict[str, object]:
    if not is_chat:
        said: dict[str, object] = {"response": text}
        return said | {"thinking": reasoning} if reasoning else said
    message: dict[str, object] = {"role": "assistant", "content": text}
    if reasoning:
        message["thinking"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def _logprobs(found: object) -> list[object]:
    """Ollama's list has the tokens that OpenAI's shape of chats has under `content`."""
    content = found.get("content") if isinstance(found, dict) else None
    return content if isinstance(content, list) else []

"""What an Ollama server streams back, as our chunks: one JSON object per line.

An answer is over with `done: true` and a reason that ends an answer; until then a finish is held back, so that an
answer cut at any byte is an error and never looks complete. Pure; moves no bytes itself.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from modelyard.diagnosis.showing import shown
from modelyard.errors import (
    N_,
    CapabilityMissing,
    NotFound,
    UpstreamInvalid,
    UpstreamModelMissing,
    UpstreamOverloaded,
    YardError,
)
from modelyard.types.chat import Chunk, Delta, FinishReason, ToolCallDelta, Usage

from .told import Tokens, seconds_told
from .upstream_errors import upstream_failure

LINE_BYTES_MAX = 4 * 1024 * 1024
CAPABILITY_CHARS_MAX = 60
NS = 1e9
_NOT_IN_REGISTRY = "pull model manifest: file does not exist"
_FINISHES: dict[str, FinishReason] = {"": "stop", "stop": "stop", "length": "length"}


class _Function(msgspec.Struct, gc=False):
    name: str = ""
    arguments: Any = None


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function
    id: str = ""


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Line(msgspec.Struct, gc=False):
    message: _Message | None = None
    response: str | None = None  # of /api/generate
    thinking: str | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Tokens = 0
    eval_count: Tokens = 0
    load_duration: float = 0
    prompt_eval_duration: float = 0
    eval_duration: float = 0
    logprobs: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Line).decode


class LineTooLong(ValueError):
    """One line is longer than any honest one."""


class LineSplitter:
    """Feed bytes as they arrive; get every line that is complete, without blank ones.

    >>> lines = LineSplitter()
    >>> lines.feed(b'{"a": 1}\\n{"b"'), lines.feed(b": 2}\\n\\n")
    ([b'{"a": 1}'], [b'{"b": 2}'])
    """

    __slots__ = ("_bytes", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the line that is not complete yet: joined once, however many there are
        self._bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that this piece completes, in order. Raise `LineTooLong` as soon as one is."""
        first, *lines = data.split(b"\n")
        self._bytes += len(first)
        if self._bytes > LINE_BYTES_MAX or any(len(line) > LINE_BYTES_MAX for line in lines):
            raise LineTooLong(f"a line is longer than {LINE_BYTES_MAX} bytes")
        if first:
            self._pieces.append(first)
        if not lines:
            return []
        lines.insert(0, b"".join(self._pieces))
        tail = lines.pop()
        self._pieces, self._bytes = ([tail] if tail else []), len(tail)
        return [line for line in lines if line and not line.isspace()]

    @property
    def is_between_lines(self) -> bool:
        """False when the stream was cut inside a line."""
        return all(piece.isspace() for piece in self._pieces)


class OllamaDecoder:
    """Turns the bytes of one streamed answer into chunks. `done` is True once the answer is complete."""

    __slots__ = ("_call_count", "_choice", "_lines", "_model", "_source", "_tag", "done")

    def __init__(self, source: str, model: str = "", *, choice: int = 0, tag: str = "") -> None:
        """`tag` makes the ids of this answer's tool calls differ from those of every other answer."""
        self.done = False
        self._source, self._model, self._choice, self._tag = source, model, choice, tag
        self._lines = LineSplitter()
        self._call_count = 0

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks these bytes complete. Raise `UpstreamInvalid`, or what the server reported, when there is no
        way on.
        """
        try:
            lines = self._lines.feed(data)
        except LineTooLong as exc:
            raise self._invalid(str(exc)) from exc
        chunks: list[Chunk] = []
        for line in lines:
            if self.done:
                break
            self._add(line, chunks)
        return chunks

    def end(self) -> YardError | None:
        """The connection has ended: why that is too early, or None if the answer is complete."""
        if self.done:
            return None
        where = "between lines" if self._lines.is_between_lines else "inside a line"
        return self._invalid(f"the answer was cut {where}")

    def _add(self, raw: bytes, chunks: list[Chunk]) -> None:
        try:
            line = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise self._invalid("a line is not the JSON we expect") from exc
        if line.error is not None:
            raise ollama_failure(self._source, self._model, line.error)
        message = line.message
        if message is None:
            delta = Delta(self._choice, line.response or "", line.thinking or "", logprobs=_logprobs(line.logprobs))
        else:
            calls = self._calls(message.tool_calls) if message.tool_calls else ()
            delta = Delta(self._choice, message.content or "", message.thinking or "", calls, _logprobs(line.logprobs))
        if delta.text or delta.reasoning or delta.tool_calls or delta.logprobs is not None:
            chunks.append(delta)
        if line.done:
            self._finish(line, chunks)

    def _calls(self, calls: list[_ToolCall]) -> tuple[ToolCallDelta, ...]:
        """Ollama sends whole calls, without ids."""
        found = []
        for call in calls:
            arguments = call.function.arguments
            text = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
            call_id = call.id or f"call_{self._tag}{self._call_count}"
            found.append(ToolCallDelta(self._call_count, call_id, call.function.name, text))
            self._call_count += 1
        return tuple(found)

    def _finish(self, line: _Line, chunks: list[Chunk]) -> None:
        finish = _FINISHES.get(line.done_reason or "")
        if finish is None:  # `load` and `unload` end no answer
            raise self._invalid("the answer ended for a reason that ends none")
        self.done = True
        chunks.append(Delta(self._choice, finish="tool_calls" if self._call_count and finish == "stop" else finish))
        chunks.append(
            Usage(
                line.prompt_eval_count,
                line.eval_count,
                prefill_s=seconds_told(line.prompt_eval_duration, 1 / NS),
                decode_s=seconds_told(line.eval_duration, 1 / NS),
                load_s=seconds_told(line.load_duration, 1 / NS),
            )
        )

    def _invalid(self, problem: str) -> UpstreamInvalid:
        return UpstreamInvalid(provider=self._source, problem=problem)


def ollama_failure(source: str, model: str, error: Any, status: int | None = None) -> YardError:
    """What an Ollama server says went wrong, in a body or in a line of a stream."""
    text = error if isinstance(error, str) else ""
    if text.startswith(_NOT_IN_REGISTRY):
        return NotFound(
            N_("{provider} cannot fetch {model}: pull model manifest: file does not exist"),
            hints=(N_("Check the name: its registry has no such model."),), provider=source, model=model,
        )  # fmt: skip
    if "not found" in text and ("model" in text or "manifest" in text):
        return UpstreamModelMissing(provider=source, model=model)
    if "maximum pending requests" in text or "server busy" in text:
        return UpstreamOverloaded(provider=source)
    if "does not support" in text:
        what = shown(text.rpartition("does not support")[2])[:CAPABILITY_CHARS_MAX] or N_("this kind of request")
        return CapabilityMissing(model=model or source, capability=what)
    return upstream_failure(source, error, status)


def _logprobs(told: Any) -> object | None:
    """In OpenAI's shape, as our chunks hold it."""
    return {"content": told} if isinstance(told, list) and told else None

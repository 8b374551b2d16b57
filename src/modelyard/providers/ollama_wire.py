"""What an Ollama server streams back, as our chunks: one JSON object per line.

An answer is over with `done: true` and a reason that ends an answer; until then a finish is held back, so that an
answer cut at any byte is an error and never looks complete. Pure; moves no bytes itself.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import msgspec
import orjson

from modelyard.errors import N_, CapabilityMissing, UpstreamInvalid, UpstreamModelMissing, UpstreamOverloaded, YardError
from modelyard.types.chat import Chunk, Delta, FinishReason, ToolCallDelta, Usage

from .upstream_errors import upstream_failure

LINE_BYTES_MAX = 4 * 1024 * 1024
NS = 1e9
_FINISHES: dict[str, FinishReason] = {"": "stop", "stop": "stop", "length": "length"}
_Count = Annotated[int, msgspec.Meta(ge=0)]


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
    prompt_eval_count: _Count = 0
    eval_count: _Count = 0
    prompt_eval_duration: _Count = 0
    eval_duration: _Count = 0
    logprobs: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Line).decode


class OllamaDecoder:
    """Turns the bytes of one streamed answer into chunks. `done` is True once the answer is complete."""

    __slots__ = ("_call_count", "_choice", "_model", "_source", "_tail", "done")

    def __init__(self, source: str, model: str = "", *, choice: int = 0) -> None:
        self.done = False
        self._source, self._model, self._choice = source, model, choice
        self._tail = b""
        self._call_count = 0

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks these bytes complete. Raise `UpstreamInvalid`, or what the server reported, when there is no
        way on.
        """
        chunks: list[Chunk] = []
        *lines, self._tail = (self._tail + data if self._tail else data).split(b"\n")
        if len(self._tail) > LINE_BYTES_MAX:
            raise self._invalid("a line is longer than any honest one")
        for line in lines:
            if self.done:
                break
            if line and not line.isspace():
                self._add(line, chunks)
        return chunks

    def end(self) -> YardError | None:
        """The connection has ended: why that is too early, or None if the answer is complete."""
        if self.done:
            return None
        return self._invalid(f"the answer was cut {'inside' if self._tail.strip() else 'between'} lines")

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
        if delta.text or delta.reasoning or delta.tool_calls:
            chunks.append(delta)
        if line.done:
            self._finish(line, chunks)

    def _calls(self, calls: list[_ToolCall]) -> tuple[ToolCallDelta, ...]:
        """Ollama sends whole calls, without ids."""
        found = []
        for call in calls:
            arguments = call.function.arguments
            text = arguments if isinstance(arguments, str) else orjson.dumps(arguments or {}).decode()
            call_id = call.id or f"call_{os.urandom(6).hex()}"
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
                prefill_s=line.prompt_eval_duration / NS if line.prompt_eval_duration else None,
                decode_s=line.eval_duration / NS if line.eval_duration else None,
            )
        )

    def _invalid(self, problem: str) -> UpstreamInvalid:
        return UpstreamInvalid(provider=self._source, problem=problem)


def ollama_failure(source: str, model: str, error: Any, status: int | None = None) -> YardError:
    """What an Ollama server says went wrong, in a body or in a line of a stream."""
    text = error if isinstance(error, str) else ""
    if "not found" in text and ("model" in text or "manifest" in text):
        return UpstreamModelMissing(provider=source, model=model)
    if "maximum pending requests" in text or "server busy" in text:
        return UpstreamOverloaded(provider=source)
    if "does not support" in text:
        what = text.rpartition("does not support")[2].strip() or N_("this kind of request")
        return CapabilityMissing(model=model or source, capability=what[:60])
    return upstream_failure(source, error, status)


def _logprobs(told: Any) -> object | None:
    """In OpenAI's shape, as our chunks hold it."""
    return {"content": told} if isinstance(told, list) and told else None

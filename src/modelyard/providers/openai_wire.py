"""What an OpenAI-style server streams back, as our chunks.

An answer is over when the server says so (`[DONE]`) and every choice has a reason to be finished. Until then a finish
is held back, so that an answer cut at any byte is an error and never looks complete. Pure; moves no bytes itself.
"""

from __future__ import annotations

from typing import Any

import msgspec

from modelyard.errors import UpstreamInvalid
from modelyard.types.chat import Chunk, Delta, FinishReason, Progress, ToolCallDelta, Usage

from .event_stream import EventSplitter, FrameTooLarge
from .told import Tokens, seconds_told
from .upstream_errors import upstream_failure

DONE = b"[DONE]"
_FINISHES: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Piece(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Piece | None = None
    text: str | None = None  # plain completions
    finish_reason: str | None = None
    logprobs: Any = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: Tokens | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    reasoning_tokens: Tokens | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: Tokens
    completion_tokens: Tokens = 0
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Timings(msgspec.Struct, gc=False):
    prompt_ms: float | None = None
    predicted_ms: float | None = None


class _Progress(msgspec.Struct, gc=False):
    total: int = 0
    processed: int = 0


class _Frame(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    timings: _Timings | None = None
    prompt_progress: _Progress | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Frame).decode


class AnswerDecoder:
    """Turns the bytes of one streamed answer into chunks. `done` is True once the answer is complete."""

    __slots__ = (
        "_called_tools",
        "_choices",
        "_finishes",
        "_source",
        "_splitter",
        "_timings",
        "_usage",
        "done",
        "event_count",
    )

    def __init__(self, source: str, choices: int = 1) -> None:
        self.done = False
        self.event_count = 0
        self._source = source  # who answers, as errors name it
        self._choices = choices
        self._splitter = EventSplitter()
        self._finishes: dict[int, FinishReason] = {}
        self._called_tools: set[int] = set()
        self._usage: _Usage | None = None
        self._timings: _Timings | None = None

    def feed(self, data: bytes) -> list[Chunk]:
        """The chunks these bytes complete. Raise `UpstreamInvalid`, or what the server reported, when there is no
        way on."""
        try:
            events = self._splitter.feed(data)
        except FrameTooLarge as exc:
            raise self._invalid(str(exc)) from exc
        chunks: list[Chunk] = []
        self.event_count += len(events)
        for event in events:
            if self.done:
                break
            if event == DONE:
                self._finish(chunks)
            else:
                self._add(event, chunks)
        return chunks

    def end(self) -> UpstreamInvalid | None:
        """The connection has ended: why that is too early, or None if the answer is complete."""
        if self.done:
            return None
        where = "between events" if self._splitter.is_between_events else "inside an event"
        return self._invalid(f"the answer was cut {where}")

    def _add(self, event: bytes, chunks: list[Chunk]) -> None:
        try:
            frame = _decode(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise self._invalid("an event is not the JSON we expect") from exc
        if frame.error is not None:
            raise upstream_failure(self._source, frame.error)
        if frame.choices:
            for choice in frame.choices:
                self._add_choice(choice, chunks)
        if frame.prompt_progress is not None:
            chunks.append(Progress(frame.prompt_progress.processed, frame.prompt_progress.total))
        if frame.usage is not None:
            self._usage = frame.usage
        if frame.timings is not None:
            self._timings = frame.timings

    def _add_choice(self, choice: _Choice, chunks: list[Chunk]) -> None:
        index = choice.index
        if not 0 <= index < self._choices:
            raise self._invalid(f"choice {index} was not asked for")
        piece = choice.delta
        if piece is None:
            delta = Delta(index, choice.text or "", logprobs=choice.logprobs)
        else:
            calls = self._tool_calls(index, piece.tool_calls) if piece.tool_calls else ()
            reasoning = piece.reasoning_content or piece.reasoning or ""
            delta = Delta(index, piece.content or "", reasoning, calls, choice.logprobs)
        if delta.text or delta.reasoning or delta.tool_calls or delta.logprobs is not None:
            if index in self._finishes:
                raise self._invalid("text came after the end")
            chunks.append(delta)
        if choice.finish_reason:  # some servers write an empty one until there is a reason
            finish = _FINISHES.get(choice.finish_reason)
            if finish is None:
                raise self._invalid("the answer ended for a reason we do not know")
            self._finishes[index] = "tool_calls" if finish == "stop" and index in self._called_tools else finish

    def _tool_calls(self, choice: int, calls: list[_ToolCall]) -> tuple[ToolCallDelta, ...]:
        self._called_tools.add(choice)
        return tuple(
            ToolCallDelta(call.index, call.id or None, call.function.name or None, call.function.arguments or "")
            if call.function
            else ToolCallDelta(call.index, call.id or None)
            for call in calls
        )

    def _finish(self, chunks: list[Chunk]) -> None:
        if len(self._finishes) < self._choices:
            raise self._invalid("it said it was done before every choice was finished")
        self.done = True
        chunks.extend(Delta(index, finish=self._finishes[index]) for index in sorted(self._finishes))
        if self._usage is not None:
            chunks.append(_usage_chunk(self._usage, self._timings or _Timings()))

    def _invalid(self, problem: str) -> UpstreamInvalid:
        return UpstreamInvalid(provider=self._source, problem=problem)


def _usage_chunk(usage: _Usage, timings: _Timings) -> Usage:
    prompt, output = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        usage.prompt_tokens,
        usage.completion_tokens,
        cached_tokens=(prompt.cached_tokens or 0) if prompt else 0,
        reasoning_tokens=(output.reasoning_tokens or 0) if output else 0,
        prefill_s=seconds_told(timings.prompt_ms, 0.001),
        decode_s=seconds_told(timings.predicted_ms, 0.001),
    )

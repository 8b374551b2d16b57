"""Our chunks as OpenAI's answers: `chat.completion` and `text_completion`, whole or as the frames of a stream.

Order of a streamed chat: a chunk with the role, then content, a finish per choice, usage if it was asked for, `[DONE]`.
A note (JSON) is told in the last chunk as the member `modelyard`. Pure; knows nothing about connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from modelyard.types.chat import Chunk, Delta, Progress, ToolCallDelta, Usage

from .openai_logprobs import legacy_logprobs

DONE = b"data: [DONE]\n\n"
_dumps = orjson.dumps


class _Head:
    """What every chunk of a stream repeats, encoded once."""

    __slots__ = ("close", "is_last_finish", "open", "usage_close")

    def __init__(self, kind: str, id: str, created: int, model: str, *, include_usage: bool) -> None:
        head = _dumps({"id": id, "object": kind, "created": created, "model": model})[:-1]
        self.open = b"data: " + head + b',"choices":['
        self.close = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self.usage_close = b'],"usage":'
        self.is_last_finish = not include_usage  # else usage comes after it

    def finish_close(self, note: bytes) -> bytes:
        """The end of a chunk that finishes a choice."""
        return _noted(self.close, note) if self.is_last_finish else self.close

    def usage(self, usage: Usage, note: bytes) -> bytes:
        """The chunk that tells usage."""
        return _noted(self.open + self.usage_close + _dumps(usage_body(usage)) + b"}\n\n", note)


def _noted(frame: bytes, note: bytes) -> bytes:
    """A frame, or the end of one, with a note as its last member."""
    return frame[:-3] + b',"modelyard":' + note + b"}\n\n" if note else frame


class ChatFrames:
    """The frames of a streamed chat."""

    def __init__(self, id: str, created: int, model: str, include_usage: bool) -> None:
        self._head = head = _Head("chat.completion.chunk", id, created, model, include_usage=include_usage)
        self.note = b""
        self._include_usage = include_usage
        self._usage: Usage | None = None
        self._greeted: set[int] = set()
        # A chunk of nothing but text, by far the most common, is three pieces around its text.
        self._text_open = head.open + b'{"index":0,"delta":{"content":'
        self._text_close = b'},"logprobs":null,"finish_reason":null}' + head.close

    def encode(self, chunks: Sequence[Chunk]) -> bytes:
        """The frames for these chunks; empty when they hold nothing for the caller."""
        frames: list[bytes] = []
        for chunk in chunks:
            if type(chunk) is Delta:
                if chunk.choice not in self._greeted:
                    self._greeted.add(chunk.choice)
                    frames.append(self._frame(chunk.choice, {"role": "assistant", "content": ""}, None, None))
                if chunk.text and not (
                    chunk.choice or chunk.reasoning or chunk.tool_calls or chunk.finish or chunk.logprobs is not None
                ):
                    frames += (self._text_open, _dumps(chunk.text), self._text_close)
                else:
                    self._add_rare(chunk, frames)
            elif type(chunk) is Usage:
                self._usage = chunk
        return b"".join(frames)

    def end(self) -> bytes:
        """The frames after the last chunk."""
        if not self._include_usage or self._usage is None:
            return DONE
        return self._head.usage(self._usage, self.note) + DONE

    def _add_rare(self, chunk: Delta, frames: list[bytes]) -> None:
        delta: dict[str, object] = {}
        if chunk.reasoning:
            delta["reasoning_content"] = chunk.reasoning
        if chunk.text:
            delta["content"] = chunk.text
        if chunk.tool_calls:
            delta["tool_calls"] = [_tool_call_piece(call) for call in chunk.tool_calls]
        if delta or chunk.logprobs is not None:
            frames.append(self._frame(chunk.choice, delta, chunk.logprobs, None))
        if chunk.finish is not None:
            frames.append(self._frame(chunk.choice, {}, None, chunk.finish))

    def _frame(self, index: int, delta: dict[str, Any], logprobs: object | None, finish: str | None) -> bytes:
        choice = _dumps({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})
        return self._head.open + choice + (self._head.finish_close(self.note) if finish else self._head.close)


class CompletionFrames:
    """The frames of a streamed plain completion."""

    def __init__(self, id: str, created: int, model: str, include_usage: bool) -> None:
        self._head = _Head("text_completion", id, created, model, include_usage=include_usage)
        self.note = b""
        self._include_usage = include_usage
        self._usage: Usage | None = None
        self._offsets: dict[int, int] = {}

    def encode(self, chunks: Sequence[Chunk]) -> bytes:
        """The frames for these chunks; empty when they hold nothing for the caller."""
        frames: list[bytes] = []
        for chunk in chunks:
            if type(chunk) is Delta:
                offset = self._offsets.get(chunk.choice, 0)
                self._offsets[chunk.choice] = offset + len(chunk.text)
                choice = {
                    "index": chunk.choice,
                    "text": chunk.text,
                    "logprobs": legacy_logprobs(chunk.logprobs, offset),
                    "finish_reason": chunk.finish,
                }
                close = self._head.finish_close(self.note) if chunk.finish else self._head.close
                frames += (self._head.open, _dumps(choice), close)
            elif type(chunk) is Usage:
                self._usage = chunk
        return b"".join(frames)

    def end(self) -> bytes:
        """The frames after the last chunk."""
        if not self._include_usage or self._usage is None:
            return DONE
        return self._head.usage(self._usage, self.note) + DONE


class _Choice:
    """The pieces of one choice so far."""

    __slots__ = ("calls", "finish", "logprobs", "reasoning", "text")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.calls: dict[int, ToolCallDelta] = {}
        self.logprobs: list[object] = []
        self.finish: str | None = None

    def add(self, delta: Delta) -> None:
        if delta.text:
            self.text.append(delta.text)
        if delta.reasoning:
            self.reasoning.append(delta.reasoning)
        for piece in delta.tool_calls:
            call = self.calls.setdefault(piece.index, ToolCallDelta(piece.index))
            call.id = call.id or piece.id
            call.name = call.name or piece.name
            call.arguments += piece.arguments
        if isinstance(delta.logprobs, dict) and isinstance(found := delta.logprobs.get("content"), list):
            self.logprobs.extend(found)
        if delta.finish is not None:
            self.finish = delta.finish


class _Whole:
    """The choices and the usage of one answer."""

    def __init__(self, id: str, created: int, model: str) -> None:
        self._id, self._created, self._model = id, created, model
        self._choices: dict[int, _Choice] = {}
        self._usage: Usage | None = None

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Take in more of the answer."""
        for chunk in chunks:
            if isinstance(chunk, Delta):
                choice = self._choices.get(chunk.choice)
                if choice is None:
                    choice = self._choices[chunk.choice] = _Choice()
                choice.add(chunk)
            elif not isinstance(chunk, Progress):
                self._usage = chunk

    def _body(self, kind: str, choices: list[dict[str, object]], note: bytes) -> bytes:
        body: dict[str, object] = {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
        if self._usage is not None:
            body["usage"] = usage_body(self._usage)
        if note:
            body["modelyard"] = orjson.Fragment(note)
        return _dumps(body)


class ChatAnswer(_Whole):
    """A whole chat answer."""

    def body(self, note: bytes = b"") -> bytes:
        """The answer as JSON."""
        return self._body(
            "chat.completion",
            [
                {
                    "index": index,
                    "message": _message(choice),
                    "logprobs": {"content": choice.logprobs, "refusal": None} if choice.logprobs else None,
                    "finish_reason": choice.finish,
                }
                for index, choice in sorted(self._choices.items())
            ],
            note,
        )


class CompletionAnswer(_Whole):
    """A whole plain completion."""

    def body(self, note: bytes = b"") -> bytes:
        """The answer as JSON."""
        return self._body(
            "text_completion",
            [
                {
                    "index": index,
                    "text": "".join(choice.text),
                    "logprobs": legacy_logprobs({"content": choice.logprobs}, 0) if choice.logprobs else None,
                    "finish_reason": choice.finish,
                }
                for index, choice in sorted(self._choices.items())
            ],
            note,
        )


def _message(choice: _Choice) -> dict[str, object]:
    text = "".join(choice.text)
    message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.calls:
        message["content"] = text or None
        message["tool_calls"] = [
            {"id": call.id or "", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for _index, call in sorted(choice.calls.items())
        ]
    return message


def _tool_call_piece(call: ToolCallDelta) -> dict[str, object]:
    piece: dict[str, object] = {"index": call.index}
    function: dict[str, object] = {}
    if call.id is not None:
        piece |= {"id": call.id, "type": "function"}
    if call.name is not None:
        function["name"] = call.name
    function["arguments"] = call.arguments
    piece["function"] = function
    return piece


def usage_body(usage: Usage) -> dict[str, object]:
    """OpenAI's `usage`."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }

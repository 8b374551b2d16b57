"""What is asked and what is answered, in our own words. Dialects and providers translate to and from these.

A request is a frozen value. An answer is a stream of chunks: any number of `Delta` and `Progress`, then `Usage`;
a stream that ends without every choice finished is an error, never an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Think = bool | Literal["low", "medium", "high"]
FINISH_REASONS: frozenset[str] = frozenset(("stop", "length", "tool_calls", "content_filter"))


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of text in a message."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An inline image. Addresses are refused at the door: nothing fetches what a caller names."""

    media_type: str
    base64: str


Part = TextPart | ImagePart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asks for a function; `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str | tuple[Part, ...] | None
    name: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may ask for; `parameters` is a JSON schema."""

    name: str
    description: str | None = None
    parameters: Mapping[str, object] | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """How the answer must look: free text, any JSON object, or JSON that satisfies a schema."""

    kind: Literal["text", "json", "json_schema"] = "text"
    schema: Mapping[str, object] | None = None
    name: str = "answer"


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """What a caller wants from a model: a chat (`messages`) or a plain completion (`prompt`)."""

    model: str
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    choices: int = 1
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None  # "auto", "none", "required", or the name of a function after "function:"
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)  # sampling and engine fields, allow-listed and in range
    context_length: int | None = None  # tokens it needs room for, prompt and answer; a larger context will do
    think: Think | None = None  # whether, or how much, a model that can reason first should; None: as it likes
    suffix: str | None = None  # of a plain completion: what comes after the text that is asked for
    keep_alive_s: float | None = None  # overrides the model's idle TTL; negative: for ever; 0: leave at once

    @property
    def is_chat(self) -> bool:
        return self.prompt is None


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What was left out of a prompt so that it keeps a limit."""

    messages: int  # left out whole
    characters: int  # of texts that were cut
    tokens_before: int
    tokens_after: int
    is_estimated: bool = False  # no tokenizer of the model could be asked


@dataclass(slots=True)
class ToolCallDelta:
    """A piece of a tool call. `id` and `name` come in the first piece, `arguments` in any."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class Delta:
    """A piece of one choice. A set `finish` is the choice's end."""

    choice: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: object | None = None  # as the engine gave it: OpenAI's shape
    finish: FinishReason | None = None

    @property
    def has_content(self) -> bool:
        return bool(self.text or self.reasoning or self.tool_calls)


@dataclass(slots=True)
class Progress:
    """How much of the prompt has been read."""

    done: int
    total: int


@dataclass(slots=True)
class Usage:
    """Tokens in and out, as the engine counted them."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    prefill_s: float | None = None
    decode_s: float | None = None
    load_s: float | None = None  # as a node tells it that brought the model in for this answer


Chunk = Delta | Progress | Usage

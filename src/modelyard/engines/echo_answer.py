"""What a scripted worker says: the request as it understands it, and the frames of its answer. No I/O, no clock.

The frames are those of llama.cpp's server: a role first, then content, a finish, the usage, and `[DONE]`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from modelyard.engines.echo_settings import EchoSettings

DONE = b"data: [DONE]\n\n"
CHOICES_MAX = 64


class Refused(Exception):
    """The request cannot be answered; `body` is the error document."""

    def __init__(self, message: str, kind: str = "invalid_request_error", **more: int) -> None:
        super().__init__(message)
        self.status = 400
        self.body = {"error": {"code": self.status, "message": message, "type": kind, **more}}


@dataclass(frozen=True, slots=True)
class Question:
    """A chat or completion request, read."""

    id: str
    is_chat: bool
    is_stream: bool
    wants_usage: bool
    wants_progress: bool
    choices: int
    words: tuple[str, ...]  # of the whole prompt: one word is one token
    last_words: tuple[str, ...]  # of the last message
    tokens: int  # to answer with
    finish: str
    tool: str = ""  # the function to call instead of talking
    model: str = "echo"


def read_question(body: bytes, *, is_chat: bool, request_id: str, settings: EchoSettings) -> Question:
    """Raise `Refused` for what this worker cannot answer."""
    try:
        asked = json.loads(body)
    except ValueError as error:
        raise Refused(f"not JSON: {error}") from None
    if not isinstance(asked, dict):
        raise Refused("not an object")
    texts = [_text(message.get("content")) for message in asked.get("messages", ())] if is_chat else None
    if texts is None:
        texts = [_text(asked.get("prompt", ""))]
    words = tuple(" ".join(texts).split())
    room = settings.context_length - len(words)
    if room <= 0:
        raise Refused(
            f"request ({len(words)} tokens) exceeds the available context size ({settings.context_length} tokens)",
            "exceed_context_size_error",
            n_prompt_tokens=len(words),
            n_ctx=settings.context_length,
        )
    choices = asked.get("n") or 1
    if choices > settings.slots:
        raise Refused(f"Field 'n': Value must be between 1 <= value <= {settings.slots}, but got {choices}")
    last_words = tuple(texts[-1].split()) if texts else ()
    limit = asked.get("max_tokens") or asked.get("max_completion_tokens") or asked.get("n_predict")
    natural = len(last_words) if settings.echo_prompt else settings.reply_tokens
    if limit is None or (settings.echo_prompt and limit >= natural):
        tokens, finish = natural, "stop"
    else:
        tokens, finish = limit, "length"
    tool = _tool(asked) if is_chat else ""
    return Question(
        id=request_id,
        is_chat=is_chat,
        is_stream=bool(asked.get("stream")),
        wants_usage=bool((asked.get("stream_options") or {}).get("include_usage")),
        wants_progress=bool(asked.get("return_progress")),
        choices=choices,
        words=words,
        last_words=last_words,
        tokens=1 if tool else min(tokens, room),
        finish="tool_calls" if tool else finish if tokens <= room else "length",
        tool=tool,
        model=str(asked.get("model") or "echo"),
    )


def counted(path: str, body: bytes) -> dict[str, object]:
    """What the tokenizer of this worker says: its template joins texts, and each word is a token."""
    asked = json.loads(body)
    if path == "/apply-template":
        return {"prompt": " ".join(_text(message.get("content")) for message in asked["messages"])}
    return {"tokens": [0] * len(str(asked["content"]).split())}


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


def _tool(asked: dict[str, object]) -> str:
    """The function to call, where the request demands a call."""
    choice, tools = asked.get("tool_choice"), asked.get("tools")
    if isinstance(choice, dict):
        return str((choice.get("function") or {}).get("name", ""))
    if choice == "required" and isinstance(tools, list) and tools:
        return str(tools[0]["function"]["name"])
    return ""


@dataclass(slots=True)
class Frames:
    """Writes the frames of one answer."""

    question: Question
    created: int
    settings: EchoSettings
    _head: str = field(init=False)

    def __post_init__(self) -> None:
        prefix, kind = ("chatcmpl-", "chat.completion") if self.question.is_chat else ("cmpl-", "text_completion")
        if self.question.is_stream and self.question.is_chat:
            kind += ".chunk"
        head = {"id": prefix + self.question.id, "object": kind, "created": self.created, "model": self.question.model}
        self._head = json.dumps(head)[:-1]

    def token(self, number: int) -> str:
        """The text of the n-th token, counted from 0: it names its request, so that no answer can be mixed up."""
        if self.settings.echo_prompt:
            return self.question.last_words[number] + " "
        return f"{self.question.id}:{number} "

    def progress(self, done: int, took_ms: float) -> bytes:
        total = len(self.question.words)
        counts = json.dumps({"total": total, "cache": 0, "processed": done, "time_ms": round(took_ms)})
        return self._frame(self._choice(0, '{"role":"assistant","content":null}'), f',"prompt_progress":{counts}')

    def first(self) -> bytes:
        """The role, for every choice of a chat; a completion has no such frame."""
        if not self.question.is_chat:
            return b""
        role = '{"role":"assistant","content":null}'
        return b"".join(self._frame(self._choice(index, role)) for index in range(self.question.choices))

    def content(self, number: int) -> bytes:
        """The n-th token of every choice."""
        if self.question.tool:
            return self._tool_call()
        text = json.dumps(self.token(number))
        if not self.question.is_chat:
            choices = (f'{{"text":{text},"index":{index},"logprobs":null,"finish_reason":null}}' for index in self._all)
        else:
            name = "reasoning_content" if number < self.settings.reasoning_tokens else "content"
            choices = (self._choice(index, f'{{"{name}":{text}}}') for index in self._all)
        return b"".join(self._frame(choice) for choice in choices)

    def finish(self) -> bytes:
        reason = json.dumps(self.question.finish)
        if not self.question.is_chat:
            texts = (f'{{"text":"","index":{index},"logprobs":null,"finish_reason":{reason}}}' for index in self._all)
            return b"".join(self._frame(text) for text in texts)
        return b"".join(self._frame(self._choice(index, "{}", reason)) for index in self._all)

    def usage(self, timings: dict[str, float]) -> bytes:
        numbers = f',"usage":{json.dumps(self.usage_counts())},"timings":{json.dumps(timings)}'
        return self._frame("", numbers)

    def usage_counts(self) -> dict[str, object]:
        read, written = len(self.question.words), self.question.tokens * self.question.choices
        return {
            "completion_tokens": written,
            "prompt_tokens": read,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": 0},
        }

    def whole(self, timings: dict[str, float]) -> dict[str, object]:
        """The answer in one piece."""
        split = min(self.settings.reasoning_tokens, self.question.tokens) if self.question.is_chat else 0
        tokens = [] if self.question.tool else [self.token(number) for number in range(self.question.tokens)]
        message: dict[str, object] = {"role": "assistant", "content": "".join(tokens[split:])}
        if split:
            message["reasoning_content"] = "".join(tokens[:split])
        if self.question.tool:
            call = {"name": self.question.tool, "arguments": "{}"}
            message |= {
                "content": None,
                "tool_calls": [{"id": "call-" + self.question.id, "type": "function", "function": call}],
            }
        answer = {"message": message} if self.question.is_chat else {"text": message["content"], "logprobs": None}
        choices = [{"index": index, **answer, "finish_reason": self.question.finish} for index in self._all]
        head: dict[str, object] = json.loads(self._head + "}")
        return head | {"choices": choices, "usage": self.usage_counts(), "timings": timings}

    @property
    def _all(self) -> range:
        return range(self.question.choices)

    def _choice(self, index: int, delta: str, finish: str = "null") -> str:
        return f'{{"finish_reason":{finish},"index":{index},"delta":{delta}}}'

    def _frame(self, choice: str, more: str = "") -> bytes:
        return f'data: {self._head},"choices":[{choice}]{more}}}\n\n'.encode()

    def _tool_call(self) -> bytes:
        call_id, name = json.dumps("call-" + self.question.id), json.dumps(self.question.tool)
        opening = f'{{"index":0,"id":{call_id},"type":"function","function":{{"name":{name},"arguments":""}}}}'
        pieces = (opening, *(f'{{"index":0,"function":{{"arguments":"{piece}"}}}}' for piece in "{}"))
        return b"".join(
            self._frame(self._choice(index, f'{{"tool_calls":[{piece}]}}')) for index in self._all for piece in pieces
        )

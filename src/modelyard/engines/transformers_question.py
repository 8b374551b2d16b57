"""A chat or completion request as the transformers worker understands it. Pure.

The node has refused what this engine cannot do before it asked; what comes here all the same is refused once more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

TEMPLATE_OPTIONS = ("enable_thinking", "reasoning_effort")
REPEAT_LAST_TOKENS = 64
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


class Refused(Exception):
    """The request cannot be answered; `body` is the error document."""

    def __init__(self, message: str, kind: str = "invalid_request_error", **more: int) -> None:
        super().__init__(message)
        self.body = {"error": {"code": 400, "message": message, "type": kind, **more}}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0  # 0: always the likeliest
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    repeat_penalty: float = 1.0
    repeat_last_n: int = REPEAT_LAST_TOKENS
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """The likeliest token, and nothing changes which that is."""
        changed = self.presence_penalty or self.frequency_penalty or self.logit_bias or self.repeat_penalty != 1
        return not self.temperature and not changed


@dataclass(frozen=True, slots=True)
class Question:
    """One request, read."""

    is_chat: bool
    sampling: Sampling
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    template_options: Mapping[str, object] = field(default_factory=dict)
    prompt: str | tuple[int, ...] = ""
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    wants_progress: bool = False
    ignore_eos: bool = False

    @property
    def functions(self) -> frozenset[str]:
        """What may be called."""
        return frozenset(str(tool["function"]["name"]) for tool in self.tools)


def read_question(asked: Mapping[str, Any], defaults: Sampling, *, is_chat: bool) -> Question:
    """Raise `Refused` for what this worker cannot answer. `defaults` are the model's own ways to choose tokens."""
    if not asked.get("stream"):
        raise Refused("this worker answers in streams only")
    if (asked.get("n") or 1) != 1:
        raise Refused("this worker answers one choice at a time")
    if (asked.get("response_format") or {}).get("type", "text") != "text" or asked.get("logprobs"):
        raise Refused("response_format or logprobs", "not_supported_error")
    choice = asked.get("tool_choice")
    if choice not in (None, "auto", "none"):
        raise Refused("tool_choice", "not_supported_error")
    stop = asked.get("stop") or ()
    options = asked.get("chat_template_kwargs") or {}
    prompt = asked.get("prompt", "")
    return Question(
        is_chat=is_chat,
        sampling=_sampling(asked, defaults),
        messages=tuple(_message(message) for message in asked.get("messages") or ()) if is_chat else (),
        tools=tuple(asked.get("tools") or ()) if is_chat and choice != "none" else (),
        template_options={name: options[name] for name in TEMPLATE_OPTIONS if name in options},
        prompt=tuple(prompt) if isinstance(prompt, list) else prompt,
        max_tokens=asked.get("max_tokens"),
        stops=(stop,) if isinstance(stop, str) else tuple(stop),
        wants_progress=bool(asked.get("return_progress")),
        ignore_eos=bool(asked.get("ignore_eos")),
    )


def _sampling(asked: Mapping[str, Any], defaults: Sampling) -> Sampling:
    given = {
        name: asked[name]
        for name in (
            "temperature", "top_k", "top_p", "min_p", "seed", "repeat_penalty", "repeat_last_n", "presence_penalty",
            "frequency_penalty",
        )
        if asked.get(name) is not None
    }  # fmt: skip
    bias = {int(token): float(value) for token, value in (asked.get("logit_bias") or {}).items() if token.isdecimal()}
    sampling = replace(defaults, **given, logit_bias=bias)
    return replace(sampling, seed=None) if sampling.seed is not None and sampling.seed < 0 else sampling


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """As chat templates read it: the text in one piece, arguments of calls as objects."""
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content)
    plain = {**message, "content": content or ""}
    if calls := message.get("tool_calls"):
        plain["tool_calls"] = [{**call, "function": _function(call["function"])} for call in calls]
    return plain


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError:
        arguments = function["arguments"]
    return {**function, "arguments": arguments}

"""Our request as the body that Ollama's own API reads. Always streamed. Pure.

Ollama's names for options are llama.cpp's older ones. Of ours it has no match for `logit_bias`, `xtc_*`, `dry_*`,
`dynatemp_*`, `ignore_eos` and `cache_prompt`: these are not sent. It makes one choice per request. A tool that must be
called is the only one it is told of; that some tool must be called, or only one at a time, cannot be said there.
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson

from modelyard.errors import N_, BadRequest
from modelyard.types.chat import ImagePart, InferenceRequest, Message, ResponseFormat, TextPart, Tool

# Ours -> Ollama's; those it does not know are left out.
OPTIONS = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "presence_penalty",
    "frequency_penalty", "seed", "mirostat", "mirostat_tau", "mirostat_eta",
)  # fmt: skip


def path_of(request: InferenceRequest) -> str:
    """Where Ollama takes this request."""
    return "/api/chat" if request.is_chat else "/api/generate"


def encode_ollama(request: InferenceRequest, name: str, *, choice: int = 0) -> bytes:
    """The body that asks for one choice of this request as a stream."""
    body: dict[str, object] = {"model": name, "stream": True, "options": _options(request, choice)}
    if request.is_chat:
        body["messages"] = _messages(request.messages)
        if tools := _offered(request):
            body["tools"] = [_tool(tool) for tool in tools]
    else:
        if not isinstance(request.prompt, str):
            raise BadRequest(N_("This node takes a prompt as text, not as token numbers."), param="prompt")
        body["prompt"] = request.prompt
        if request.suffix:
            body["suffix"] = request.suffix
        else:
            body["raw"] = True  # else the model's chat template is put around it
    if (format := _format(request.response_format)) is not None:
        body["format"] = format
    if request.think is not None:
        body["think"] = request.think
    if request.keep_alive_s is not None:
        body["keep_alive"] = -1 if request.keep_alive_s < 0 else request.keep_alive_s
    if "logprobs" in request.options:
        body["logprobs"] = True
        top = request.options.get("top_logprobs", request.options["logprobs"])
        if isinstance(top, int) and not isinstance(top, bool):
            body["top_logprobs"] = top
    return orjson.dumps(body)


def _options(request: InferenceRequest, choice: int) -> dict[str, object]:
    given: Mapping[str, object] = request.options
    options: dict[str, object] = {name: given[name] for name in OPTIONS if name in given}
    if choice and isinstance(seed := given.get("seed"), int):
        options["seed"] = seed + choice  # equal seeds would make equal choices
    if request.max_tokens is not None:
        options["num_predict"] = request.max_tokens
    if request.stop:
        options["stop"] = request.stop
    if request.context_length is not None:
        options["num_ctx"] = request.context_length
    return options


def _messages(messages: tuple[Message, ...]) -> list[dict[str, object]]:
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return [_message(message, names) for message in messages]


def _message(message: Message, tool_names: Mapping[str, str]) -> dict[str, object]:
    parts = message.content if isinstance(message.content, tuple) else ()
    text = message.content if isinstance(message.content, str) else _text(parts)
    wire: dict[str, object] = {"role": message.role, "content": text}
    if images := [part.base64 for part in parts if isinstance(part, ImagePart)]:
        wire["images"] = images
    if message.reasoning is not None:
        wire["thinking"] = message.reasoning
    if message.tool_calls:
        wire["tool_calls"] = [
            {"function": {"name": call.name, "arguments": _arguments(call.arguments)}} for call in message.tool_calls
        ]
    if message.role == "tool":
        name = tool_names.get(message.tool_call_id or "") or message.name
        if name:
            wire["tool_name"] = name
    return wire


def _text(parts: tuple[object, ...]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextPart))


def _arguments(text: str) -> object:
    """Ollama wants an object; what is none, since a model wrote it, is handed on as one with the text in it."""
    try:
        value = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        value = text
    return value if isinstance(value, dict) else {"value": value}


def _offered(request: InferenceRequest) -> tuple[Tool, ...]:
    if request.tool_choice == "none":
        return ()
    kind, _colon, name = (request.tool_choice or "").partition(":")
    only = tuple(tool for tool in request.tools if kind == "function" and tool.name == name)
    return only or request.tools


def _tool(tool: Tool) -> dict[str, object]:
    function: dict[str, object] = {"name": tool.name, "description": tool.description or ""}
    function["parameters"] = tool.parameters if tool.parameters is not None else {"type": "object", "properties": {}}
    return {"type": "function", "function": function}


def _format(wanted: ResponseFormat | None) -> object:
    if wanted is None or wanted.kind == "text":
        return None
    return wanted.schema if wanted.kind == "json_schema" and wanted.schema is not None else "json"

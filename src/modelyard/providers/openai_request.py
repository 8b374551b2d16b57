"""Our request as the body an OpenAI-style server reads. Always streamed: only a stream can be cancelled and watched."""

from __future__ import annotations

import orjson

from modelyard.types.chat import ImagePart, InferenceRequest, Message, Part, ResponseFormat, Think, Tool


def path_of(request: InferenceRequest) -> str:
    """Where an OpenAI-style server takes this request."""
    return "/v1/chat/completions" if request.is_chat else "/v1/completions"


def encode_request(request: InferenceRequest, *, choice: int | None = None, progress: bool = False) -> bytes:
    """The body that asks for this request as a stream. With `choice`, one choice of several is asked for by itself.

    `progress` asks our own workers to tell how much of the prompt they have read: only then can they stop half-way.
    """
    body: dict[str, object] = {
        "model": request.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        **request.options,
    }
    if request.is_chat:
        body["messages"] = [_message(message) for message in request.messages]
    else:
        body["prompt"] = request.prompt
    if progress:
        body["return_progress"] = True
        if request.think is not None:
            body["chat_template_kwargs"] = _template_options(request.think)
    if choice is None:
        if request.choices > 1:
            body["n"] = request.choices
    elif isinstance(seed := request.options.get("seed"), int):
        body["seed"] = seed + choice  # equal seeds would make equal choices
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.stop:
        body["stop"] = request.stop
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        if request.tool_choice is not None:
            body["tool_choice"] = _tool_choice(request.tool_choice)
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls
    if request.response_format is not None:
        body["response_format"] = _response_format(request.response_format)
    return orjson.dumps(body)


def _template_options(think: Think) -> dict[str, object]:
    """What our own workers' chat templates know thinking by."""
    return {"enable_thinking": think} if isinstance(think, bool) else {"reasoning_effort": think}


def _message(message: Message) -> dict[str, object]:
    content = message.content
    wire: dict[str, object] = {
        "role": message.role,
        "content": [_part(part) for part in content] if isinstance(content, tuple) else content,
    }
    if message.name is not None:
        wire["name"] = message.name
    if message.reasoning is not None:
        wire["reasoning_content"] = message.reasoning
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    return wire


def _part(part: Part) -> dict[str, object]:
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": {"url": f"data:{part.media_type};base64,{part.base64}"}}
    return {"type": "text", "text": part.text}


def _tool(tool: Tool) -> dict[str, object]:
    function: dict[str, object] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(choice: str) -> object:
    name = choice.removeprefix("function:")
    return choice if name == choice else {"type": "function", "function": {"name": name}}


def _response_format(wanted: ResponseFormat) -> dict[str, object]:
    match wanted.kind:
        case "text":
            return {"type": "text"}
        case "json":
            return {"type": "json_object"}
        case "json_schema":
            return {"type": "json_schema", "json_schema": {"name": wanted.name, "schema": wanted.schema}}

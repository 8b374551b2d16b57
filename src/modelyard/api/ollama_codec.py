"""The bodies Ollama's clients send, as our request. The shapes are checked by then; this is what they mean."""

from __future__ import annotations

from operator import attrgetter

import msgspec

from modelyard.errors import N_, BadRequest
from modelyard.types.chat import ImagePart, InferenceRequest, Message, Part, ResponseFormat, TextPart, ToolCall

from .asked import Act, Asked
from .bodies import decode_body, invalid, json_text
from .images import image_part
from .ollama_body import (
    OPTIONS,
    OllamaChatBody,
    OllamaGenerateBody,
    OllamaMessage,
    OptionsBody,
)
from .openai_body import ARGUMENT_ITEMS_MAX
from .openai_codec import keep_alive_s, stops_of, tools_of
from .schemas import SchemaCheck

_chat = msgspec.json.Decoder(OllamaChatBody)
_generate = msgspec.json.Decoder(OllamaGenerateBody)
_option_values = attrgetter(*OPTIONS)
_NO_OPTIONS = OptionsBody()


def read_ollama_chat(data: bytes, *, streams: bool = True) -> Asked:
    """The body of a chat; `streams` is what happens where it does not say."""
    body = decode_body(data, _chat)
    schemas = SchemaCheck()
    options = body.options or _NO_OPTIONS
    request = InferenceRequest(
        model=body.model,
        messages=_messages(body.messages or []),
        tools=tools_of(body.tools, schemas) if body.tools else (),
        response_format=_response_format(body.format, schemas),
        max_tokens=_max_tokens(options),
        stop=stops_of(options.stop),
        options=_options(options) | _logprobs(body),
        context_length=options.num_ctx,
        think=body.think,
        keep_alive_s=keep_alive_s(body.keep_alive),
    )
    return _asked(request, body.stream, streams=streams, is_empty=not body.messages)


def read_ollama_generate(data: bytes, *, streams: bool = True) -> Asked:
    """The body of a text to be answered, or to be continued."""
    body = decode_body(data, _generate)
    if body.template:
        raise invalid("template", N_("the model's own template is used; a template is code"))
    if body.context:
        raise invalid("context", N_("no earlier turns are kept here: send them as the messages of /api/chat"))
    prompt, options = body.prompt or "", body.options or _NO_OPTIONS
    is_plain = bool(body.raw or body.suffix)
    if is_plain and (body.system or body.images):
        raise invalid("system" if body.system else "images", N_("raw and suffix take a prompt alone"))
    response_format = _response_format(body.format, SchemaCheck())
    request = InferenceRequest(
        model=body.model,
        messages=() if is_plain else _turns(body, prompt),
        prompt=prompt if is_plain else None,
        suffix=body.suffix or None,
        response_format=response_format,
        max_tokens=_max_tokens(options),
        stop=stops_of(options.stop),
        options=_options(options) | _logprobs(body),
        context_length=options.num_ctx,
        think=body.think,
        keep_alive_s=keep_alive_s(body.keep_alive),
    )
    return _asked(request, body.stream, streams=streams, is_empty=not prompt and not body.suffix and not body.images)


def _asked(request: InferenceRequest, stream: bool | None, *, streams: bool, is_empty: bool) -> Asked:
    act: Act = ""
    if is_empty:
        act = "unload" if request.keep_alive_s == 0 else "load"
    return Asked(request, streams if stream is None else stream, act=act)


def _turns(body: OllamaGenerateBody, prompt: str) -> tuple[Message, ...]:
    system = (Message("system", body.system),) if body.system else ()
    return (*system, Message("user", _content(prompt, body.images, "images")))


def _content(text: str, images: list[str] | None, where: str) -> str | tuple[Part, ...]:
    if not images:
        return text
    pictures: list[ImagePart] = [image_part(image, f"{where}[{at}]") for at, image in enumerate(images)]
    return (*([TextPart(text)] if text else []), *pictures)


def _messages(bodies: list[OllamaMessage]) -> tuple[Message, ...]:
    """Ollama's tool calls have no ids: they are numbered, and a result belongs to the oldest open call of its tool."""
    messages: list[Message] = []
    waiting: list[ToolCall] = []
    count = 0
    for at, body in enumerate(bodies):
        calls: list[ToolCall] = []
        for call in body.tool_calls or ():
            arguments = json_text(call.function.arguments, f"messages[{at}].tool_calls", ARGUMENT_ITEMS_MAX)
            calls.append(ToolCall(call.id or f"call_{count}", call.function.name, arguments))
            count += 1
        waiting += calls
        content = _content(body.content or "", body.images, f"messages[{at}].images")
        call_id = body.tool_call_id
        if body.role == "tool" and not call_id:
            call_id = _answered(waiting, body.tool_name) or body.tool_name or f"call_{count}"
        messages.append(
            Message(body.role, content, body.tool_name, body.thinking, tuple(calls), call_id or None)
        )  # fmt: skip
    return tuple(messages)


def _answered(waiting: list[ToolCall], tool: str | None) -> str | None:
    """The id of the call that a result is for; it waits no longer."""
    for at, call in enumerate(waiting):
        if tool is None or call.name == tool:
            return waiting.pop(at).id
    return None


def _response_format(format: str | dict[str, object] | None, schemas: SchemaCheck) -> ResponseFormat | None:
    if not format:
        return None
    if isinstance(format, dict):
        schemas.check(format, "format")
        return ResponseFormat("json_schema", format)
    if format != "json":
        raise invalid("format", N_('it is "json" or a JSON schema'))
    return ResponseFormat("json")


def _options(body: OptionsBody) -> dict[str, object]:
    return {name: value for name, value in zip(OPTIONS, _option_values(body), strict=True) if value is not None}


def _max_tokens(body: OptionsBody) -> int | None:
    """Ollama's 0, -1 (without end) and -2 (until the context is full) are no limit of ours."""
    return body.num_predict if body.num_predict is not None and body.num_predict > 0 else None


def _logprobs(body: OllamaChatBody | OllamaGenerateBody) -> dict[str, object]:
    if not body.logprobs:
        if body.top_logprobs:
            raise invalid("top_logprobs", N_("it needs logprobs: true"))
        return {}
    if isinstance(body, OllamaGenerateBody) and (body.raw or body.suffix):
        return {"logprobs": body.top_logprobs or 0}
    return {"logprobs": True, **({} if body.top_logprobs is None else {"top_logprobs": body.top_logprobs})}


def required_name(name: str) -> str:
    """The name of a model, which must be there."""
    if not name:
        raise BadRequest(N_("model is required"), param="model", hints=(N_("GET /api/tags lists them."),))
    return name

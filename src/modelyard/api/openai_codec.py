"""The bodies OpenAI's clients send, as our request. The shapes are checked by then; this is what they mean."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import msgspec
from msgspec import UNSET

from modelyard.errors import N_, BadRequest, said
from modelyard.types.chat import (
    ImagePart,
    InferenceRequest,
    Message,
    Part,
    ResponseFormat,
    TextPart,
    Think,
    Tool,
    ToolCall,
)
from modelyard.units import parse_duration

from .asked import Asked
from .bodies import decode_body, invalid, json_text
from .openai_body import (
    ARGUMENT_ITEMS_MAX,
    ASSUMED_NAME,
    OPTIONS,
    REFUSED,
    ChatBody,
    Common,
    CompletionBody,
    FormatBody,
    ImagePartBody,
    MessageBody,
    NamedChoice,
    TextPartBody,
    ToolBody,
    ToolCallBody,
)
from .schemas import SchemaCheck

PROMPT_TOKENS_MAX = 500_000
IMAGE_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/bmp")
_option_values = attrgetter(*OPTIONS)
_refused_values = attrgetter(*REFUSED)
_EFFORTS: dict[str, Think] = {
    "none": False, "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high",
}  # fmt: skip
_NONE_REFUSED = (UNSET,) * len(REFUSED)


_chat = msgspec.json.Decoder(ChatBody)
_completion = msgspec.json.Decoder(CompletionBody)


def read_chat(data: bytes) -> Asked:
    """The body of a chat completion."""
    body = decode_body(data, _chat)
    options = _options(body)
    schemas = SchemaCheck()
    if body.functions is not UNSET:
        raise invalid("functions", N_("it is replaced by tools"))
    if body.modalities is not None and body.modalities != ["text"]:
        raise invalid("modalities", N_("only text can be answered"))
    if body.logprobs:
        options["logprobs"] = True
        if body.top_logprobs is not None:
            options["top_logprobs"] = body.top_logprobs
    elif body.top_logprobs:
        raise invalid("top_logprobs", N_("it needs logprobs: true"))
    request = InferenceRequest(
        model=body.model,
        messages=tuple([_message(message, at) for at, message in enumerate(body.messages)]),
        choices=body.n or 1,
        tools=tools_of(body.tools, schemas) if body.tools else (),
        tool_choice=_tool_choice(body),
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=_response_format(body.response_format, schemas) if body.response_format else None,
        max_tokens=body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens,
        stop=stops_of(body.stop),
        options=options,
        keep_alive_s=keep_alive_s(body.keep_alive),
        context_length=body.num_ctx,
        think=_think(body),
    )
    return _asked(body, request)


def read_completion(data: bytes) -> Asked:
    """The body of a plain completion."""
    body = decode_body(data, _completion)
    options = _options(body)
    if body.echo:
        raise invalid("echo", N_("repeating the prompt is not supported"))
    if body.suffix:
        raise invalid("suffix", N_("filling in the middle is not supported"))
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise invalid("best_of", N_("it must equal n"))
    if body.logprobs is not None:
        options["logprobs"] = body.logprobs
    request = InferenceRequest(
        model=body.model,
        prompt=_prompt(body.prompt),
        choices=body.n or 1,
        max_tokens=body.max_tokens,
        stop=stops_of(body.stop),
        options=options,
        keep_alive_s=keep_alive_s(body.keep_alive),
        context_length=body.num_ctx,
    )
    return _asked(body, request)


def _asked(body: Common, request: InferenceRequest) -> Asked:
    stream = bool(body.stream)
    if body.stream_options is not None and not stream:
        raise invalid("stream_options", N_("it needs stream: true"))
    return Asked(request, stream, bool(body.stream_options and body.stream_options.include_usage))


def _options(body: Common) -> dict[str, object]:
    if _refused_values(body) != _NONE_REFUSED:
        name = next(name for name in REFUSED if getattr(body, name) is not UNSET)
        raise BadRequest(
            N_("{where} cannot be set by a request: the server decides where it goes."), param=name, where=name
        )
    if body.grammar:
        # A few bytes of grammar end llama.cpp, or keep it busy for ever; a schema can be checked.
        raise invalid("grammar", N_("grammars are not taken; response_format takes a JSON schema"))
    return {name: value for name, value in zip(OPTIONS, _option_values(body), strict=True) if value is not None}


def _think(body: ChatBody) -> Think | None:
    """Whether, and how much, the model is to reason: OpenAI's word for it, or the template's."""
    if body.reasoning_effort is not None:
        return _EFFORTS[body.reasoning_effort]
    return body.chat_template_kwargs.enable_thinking if body.chat_template_kwargs is not None else None


def _message(body: MessageBody, at: int) -> Message:
    parts: str | tuple[Part, ...] | None
    if isinstance(body.content, list):
        parts = tuple([_part(part, f"messages[{at}].content[{i}]") for i, part in enumerate(body.content)])
    else:
        parts = body.content
    if parts is None and body.role != "assistant":
        raise invalid(f"messages[{at}].content", N_("it is required"))
    return Message(
        "system" if body.role == "developer" else body.role,
        parts,
        body.name,
        body.reasoning_content if body.reasoning_content is not None else body.reasoning,
        tuple([_tool_call(call, at) for call in body.tool_calls]) if body.tool_calls else (),
        body.tool_call_id,
    )


def _part(body: TextPartBody | ImagePartBody, where: str) -> Part:
    if isinstance(body, TextPartBody):
        return TextPart(body.text)
    head, comma, data = body.image_url.url.partition(",")
    media_type = head.removeprefix("data:").removesuffix(";base64").lower()
    if not comma or not head.startswith("data:") or not head.endswith(";base64") or media_type not in IMAGE_TYPES:
        raise invalid(f"{where}.image_url.url", N_("an image must be sent inline, as data:image/png;base64,..."))
    return ImagePart(media_type, data)


def _tool_call(body: ToolCallBody, at: int) -> ToolCall:
    arguments = body.function.arguments
    if not isinstance(arguments, str):
        arguments = json_text(arguments, f"messages[{at}].tool_calls", ARGUMENT_ITEMS_MAX)
    return ToolCall(body.id, body.function.name, arguments)


def tools_of(bodies: list[ToolBody], schemas: SchemaCheck) -> tuple[Tool, ...]:
    if len({body.function.name for body in bodies}) < len(bodies):
        raise invalid("tools", N_("two functions have the same name"))
    return tuple([_tool(body, at, schemas) for at, body in enumerate(bodies)])


def _tool(body: ToolBody, at: int, schemas: SchemaCheck) -> Tool:
    function = body.function
    if function.parameters:
        schemas.check(function.parameters, f"tools[{at}].function.parameters")
    return Tool(function.name, function.description, function.parameters, function.strict)


def _tool_choice(body: ChatBody) -> str | None:
    choice = body.tool_choice
    if not isinstance(choice, NamedChoice):
        return choice
    name = choice.function.name
    if not any(tool.function.name == name for tool in body.tools or ()):
        raise invalid("tool_choice", N_("it names a function that is not among the tools"))
    return f"function:{name}"


def _response_format(body: FormatBody, schemas: SchemaCheck) -> ResponseFormat:
    schema, name = body.schema, ASSUMED_NAME
    if body.json_schema is not None:
        schema, name = body.json_schema.schema, body.json_schema.name
    if body.type == "text":
        return ResponseFormat()
    if body.type == "json_schema" and schema is None:
        raise invalid("response_format.json_schema", N_("it is required with this type"))
    if schema is None:
        return ResponseFormat("json")
    schemas.check(schema, "response_format.json_schema.schema")
    return ResponseFormat("json_schema", schema, name)


def _prompt(prompt: str | list[Any]) -> str | tuple[int, ...]:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and isinstance(prompt[0], str | list):
        return _prompt(prompt[0])
    if not prompt or any(type(item) is not int for item in prompt):
        raise invalid("prompt", N_("one text or one list of token ids is expected; send several prompts one by one"))
    return token_ids(prompt, "prompt")


def token_ids(given: list[Any], where: str) -> tuple[int, ...]:
    """A text as token ids, each of which may exist."""
    if not given or len(given) > PROMPT_TOKENS_MAX or any(type(item) is not int for item in given):
        raise invalid(
            where, said("1 to {prompt_tokens_max} token ids are expected", prompt_tokens_max=PROMPT_TOKENS_MAX)
        )
    if min(given) < 0 or max(given) >= 2**31:
        raise invalid(where, N_("a token id is not possible"))
    return tuple(given)


def stops_of(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    return tuple(text for text in stops if text)


def keep_alive_s(value: str | float | None) -> float | None:
    if value is None:
        return None
    try:
        return parse_duration(value)
    except ValueError as exc:
        raise invalid("keep_alive", str(exc)[:200]) from None

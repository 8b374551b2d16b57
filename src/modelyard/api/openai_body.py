"""The shapes of the bodies OpenAI's clients send: every member we know, with its type and range.

Three kinds of members. What we know is checked here, so that a worker never sees an impossible number. What would
choose where a request goes, or with whose key, is named only to be refused. Everything else is dropped.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

MESSAGES_MAX = 2048  # llama.cpp's templates take seconds for more
PARTS_MAX = 1024
CHOICES_MAX = 8
TOOLS_MAX = 256
STOPS_MAX = 16
ARGUMENT_ITEMS_MAX = 100_000  # of one tool call, sent as an object
CONTEXT_MAX = 16_777_216
ASSUMED_NAME = "answer"

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Short = Annotated[str, Meta(max_length=512)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Upto20 = Annotated[int, Meta(ge=0, le=20)]
Seed = Annotated[int, Meta(ge=-1, le=2**32 - 1)]
Temperature = Annotated[float, Meta(ge=0, le=5)]
Ratio = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Factor = Annotated[float, Meta(ge=0, le=10)]
TopK = Annotated[int, Meta(ge=0, le=1_000_000)]
LastTokens = Annotated[int, Meta(ge=0, le=1_000_000)]
Bias = Annotated[float, Meta(ge=-100, le=100)]


class Common(msgspec.Struct):
    """What chats and plain completions share."""

    model: Annotated[str, Meta(max_length=512)] = ""  # the default model, if there is one
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None = None
    max_tokens: Count | None = None
    stop: str | Annotated[list[Annotated[str, Meta(max_length=512)]], Meta(max_length=STOPS_MAX)] | None = None
    keep_alive: str | float | None = None
    num_ctx: Annotated[int, Meta(ge=1, le=CONTEXT_MAX)] | None = None
    # Sampling: sent on as they are.
    temperature: Temperature | None = None
    top_p: Ratio | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    logit_bias: Annotated[dict[Annotated[str, Meta(max_length=10)], Bias], Meta(max_length=1024)] | None = None
    # Sampling the engines add to it, under llama.cpp's names.
    top_k: TopK | None = None
    min_p: Ratio | None = None
    typical_p: Ratio | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    repeat_last_n: LastTokens | None = None
    dynatemp_range: Factor | None = None
    dynatemp_exponent: Factor | None = None
    mirostat: Annotated[int, Meta(ge=0, le=2)] | None = None
    mirostat_tau: Annotated[float, Meta(ge=0, le=100)] | None = None
    mirostat_eta: Ratio | None = None
    xtc_probability: Ratio | None = None
    xtc_threshold: Ratio | None = None
    dry_multiplier: Factor | None = None
    dry_base: Factor | None = None
    dry_allowed_length: TopK | None = None
    dry_penalty_last_n: LastTokens | None = None
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None
    grammar: str | None = None  # named only to be refused
    # A caller never chooses where a request goes or with which credentials.
    api_base: Raw | UnsetType = UNSET
    api_key: Raw | UnsetType = UNSET
    api_version: Raw | UnsetType = UNSET
    base_url: Raw | UnsetType = UNSET
    custom_llm_provider: Raw | UnsetType = UNSET
    extra_body: Raw | UnsetType = UNSET
    extra_headers: Raw | UnsetType = UNSET
    extra_query: Raw | UnsetType = UNSET
    headers: Raw | UnsetType = UNSET
    proxies: Raw | UnsetType = UNSET
    proxy: Raw | UnsetType = UNSET


REFUSED = (
    "api_base", "api_key", "api_version", "base_url", "custom_llm_provider", "extra_body", "extra_headers",
    "extra_query", "headers", "proxies", "proxy",
)  # fmt: skip
OPTIONS = (
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "logit_bias", "top_k", "min_p",
    "typical_p", "repeat_penalty", "repeat_last_n", "dynatemp_range", "dynatemp_exponent", "mirostat", "mirostat_tau",
    "mirostat_eta", "xtc_probability", "xtc_threshold", "dry_multiplier", "dry_base", "dry_allowed_length",
    "dry_penalty_last_n", "ignore_eos", "cache_prompt",
)  # fmt: skip


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class TextPartBody(msgspec.Struct, tag="text"):
    text: str


class ImageAddress(msgspec.Struct):
    url: str
    detail: str | None = None


class ImagePartBody(msgspec.Struct, tag="image_url"):
    image_url: ImageAddress


class FunctionCall(msgspec.Struct):
    name: Name
    arguments: str | dict[str, Any] = ""


class ToolCallBody(msgspec.Struct):
    function: FunctionCall
    id: Short = ""
    type: Literal["function"] = "function"


class MessageBody(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPartBody | ImagePartBody], Meta(max_length=PARTS_MAX)] | None = None
    name: Short | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Annotated[list[ToolCallBody], Meta(max_length=TOOLS_MAX)] | None = None
    tool_call_id: Short | None = None


class FunctionBody(msgspec.Struct):
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(msgspec.Struct):
    function: FunctionBody
    type: Literal["function"] = "function"


class NamedFunction(msgspec.Struct):
    name: Name


class NamedChoice(msgspec.Struct):
    function: NamedFunction
    type: Literal["function"] = "function"


class SchemaBody(msgspec.Struct):
    schema: dict[str, Any] | None = None
    name: Short = ASSUMED_NAME
    strict: bool | None = None


class FormatBody(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaBody | None = None
    schema: dict[str, Any] | None = None  # llama.cpp's own place for it


class TemplateOptions(msgspec.Struct):
    """The variables of a chat template a caller may set; a template is code, so there are few."""

    enable_thinking: bool | None = None


class ChatBody(Common, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[MessageBody], Meta(min_length=1, max_length=MESSAGES_MAX)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Upto20 | None = None
    tools: Annotated[list[ToolBody], Meta(max_length=TOOLS_MAX)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: FormatBody | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    chat_template_kwargs: TemplateOptions | None = None
    functions: Raw | UnsetType = UNSET
    modalities: list[Short] | None = None


class CompletionBody(Common, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[Any]
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    best_of: int | None = None
    echo: bool | None = None
    suffix: str | None = None

"""The shapes of the bodies Ollama's clients send: every member we know, with its type and range.

Options we do not know are dropped, so that none reaches an engine unchecked. Names its own clients still send under
an older spelling (`name` for `model`) are read, too.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .openai_body import (
    CONTEXT_MAX,
    MESSAGES_MAX,
    STOPS_MAX,
    TOOLS_MAX,
    Factor,
    Name,
    Penalty,
    Ratio,
    Seed,
    Short,
    Temperature,
    ToolBody,
    TopK,
    Upto20,
)

IMAGES_MAX = 64
INPUTS_MAX = 2048

ModelName = Annotated[str, Meta(max_length=512)]
Images = Annotated[list[str], Meta(max_length=IMAGES_MAX)]
KeepAlive = str | float
Think = bool | Literal["low", "medium", "high"]
Schema = dict[str, Any]


class OptionsBody(msgspec.Struct):
    """`options`: what counts of it. A `null` is as good as nothing."""

    num_ctx: Annotated[int, Meta(ge=1, le=CONTEXT_MAX)] | None = None
    num_predict: Annotated[int, Meta(ge=-2, le=2**31 - 1)] | None = None
    stop: str | Annotated[list[Annotated[str, Meta(max_length=512)]], Meta(max_length=STOPS_MAX)] | None = None
    temperature: Temperature | None = None
    top_k: TopK | None = None
    top_p: Ratio | None = None
    min_p: Ratio | None = None
    typical_p: Ratio | None = None
    seed: Seed | None = None
    repeat_last_n: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    repeat_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    mirostat: Annotated[int, Meta(ge=0, le=2)] | None = None
    mirostat_tau: Annotated[float, Meta(ge=0, le=100)] | None = None
    mirostat_eta: Factor | None = None


OPTIONS = (
    "temperature", "top_k", "top_p", "min_p", "typical_p", "seed", "repeat_last_n", "repeat_penalty",
    "presence_penalty", "frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta",
)  # fmt: skip


class _Asking(msgspec.Struct):
    model: ModelName = ""  # the default model, if there is one
    stream: bool | None = None
    format: str | Schema | None = None
    options: OptionsBody | None = None
    keep_alive: KeepAlive | None = None
    think: Think | None = None
    logprobs: bool | None = None
    top_logprobs: Upto20 | None = None


class CallFunction(msgspec.Struct):
    name: Name
    arguments: dict[str, Any] = {}


class CallBody(msgspec.Struct):
    function: CallFunction
    id: Short = ""


class OllamaMessage(msgspec.Struct):
    """One turn. The text of a tool's result names the tool in `tool_name`."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Images | None = None
    tool_calls: Annotated[list[CallBody], Meta(max_length=TOOLS_MAX)] | None = None
    tool_name: Short | None = None
    tool_call_id: Short | None = None


class OllamaChatBody(_Asking, kw_only=True):
    """POST /api/chat and /api/v1/llm/chat."""

    messages: Annotated[list[OllamaMessage], Meta(max_length=MESSAGES_MAX)] | None = None
    tools: Annotated[list[ToolBody], Meta(max_length=TOOLS_MAX)] | None = None


class OllamaGenerateBody(_Asking, kw_only=True):
    """POST /api/generate and /api/v1/llm/generate."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None
    images: Images | None = None
    template: str | None = None  # named only to be refused
    context: list[Any] | None = None  # this, too


class OllamaEmbedBody(msgspec.Struct, kw_only=True):
    """POST /api/embed and /api/v1/llm/embeddings."""

    model: ModelName = ""
    input: str | Annotated[list[str], Meta(max_length=INPUTS_MAX)] | None = None
    truncate: bool | None = None
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    keep_alive: KeepAlive | None = None


class OllamaEmbeddingsBody(msgspec.Struct, kw_only=True):
    """POST /api/embeddings."""

    model: ModelName = ""
    prompt: str | None = None
    keep_alive: KeepAlive | None = None


class OllamaModelBody(msgspec.Struct, kw_only=True):
    """A body that names a model: /api/show, /api/pull, /api/delete."""

    model: ModelName = ""
    name: ModelName = ""  # as older clients call it
    verbose: bool | None = None
    node: Short = ""
    stream: bool | None = None
    insecure: bool | None = None

    @property
    def wanted(self) -> str:
        return self.model or self.name


class OllamaCopyBody(msgspec.Struct, kw_only=True):
    """POST /api/copy."""

    source: ModelName
    destination: ModelName
    node: Short = ""

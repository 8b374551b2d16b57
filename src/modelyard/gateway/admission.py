"""Which of a name's models a caller may use, and which can do what is asked. Pure; asked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator

from modelyard.errors import (
    CapabilityMissing,
    ContextLengthExceeded,
    ModelFileError,
    ModelNotAllowed,
    ModelNotFound,
    NoNodeAvailable,
    YardError,
)
from modelyard.types.chat import ImagePart, InferenceRequest
from modelyard.types.embeddings import EmbedRequest, RerankRequest
from modelyard.types.model import Candidates, Capability, Model

from .keys import Caller

Asked = InferenceRequest | EmbedRequest | RerankRequest
# Options that only some engines know, and the value that asks for nothing.
_NOTHING: dict[str, object] = {
    "mirostat": 0, "typical_p": 1, "dynatemp_range": 0, "xtc_probability": 0, "dry_multiplier": 0,
}  # fmt: skip


# Nobody has the model, or nobody a sound copy of it, or the node it is asked of was never seen.
Missed = ModelNotFound | ModelFileError | NoNodeAvailable


def name_of(missed: Missed) -> str:
    """Of the model that nobody has."""
    return str(missed.fields.get("model", "")).lower()


def fit_for(caller: Caller, candidates: Candidates, request: Asked) -> Candidates:
    """Those that this caller may use and that can do this; the reason against the first if there are none."""
    kept: list[Model] = []
    why: YardError | None = None
    for model in candidates.models:
        try:
            check_allowed(caller, model)
            check_possible(model, request)
        except YardError as error:
            why = why or error
        else:
            kept.append(model)
    if not kept:
        assert why is not None, "a name leads to at least one model"
        raise why
    return (
        candidates if len(kept) == len(candidates.models) else Candidates(candidates.name, tuple(kept), candidates.pick)
    )


def check_allowed(caller: Caller, model: Model) -> None:
    """Refuse a model that this caller's key is not for."""
    if not caller.may_use(model.name):
        raise ModelNotAllowed(model=model.name)


def check_possible(model: Model, request: Asked) -> None:
    """Refuse what this model cannot do, before anything is loaded for it."""
    if not isinstance(request, InferenceRequest):
        wanted = Capability.EMBED if isinstance(request, EmbedRequest) else Capability.RERANK
        if wanted not in model.capabilities:
            raise CapabilityMissing(model=model.name, capability=wanted.value)
        return
    needed = Capability.CHAT if request.is_chat else Capability.COMPLETION
    if needed not in model.capabilities:
        raise CapabilityMissing(model=model.name, capability=needed.value)
    if Capability.IMAGES not in model.capabilities and _has_image(request):
        raise CapabilityMissing(model=model.name, capability=Capability.IMAGES.value)
    if request.tools and Capability.TOOLS not in model.capabilities:
        raise CapabilityMissing(model=model.name, capability=Capability.TOOLS.value)
    if lacking := next((name for name in _wanted(request) if name in model.lacks), ""):
        raise CapabilityMissing(model=model.name, capability=lacking)
    if isinstance(request.prompt, tuple) and model.context_length and len(request.prompt) >= model.context_length:
        raise ContextLengthExceeded(
            prompt_tokens=len(request.prompt), model=model.name, context_length=model.context_length
        )


def _wanted(request: InferenceRequest) -> Iterator[str]:
    """What this request needs that not every engine has."""
    if request.response_format is not None and request.response_format.kind != "text":
        yield request.response_format.kind
    if request.tool_choice not in (None, "auto", "none"):
        yield "tool_choice"
    if request.suffix:
        yield "suffix"
    options = request.options
    if options.get("logprobs", False) is not False:
        yield "logprobs"
    yield from (name for name, nothing in _NOTHING.items() if options.get(name, nothing) != nothing)


def _has_image(request: InferenceRequest) -> bool:
    return any(
        isinstance(message.content, tuple) and any(isinstance(part, ImagePart) for part in message.content)
        for message in request.messages
    )

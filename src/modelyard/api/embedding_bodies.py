"""The bodies that ask for vectors, in OpenAI's words and in Ollama's, as our request. Ranges are checked here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from modelyard.errors import N_, said
from modelyard.types.embeddings import EmbedRequest

from .bodies import decode_body, invalid
from .ollama_body import INPUTS_MAX, ModelName, OllamaEmbedBody, OllamaEmbeddingsBody
from .openai_codec import PROMPT_TOKENS_MAX, keep_alive_s, token_ids

Encoding = Literal["float", "base64"]


class EmbeddingsBody(msgspec.Struct, kw_only=True):
    """POST /v1/embeddings."""

    input: str | list[Any]
    model: ModelName = ""
    encoding_format: Encoding | None = None
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    keep_alive: str | float | None = None


@dataclass(frozen=True, slots=True)
class EmbedAsked:
    """What is wanted, and how its answer is to be written."""

    request: EmbedRequest
    encoding: Encoding = "float"


_embeddings = msgspec.json.Decoder(EmbeddingsBody)
_ollama = msgspec.json.Decoder(OllamaEmbedBody)
_legacy = msgspec.json.Decoder(OllamaEmbeddingsBody)


def read_embeddings(data: bytes) -> EmbedAsked:
    """OpenAI's body."""
    body = decode_body(data, _embeddings)
    request = EmbedRequest(
        body.model, _inputs(body.input), body.dimensions, truncate=False, keep_alive_s=keep_alive_s(body.keep_alive)
    )
    return EmbedAsked(request, body.encoding_format or "float")


def read_ollama_embed(data: bytes) -> EmbedAsked:
    """Ollama's body. Nothing to embed is no error there."""
    body = decode_body(data, _ollama)
    texts = (body.input,) if isinstance(body.input, str) else tuple(body.input or ())
    truncate = body.truncate is not False
    return EmbedAsked(
        EmbedRequest(
            body.model, texts if texts != ("",) else (), body.dimensions, truncate, keep_alive_s(body.keep_alive)
        )
    )


def read_ollama_embeddings(data: bytes) -> EmbedAsked:
    """Ollama's older body: one text."""
    body = decode_body(data, _legacy)
    texts = (body.prompt,) if body.prompt else ()
    return EmbedAsked(EmbedRequest(body.model, texts, keep_alive_s=keep_alive_s(body.keep_alive)))


def _inputs(given: str | list[Any]) -> tuple[str | tuple[int, ...], ...]:
    """One text, several, one list of token numbers, or several."""
    if isinstance(given, list) and given and type(given[0]) is int:
        return (token_ids(given, "input"),)
    several = [given] if isinstance(given, str) else given
    if not several or len(several) > INPUTS_MAX:
        raise invalid("input", said("1 to {inputs_max} inputs are expected", inputs_max=INPUTS_MAX))
    inputs: list[str | tuple[int, ...]] = []
    left = PROMPT_TOKENS_MAX
    for at, one in enumerate(several):
        if isinstance(one, list):
            inputs.append(tokens := token_ids(one, f"input[{at}]"))
            left -= len(tokens)
        elif isinstance(one, str) and one:
            inputs.append(one)
        else:
            raise invalid(f"input[{at}]", N_("a text that is not empty, or a list of token ids, is expected"))
    if left < 0:
        raise invalid(
            "input", said("it has more than {prompt_tokens_max} token ids", prompt_tokens_max=PROMPT_TOKENS_MAX)
        )
    return tuple(inputs)

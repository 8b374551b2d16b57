"""Vectors and scores by one worker: a request is cut into questions that the worker can take, and put together again.

llama.cpp is asked for one input at a time: it computes one after the other anyway, and tells the tokens of a whole
question only. Our own workers sort and cut what they get by themselves; they get bounded parts, so that who leaves is
noticed between two of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec
import orjson

from modelyard.engines import llamacpp
from modelyard.errors import N_, BadRequest, ContextLengthExceeded, UpstreamInvalid
from modelyard.types.embeddings import (
    EmbedAnswer,
    EmbedRequest,
    Input,
    RerankAnswer,
    RerankRequest,
    Vector,
    shortened,
)
from modelyard.types.model import Model

from .vectors_wire import EMBED_PATH, RERANK_PATH, decode_embed, decode_rerank, encode_embed, encode_rerank
from .worker_ask import WorkerAsk

INPUTS_AT_ONCE_MAX = {llamacpp.NAME: 1}
INPUTS_MAX = 64  # of every other engine
CHARS_AT_ONCE_MAX = 256 * 1024

_Item = TypeVar("_Item", str, Input)


class _Tokens(msgspec.Struct):
    tokens: list[int]


async def embedded(ask: WorkerAsk, model: Model, request: EmbedRequest, context_length: int) -> EmbedAnswer:
    """A vector for each input. `context_length` is the worker's; 0: nobody knows."""
    vectors: list[Vector] = []
    counts: list[int] = []
    for part in parts(request.inputs, INPUTS_AT_ONCE_MAX.get(model.engine, INPUTS_MAX)):
        try:
            answer = await _asked(ask, part, request.truncate, context_length)
        except ContextLengthExceeded as error:
            error.param = "input" if len(request.inputs) == 1 else f"input[{len(vectors) + _place(error)}]"
            raise
        vectors += answer.vectors
        counts += answer.counts
    if request.dimensions is not None:
        vectors = [shortened(vector, _checked(request.dimensions, vector, model)) for vector in vectors]
    return EmbedAnswer(tuple(vectors), sum(counts), tuple(counts))


async def reranked(ask: WorkerAsk, model: Model, request: RerankRequest) -> RerankAnswer:
    """A score for each document."""
    scores: list[float] = []
    tokens = 0
    for part in parts(request.documents, INPUTS_MAX):
        try:
            raw = await ask.ask(RERANK_PATH, encode_rerank("model", request.query, part))
        except ContextLengthExceeded as error:
            error.param = f"documents[{len(scores) + _place(error)}]" if "place" in error.fields else "documents"
            raise
        answer = decode_rerank(ask.source, raw, len(part))
        scores += answer.scores
        tokens += answer.input_tokens
    return RerankAnswer(tuple(scores), tokens)


def parts(items: Sequence[_Item], count_max: int, chars_max: int = CHARS_AT_ONCE_MAX) -> Iterator[list[_Item]]:
    """Neighbours together, as many as allowed; one that is too large by itself is alone.

    >>> list(parts(["a", "bb", "ccc", "d"], 3, chars_max=3))
    [['a', 'bb'], ['ccc'], ['d']]
    """
    together: list[_Item] = []
    chars = 0
    for item in items:
        if together and (len(together) >= count_max or chars + len(item) > chars_max):
            yield together
            together, chars = [], 0
        together.append(item)
        chars += len(item)
    if together:
        yield together


CUT_HINTS = (N_("Cut the text into shorter ones; Ollama's paths cut it at the context, unless `truncate` is false."),)


async def _asked(ask: WorkerAsk, part: list[Input], truncate: bool, context_length: int) -> EmbedAnswer:
    """One question. Who cannot cut an input that is too long is given it cut."""
    try:
        return decode_embed(ask.source, await ask.ask(EMBED_PATH, encode_embed(part, truncate=truncate)), len(part))
    except ContextLengthExceeded as error:
        if not truncate or not context_length or len(part) != 1:
            error.hints = CUT_HINTS
            raise
    cut: list[Input] = [await _cut(ask, part[0], context_length)]
    return decode_embed(ask.source, await ask.ask(EMBED_PATH, encode_embed(cut, truncate=False)), 1)


async def _cut(ask: WorkerAsk, given: Input, context_length: int) -> tuple[int, ...]:
    """As many tokens as fit, with what the tokenizer puts at the end of every text."""
    tokens = given if isinstance(given, tuple) else await _tokens(ask, given)
    nothing = () if isinstance(given, tuple) else await _tokens(ask, "")
    ending = nothing[-1:] if nothing and tokens[-1:] == nothing[-1:] else ()
    return (*tokens[: context_length - len(ending)], *ending)


def _place(error: ContextLengthExceeded) -> int:
    place = error.fields.get("place")
    return place if isinstance(place, int) else 0


async def _tokens(ask: WorkerAsk, text: str) -> tuple[int, ...]:
    raw = await ask.ask("/tokenize", orjson.dumps({"content": text, "add_special": True, "parse_special": False}))
    try:
        return tuple(msgspec.json.decode(raw, type=_Tokens).tokens)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise UpstreamInvalid(provider=ask.source, problem=N_("its tokens cannot be read")) from exc


def _checked(dimensions: int, vector: Vector, model: Model) -> int:
    known = model.metadata.get("matryoshka_dimensions")
    if dimensions > len(vector):
        raise BadRequest(
            N_("{model} has vectors of {width} numbers, and {dimensions} were asked for."), param="dimensions",
            model=model.name, width=len(vector), dimensions=dimensions,
        )  # fmt: skip
    if isinstance(known, tuple) and dimensions not in known and dimensions != len(vector):
        raise BadRequest(
            N_("{model} was trained for vectors of {known} numbers, and {dimensions} were asked for."),
            param="dimensions", model=model.name, known=", ".join(map(str, known)), dimensions=dimensions,
        )  # fmt: skip
    return dimensions

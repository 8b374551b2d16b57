"""What can be asked of an Ollama server, as plain values: path, body, and what asking means. Pure; knows no transport.

What asking means decides about asking again: a look changes nothing, work costs the server time, a pull can be resumed.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from modelyard.errors import OllamaServiceError

# Members beside `options`; whatever else a caller names is a sampling option.
GENERATE_MEMBERS = frozenset(
    ("system", "format", "keep_alive", "think", "images", "template",
     "suffix", "raw", "context", "truncate", "shift", "logprobs", "top_logprobs")
)  # fmt: skip
CHAT_MEMBERS = frozenset(
    ("tools", "format", "keep_alive", "think", "truncate", "shift", "logprobs", "top_logprobs")
)  # fmt: skip
EMBED_MEMBERS = frozenset(("keep_alive", "truncate", "dimensions"))


class Kind(Enum):
    """What a question does at the server."""

    LOOK = "look"  # changes nothing
    WORK = "work"  # a generation, an embedding, a load, an unload
    PULL = "pull"  # whatever arrived stays there


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask. Without a body it is a GET."""

    path: str
    kind: Kind = Kind.LOOK
    body: Mapping[str, Any] | None = None
    is_answer_done: bool = False  # the answer says `done`, or it is cut

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"

    @property
    def model(self) -> str:
        return str(self.body.get("model", "")) if self.body else ""


VERSION = Question("/api/version")
TAGS = Question("/api/tags")
PS = Question("/api/ps")


def show(model: str) -> Question:
    return Question("/api/show", body={"model": model})


def pull(model: str) -> Question:
    return Question("/api/pull", Kind.PULL, {"model": model, "stream": True})


def generate(model: str, prompt: str | None, *, stream: bool, options: Mapping[str, Any]) -> Question:
    if prompt is None:  # the model has a default and stands first, so Python cannot say this for us
        raise TypeError("generate() needs a prompt")
    body = {"model": model, "prompt": prompt, "stream": stream, **sorted_members(options, GENERATE_MEMBERS)}
    if "images" in body:
        body["images"] = images(body["images"])
    return Question("/api/generate", Kind.WORK, body, is_answer_done=True)


def chat(model: str, messages: Sequence[Mapping[str, Any]], *, stream: bool, options: Mapping[str, Any]) -> Question:
    members = sorted_members(options, CHAT_MEMBERS)
    body = {"model": model, "messages": [_message(one) for one in messages], "stream": stream, **members}
    return Question("/api/chat", Kind.WORK, body, is_answer_done=True)


def embed(model: str, texts: str | Sequence[str], options: Mapping[str, Any]) -> Question:
    given = texts if isinstance(texts, str) else list(texts)
    return Question("/api/embed", Kind.WORK, {"model": model, "input": given, **sorted_members(options, EMBED_MEMBERS)})


def load(model: str, keep_alive: float | str | None) -> Question:
    """A prompt of nothing brings a model in."""
    return generate(model, "", stream=False, options={"keep_alive": keep_alive})


def load_embedder(model: str, keep_alive: float | str | None) -> Question:
    """The same for a model that makes embeddings only, and refuses the other way."""
    return embed(model, "", {"keep_alive": keep_alive})


def makes_embeddings_only(error: OllamaServiceError) -> bool:
    """Whether a load was refused for this reason."""
    return "does not support generate" in str(error.fields.get("problem", ""))


def unload(model: str) -> Question:
    return chat(model, [], stream=False, options={"keep_alive": 0})


def sorted_members(given: Mapping[str, Any], members: frozenset[str]) -> dict[str, Any]:
    """What stands beside `options`, and `options` with all the rest. None means: not said.

    >>> sorted_members({"top_k": 3, "system": "Be brief.", "seed": None, "options": {"num_ctx": 8}}, GENERATE_MEMBERS)
    {'system': 'Be brief.', 'options': {'num_ctx': 8, 'top_k': 3}}
    """
    said = {name: value for name, value in given.items() if value is not None}
    options = dict(said.pop("options", {}))
    beside = {name: said.pop(name) for name in list(said) if name in members}
    options.update(said)
    return {**beside, "options": options} if options else beside


def images(given: Any) -> list[str]:
    """Pictures as the wire has them: bytes become base64, a text is base64 already."""
    pictures = [given] if isinstance(given, str | bytes | bytearray) else given
    return [one if isinstance(one, str) else base64.b64encode(one).decode("ascii") for one in pictures]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    body = dict(message)
    if body.get("images"):
        body["images"] = images(body["images"])
    return body

"""Models as values: the name a caller wrote, and what is known about one servable model."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from modelyard.errors import N_

from .facts import ModelFacts
from .memory import Footprint

# best: by everything we know. warm: one in memory, if any is. first: the first until it is full, then the next.
Pick = Literal["best", "warm", "first"]
_REF = re.compile(r"([\w][\w./+-]*?)(?::([\w][\w.+-]*))?(?:@([\w.-]+))?")
NAME_CHARS_MAX = 256


class Capability(StrEnum):
    """What a model can be asked for."""

    CHAT = "chat"
    COMPLETION = "completion"
    EMBED = "embed"
    RERANK = "rerank"
    TOOLS = "tools"
    IMAGES = "images"
    THINKING = "thinking"


Purpose = Literal["chat", "embedding", "rerank"]  # what a model is for
VECTORS_GROUP = "(vectors)"  # the group of models that embed or rank and name no other; no setting can name it
Kind = Literal["local", "ollama", "openai"]  # who brings a model into memory: we, an Ollama node, or nobody here


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model name as the caller wrote it: `[namespace/]name[:tag][@node]`. Case does not matter when matching.

    >>> ModelRef.parse("org/Qwen:4b@gpu1")
    ModelRef(name='org/Qwen', tag='4b', node='gpu1')
    >>> ModelRef.parse("llama").tag
    'latest'
    """

    name: str
    tag: str = "latest"
    node: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Raise `ValueError` for what cannot be a name."""
        match = _REF.fullmatch(text) if len(text) <= NAME_CHARS_MAX else None
        if match is None or any(part in ("", ".", "..") for part in match[1].split("/")):
            raise ValueError(N_("not a model name; expected [namespace/]name[:tag][@node]"))
        return cls(match[1], match[2] or "latest", match[3])


@dataclass(frozen=True, slots=True)
class Model:
    """One servable thing: files here and the engine that serves them, or a copy that another node has.

    Of a copy the name is `name@node`; its `bare_name` may be that of other copies, here and elsewhere.
    """

    name: str  # canonical: lower case, without the tag `latest`
    engine: str
    files: tuple[Path, ...] = ()
    size_bytes: int = 0
    modified_at: float = 0.0  # seconds since 1970
    format: str = ""  # gguf, safetensors, ...
    architecture: str = ""
    parameter_count: int | None = None
    quantization: str = ""
    context_length: int | None = None  # what the model was trained for
    capabilities: frozenset[Capability] = frozenset()
    identity: str = ""  # changes when the files change: name, size, modification time and header
    aliases: tuple[str, ...] = ()
    problem: str = ""  # why it cannot be served, for a damaged file; empty when all is well
    facts: ModelFacts | None = None  # what its header says about memory
    lacks: frozenset[str] = frozenset()  # what requests may ask for and its engine has not: json_schema, logprobs, ...
    metadata: dict[str, object] = field(default_factory=dict)
    kind: Kind = "local"
    node: str = ""  # who has it; empty: we
    node_model: str = ""  # what it is called there
    digest: str = ""  # of its files, as that node tells it, or as our store knows it
    is_stored: bool = False  # its files are in our store, under this very name

    @property
    def bare_name(self) -> str:
        """The name without the node."""
        return self.name.partition("@")[0]

    @property
    def purpose(self) -> Purpose:
        """What it is for: one that writes, and embeds besides, is for chats."""
        if self.capabilities & {Capability.CHAT, Capability.COMPLETION}:
            return "chat"
        if Capability.RERANK in self.capabilities:
            return "rerank"
        return "embedding" if Capability.EMBED in self.capabilities else "chat"


def model_at(node: str, kind: Kind, node_model: str, **known: Any) -> Model:
    """A copy of a model as another node has it; `known` are further fields. Raises `ValueError` for what is no name.

    >>> model_at("studio", "ollama", "Llama3.1:latest").name
    'llama3.1@studio'
    """
    ModelRef.parse(node_model)
    if "@" in node_model:
        raise ValueError(N_("a model of a node cannot be named after another node"))
    name = f"{node_model.lower().removesuffix(':latest')}@{node}"
    given = {"engine": kind, "identity": f"{kind}:{name}", **known}
    return Model(name, kind=kind, node=node, node_model=node_model, **given)


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a name leads to: every model that may answer for it, and how one of them is picked."""

    name: str  # as listed, without a node
    models: tuple[Model, ...]  # local ones first, then in the configured order of kinds
    pick: Pick = "best"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What residency must know to place one model: its size, its slots, and how long it takes to come back."""

    name: str
    identity: str  # of the model and its launch options but the context: of two equal ones the larger context serves
    footprint: Footprint
    slots: int = 1
    load_s_expected: float = 1.0
    idle_ttl_s: float | None = None  # this model's own idle TTL; negative is for ever, None the node's default
    pinned: bool = False  # pinned by configuration
    kind: Kind = "local"
    purpose: Purpose = "chat"
    context_length: int = 0  # per slot; 0: it has none, or nobody knows
    weight: float = 1.0  # multiplies what it costs to bring back: heavier ones are evicted later
    priority: int = 0  # who waits for a higher one gets memory first; nobody is overtaken without bound
    group: str = ""  # of a group only so many are in memory at a time
    rungs: tuple[ModelSpec, ...] = ()  # smaller ways to start it, the best first, each with its own prediction
    degraded: tuple[str, ...] = ()  # what this rung gives up: `context_length=4096`

    @property
    def ways(self) -> tuple[ModelSpec, ...]:
        """Every way to start it, the full one first."""
        return (self, *self.rungs)

    def serves(self, wanted: ModelSpec) -> bool:
        """Whether a resident started like this serves who wants `wanted`, or one of its rungs."""
        if self is wanted or (self.identity == wanted.identity and self.context_length >= wanted.context_length):
            return True
        return bool(self.degraded) and any(
            self.identity == rung.identity and self.context_length >= rung.context_length for rung in wanted.rungs
        )

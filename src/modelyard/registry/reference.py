"""What a person writes to name a model of a registry, parsed. Pure.

hf:org/repo                   a repository of the Hugging Face hub; hf.co/org/repo means the same
hf:org/repo:Q4_K_M            of its GGUF files those with this quantisation; or one file, by name
hf:org/repo:Q4_K_M@v1.1       at this branch, tag or commit
ollama:llama3.1:8b            from the folder of the Ollama server on this machine
ollama:llama3.1:8b@studio     from the node of that name, into our store
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelyard.errors import N_
from modelyard.models.manifest import canonical, checked_path
from modelyard.types.model import ModelRef

REFERENCE_CHARS_MAX = 300
_HUB = re.compile(r"(?:hf:|(?:https://)?(?:hf\.co|huggingface\.co)/)", re.IGNORECASE)
_OLLAMA = "ollama:"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[\w-][\w.-]*)*", re.ASCII)
_REVISION_CHARS_MAX = 100
_NODE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class HubReference:
    """A repository of a hub, and what of it."""

    repository: str  # org/name
    what: str = ""  # a quantisation or a file; empty: what is best for most
    revision: str = ""  # empty: the main branch

    @property
    def source(self) -> str:
        """As it is written down."""
        what, revision = f":{self.what}" if self.what else "", f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repository}{what}{revision}"


@dataclass(frozen=True, slots=True)
class NodeReference:
    """A model that another server has; its name there. Without a node: the Ollama server of this machine."""

    model: str
    node: str = ""

    @property
    def source(self) -> str:
        return f"ollama:{self.model}@{self.node}" if self.node else f"ollama:{self.model}"


Reference = HubReference | NodeReference


def parse(text: str) -> Reference | None:
    """None for what names no registry: a plain model's name. Raises `ValueError` for what names one wrongly.

    >>> parse("hf:org/Repo-GGUF:Q4_K_M@main")
    HubReference(repository='org/Repo-GGUF', what='Q4_K_M', revision='main')
    >>> parse("ollama:llama3.1:8b@studio")
    NodeReference(model='llama3.1:8b', node='studio')
    >>> parse("llama3.1:8b") is None
    True
    """
    if not text.startswith(_OLLAMA) and not (prefix := _HUB.match(text)):
        return None
    if len(text) > REFERENCE_CHARS_MAX:
        raise ValueError(N_("it is too long"))
    if text.startswith(_OLLAMA):
        return _of_node(text.removeprefix(_OLLAMA))
    assert prefix is not None, "it matched"
    rest, _at, revision = text[prefix.end() :].partition("@")
    repository, colon, what = rest.partition(":")
    if not _REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        raise ValueError(N_("a repository is written hf:ORGANISATION/NAME"))
    if colon:
        checked_path(what)
    if _at and (not _REVISION.fullmatch(revision) or ".." in revision or len(revision) > _REVISION_CHARS_MAX):
        raise ValueError(N_("a revision is a branch, a tag or a commit"))
    return HubReference(repository, what, revision)


def _of_node(text: str) -> NodeReference:
    ref = ModelRef.parse(text)
    model, _at, _node = text.partition("@")
    canonical(model)
    if ref.node is not None and not _NODE.fullmatch(ref.node):
        raise ValueError(N_("it names no node"))
    return NodeReference(model, ref.node or "")

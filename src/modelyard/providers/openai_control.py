"""The eye on an OpenAI-compatible server: what it lists, and whether it still makes tokens. Looking wakes no model.

Other servers say more than OpenAI's list has room for: llama-server and vLLM their context, servers like us what is in
memory. What they say is believed within bounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.errors import UpstreamInvalid, said
from modelyard.types.fleet import NodeLook, ResidentCopy
from modelyard.types.model import Capability, Model, model_at

from .node_ask import NodeQuestions
from .node_http import NodeConnections
from .openai_wire import AnswerDecoder

MODELS_COUNT_MAX = 10_000
CONTEXT_MAX = 1 << 30
SIZE_BYTES_MAX = 1 << 50
HOP = {"X-Modelyard-Hops": "1"}  # a server like us then leaves out what it has from others like us: perhaps from us
IN_MEMORY = ("resident", "draining", "loading")
# What a server that does not say may be asked for; it refuses what it cannot do.
ANYTHING = frozenset((
    Capability.CHAT, Capability.COMPLETION, Capability.EMBED, Capability.RERANK, Capability.TOOLS, Capability.IMAGES,
    Capability.THINKING,
))  # fmt: skip
_CAPABILITIES = {capability.value: capability for capability in Capability}


class _Entry(msgspec.Struct):
    id: str = ""
    created: Any = None
    max_model_len: Any = None  # vLLM
    meta: Any = None  # llama-server
    modelyard: Any = None  # servers like us


class _List(msgspec.Struct):
    data: list[_Entry]


@dataclass(frozen=True, slots=True)
class _Found:
    model: Model
    resident: ResidentCopy | None


class OpenAIControl:
    """The control side of one server. Implements `NodeControl`."""

    def __init__(self, name: str, connections: NodeConnections, *, key: str = "", connect_s: float = 2.0) -> None:
        self._name = name
        self._node = NodeQuestions(name, connections, key=key, connect_s=connect_s)

    async def look(self) -> NodeLook:
        """Its list of models. Raises an `UpstreamError` that says what is wrong with it."""
        listed = (await self._node.ask("GET", "/v1/models", _List, headers=HOP)).data
        if len(listed) > MODELS_COUNT_MAX:
            raise UpstreamInvalid(
                provider=self._name,
                problem=said("it lists over {models_count_max} models", models_count_max=MODELS_COUNT_MAX),
            )
        found = [*self._found(listed)]
        says_state = any(isinstance(entry.modelyard, dict) and "state" in entry.modelyard for entry in listed)
        residents = tuple(one.resident for one in found if one.resident is not None) if says_state else None
        is_like_us = any(isinstance(entry.modelyard, dict) for entry in listed)
        return NodeLook(models=tuple(one.model for one in found), residents=residents, is_like_us=is_like_us)

    async def probe(self, model: Model) -> None:
        """Have one token made. Raises what is wrong."""
        body = {
            "model": model.node_model, "messages": [{"role": "user", "content": "1"}], "max_tokens": 1, "stream": True,
        }  # fmt: skip
        decoder = AnswerDecoder(self._name)
        decoder.feed(await self._node.raw("POST", "/v1/chat/completions", body, model=model.node_model))
        if (early := decoder.end()) is not None:
            raise early

    def _found(self, listed: Iterable[_Entry]) -> Iterable[_Found]:
        for entry in listed:
            ours: dict[str, Any] = entry.modelyard if isinstance(entry.modelyard, dict) else {}
            if ours.get("problem"):
                continue
            try:
                model = model_at(
                    self._name, "openai", entry.id,
                    size_bytes=_whole(ours.get("size_bytes"), SIZE_BYTES_MAX) or 0,
                    context_length=_context(entry, ours), capabilities=_capabilities(ours),
                    modified_at=float(_whole(entry.created, SIZE_BYTES_MAX) or 0),
                )  # fmt: skip
            except ValueError:
                continue  # a name nobody could ask for here
            state = ours.get("state")
            resident = (
                ResidentCopy(entry.id, model.size_bytes, context_length=model.context_length, state=state)
                if isinstance(state, str) and state in IN_MEMORY
                else None
            )
            yield _Found(model, resident)


def _context(entry: _Entry, ours: dict[str, Any]) -> int | None:
    meta: dict[str, Any] = entry.meta if isinstance(entry.meta, dict) else {}
    told = (ours.get("context_length"), entry.max_model_len, meta.get("n_ctx"), meta.get("n_ctx_train"))
    return next((length for value in told if (length := _whole(value, CONTEXT_MAX))), None)


def _capabilities(ours: dict[str, Any]) -> frozenset[Capability]:
    told = ours.get("capabilities")
    if not isinstance(told, list):
        return ANYTHING
    return frozenset(_CAPABILITIES[one] for one in told if isinstance(one, str) and one in _CAPABILITIES)


def _whole(value: object, most: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most else None

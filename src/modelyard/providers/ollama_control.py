"""The control side of an Ollama node: what it has and holds, whether it makes tokens, and acts on its models.

Looking wakes no model and keeps none: it asks for the version, the list, and what is in memory. What a model can do is
asked once per digest. A probe asks a model that is in memory for one token, and for no longer stay than it had.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import msgspec

from modelyard.clock import Clock
from modelyard.errors import N_, CapabilityMissing, UpstreamError, UpstreamInvalid, UpstreamUnreachable, YardError, said
from modelyard.types.fleet import NodeLook, ResidentCopy
from modelyard.types.model import Capability, Model, model_at

from .node_ask import NodeQuestions
from .node_http import NodeConnections
from .ollama_wire import OllamaDecoder, ollama_failure

MODELS_COUNT_MAX = 10_000
SIZE_BYTES_MAX = 1 << 50
SHOWN_COUNT_MAX = 4096
SHOWS_AT_ONCE = 4
LEARN_S = 3.0  # of one look
POLL_S = 0.1  # between two looks at a model that is leaving
UNLOAD_S = 30.0
KEEP_S_LEAST = 1
ANYTHING = frozenset((
    Capability.CHAT, Capability.COMPLETION, Capability.TOOLS, Capability.IMAGES, Capability.THINKING,
))  # fmt: skip
# Ollama's words -> ours. What completes also chats: a template is part of every model there.
_CAPABILITIES = {
    "completion": (Capability.CHAT, Capability.COMPLETION), "tools": (Capability.TOOLS,),
    "vision": (Capability.IMAGES,), "thinking": (Capability.THINKING,), "embedding": (Capability.EMBED,),
}  # fmt: skip


class _Version(msgspec.Struct):
    version: str = ""


class _Details(msgspec.Struct):
    format: str | None = None
    family: str | None = None
    parameter_size: str | None = None
    quantization_level: str | None = None


class _Tag(msgspec.Struct):
    name: str = ""
    model: str = ""
    modified_at: Any = None
    size: int = 0
    digest: str = ""
    details: _Details | None = None
    capabilities: list[str] | None = None


class _Tags(msgspec.Struct):
    models: list[_Tag] | None = None


class _Running(msgspec.Struct):
    name: str = ""
    model: str = ""
    size: int = 0
    size_vram: int = 0
    expires_at: Any = None
    context_length: int | None = None


class _Ps(msgspec.Struct):
    models: list[_Running] | None = None


class _Show(msgspec.Struct):
    capabilities: list[str] | None = None
    model_info: dict[str, Any] | None = None


class _Progress(msgspec.Struct):
    error: Any = None


class OllamaControl:
    """The control side of one node. Implements `NodeControl` and `NodeModels`."""

    def __init__(
        self, name: str, connections: NodeConnections, clock: Clock, *, key: str = "", connect_s: float = 2.0
    ) -> None:
        self._name, self._clock = name, clock
        failure: Callable[[str], Any] = lambda model: partial(ollama_failure, name, model)  # noqa: E731
        self._node = NodeQuestions(name, connections, key=key, connect_s=connect_s, failure=failure)
        self._shown: dict[str, _Show] = {}  # by digest

    # ---- the eye ----

    async def look(self) -> NodeLook:
        """Version, models, and what is in memory."""
        version, tags, running = await asyncio.gather(
            self._node.ask("GET", "/api/version", _Version),
            self._node.ask("GET", "/api/tags", _Tags),
            self._node.ask("GET", "/api/ps", _Ps),
        )
        listed = tags.models or []
        if len(listed) > MODELS_COUNT_MAX:
            raise UpstreamInvalid(
                provider=self._name,
                problem=said("it lists over {models_count_max} models", models_count_max=MODELS_COUNT_MAX),
            )
        await self._learn(listed)
        models = tuple(model for tag in listed if (model := self._model(tag)) is not None)
        residents = tuple(self._resident(one) for one in running.models or ())
        return NodeLook(version.version[:64], models, residents)

    async def probe(self, model: Model) -> None:
        """Have one token made by a model that is in memory, without making it stay longer."""
        running = await self._node.ask("GET", "/api/ps", _Ps)
        name = _full(model.node_model)
        resident = next((one for one in running.models or () if _full(one.name or one.model) == name), None)
        if resident is None:
            return  # it has left meanwhile, and asking would bring it back
        left_s = self._expires_in_s(resident.expires_at)
        body = {
            "model": model.node_model, "prompt": "1", "raw": True, "stream": True, "options": {"num_predict": 1},
            "keep_alive": -1 if left_s is None else max(KEEP_S_LEAST, int(left_s)),
        }  # fmt: skip
        decoder = OllamaDecoder(self._name, model.node_model)
        decoder.feed(await self._node.raw("POST", "/api/generate", body, model=model.node_model))
        if (early := decoder.end()) is not None:
            raise early

    # ---- acts ----

    async def load(self, node_model: str, keep_alive: str | float | None = None) -> None:
        """Bring a model in; returns once it is there."""
        body: dict[str, object] = {"model": node_model, "stream": False}
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        try:
            await self._node.raw("POST", "/api/generate", body, model=node_model)
        except CapabilityMissing:  # an embedding model is loaded by asking for no embedding
            await self._node.raw("POST", "/api/embed", {**body, "input": ""}, model=node_model)

    async def unload(self, node_model: str) -> None:
        """Take a model out, and see it gone."""
        body = {"model": node_model, "keep_alive": 0, "stream": False}
        try:
            async with asyncio.timeout(UNLOAD_S):
                try:
                    await self._node.raw("POST", "/api/generate", body, model=node_model)
                except CapabilityMissing:
                    await self._node.raw("POST", "/api/embed", {**body, "input": ""}, model=node_model)
                name = _full(node_model)
                while any(_full(one.name or one.model) == name for one in await self._running()):  # noqa: ASYNC110
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise UpstreamError(
                N_("{provider} still holds {model}, {waited_s} s after it was asked to let go of it."),
                provider=self._name, model=node_model, waited_s=UNLOAD_S,
            ) from None  # fmt: skip

    async def show(self, node_model: str, *, verbose: bool = False) -> Mapping[str, object]:
        """What the node tells of a model."""
        told: dict[str, object] = await self._node.ask(
            "POST", "/api/show", dict, {"model": node_model, "verbose": verbose}, model=node_model
        )
        return told

    async def pull(self, node_model: str) -> AsyncIterator[Mapping[str, object]]:
        """Have the node fetch a model. Ends with `success`, or with an error."""
        is_done = False
        async for line in self._node.lines(
            "POST", "/api/pull", {"model": node_model, "stream": True}, model=node_model
        ):
            progress = self._progress(line, node_model)
            is_done = progress.get("status") == "success"
            yield progress
        if not is_done:
            raise UpstreamInvalid(provider=self._name, problem=N_("the download ended before its end"))

    async def delete(self, node_model: str) -> None:
        """Take a model off the node's disk."""
        await self._node.raw("DELETE", "/api/delete", {"model": node_model}, model=node_model)

    async def copy(self, node_model: str, to: str) -> None:
        """Give a model a second name there."""
        await self._node.raw("POST", "/api/copy", {"source": node_model, "destination": to}, model=node_model)

    # ---- inside ----

    async def _running(self) -> list[_Running]:
        return (await self._node.ask("GET", "/api/ps", _Ps)).models or []

    async def _learn(self, listed: list[_Tag]) -> None:
        """What models can do, where the list does not say: once per digest, a few at a time."""
        turns = asyncio.Semaphore(SHOWS_AT_ONCE)

        async def learn(tag: _Tag) -> None:
            async with turns:
                try:
                    self._shown[tag.digest] = await self._node.ask("POST", "/api/show", _Show, {"model": tag.name})
                except UpstreamUnreachable:
                    raise
                except YardError:  # one damaged model says nothing about the node
                    self._shown[tag.digest] = _Show()

        unknown = {tag.digest: tag for tag in listed if tag.digest and tag.digest not in self._shown}
        with suppress(TimeoutError):  # the rest at the next look; until then such a model may be asked for anything
            async with asyncio.timeout(LEARN_S):
                await asyncio.gather(*(learn(tag) for tag in unknown.values()))
        while len(self._shown) > SHOWN_COUNT_MAX:
            del self._shown[next(iter(self._shown))]

    def _model(self, tag: _Tag) -> Model | None:
        """None for a name nobody could ask for here."""
        shown, details = self._shown.get(tag.digest, _Show()), tag.details or _Details()
        if not 0 <= tag.size <= SIZE_BYTES_MAX:
            raise UpstreamInvalid(provider=self._name, problem=N_("a size that cannot be"))
        words = tag.capabilities if tag.capabilities is not None else shown.capabilities
        known = {one for word in words or () for one in _CAPABILITIES.get(word, ())}
        at = self._time(tag.modified_at)
        try:
            return model_at(
                self._name, "ollama", tag.name or tag.model, size_bytes=tag.size, digest=tag.digest[:80],
                format=(details.format or "")[:32], architecture=(details.family or "")[:64],
                quantization=(details.quantization_level or "")[:32],
                capabilities=frozenset(known) if words is not None else ANYTHING,
                context_length=_context(shown.model_info), modified_at=at.timestamp() if at is not None else 0.0,
                metadata={"parameter_size": (details.parameter_size or "")[:32]},
            )  # fmt: skip
        except ValueError:
            return None

    def _resident(self, one: _Running) -> ResidentCopy:
        if not (0 <= one.size <= SIZE_BYTES_MAX and 0 <= one.size_vram <= SIZE_BYTES_MAX):
            raise UpstreamInvalid(provider=self._name, problem=N_("a size that cannot be"))
        return ResidentCopy(
            one.name or one.model, max(one.size, one.size_vram), one.size_vram, one.context_length,
            self._expires_in_s(one.expires_at),
        )  # fmt: skip

    def _expires_in_s(self, stamp: Any) -> float | None:
        at = self._time(stamp)
        if at is None:
            return None
        left_s = max(0.0, at.timestamp() - self._clock.wall())
        return left_s if left_s < 10 * 365 * 86400 else None  # "for ever" is three centuries there

    def _time(self, stamp: Any) -> datetime | None:
        try:
            at = msgspec.convert(stamp, datetime)
        except msgspec.ValidationError:
            return None
        return at if at.tzinfo is not None else None

    def _progress(self, line: bytes, node_model: str) -> dict[str, object]:
        try:
            told = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise UpstreamInvalid(provider=self._name, problem=N_("its progress cannot be read")) from exc
        if not isinstance(told, dict):
            raise UpstreamInvalid(provider=self._name, problem=N_("its progress cannot be read"))
        if told.get("error") is not None:
            error: YardError = ollama_failure(self._name, node_model, told["error"])
            raise error
        return told


def _context(info: Mapping[str, Any] | None) -> int | None:
    """What the model was trained for, from its header as the node shows it."""
    for name, value in (info or {}).items():
        if name.endswith(".context_length") and isinstance(value, int) and 0 < value < 1 << 30:
            return value
    return None


def _full(name: str) -> str:
    """A name as Ollama compares it."""
    lowered = name.lower()
    return lowered if ":" in lowered.rpartition("/")[2] else f"{lowered}:latest"

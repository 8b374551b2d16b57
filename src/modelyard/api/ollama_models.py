"""What Ollama's clients ask about models: which there are, which are in memory, and what one of them is.

Lists are told from memory, and nothing here wakes a model; only what one model is may be asked of its node. `node` says
where a model is; the rest is Ollama's.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from modelyard import __version__
from modelyard.clock import Clock
from modelyard.errors import ModelNotFound, YardError
from modelyard.gateway.keys import Caller
from modelyard.types.fleet import FleetNodeStatus
from modelyard.types.model import Capability, Model
from modelyard.types.status import Residency, ResidentStatus

from .answers import json_answer
from .bodies import decode_body, read_body
from .copies import LOCAL, FleetView, Places, Residents, no_fleet, usable
from .models import Catalog
from .ollama_answer import time_text
from .ollama_body import OllamaModelBody
from .ollama_codec import required_name

OLLAMA_VERSION = "0.13.5"  # whose API this is; clients compare it with the oldest they work with
BODY_BYTES_MAX = 64 * 1024
SHOW_S = 5.0  # for the node of a model to say what it is
SHOWN = (
    "modelfile", "parameters", "template", "system", "license", "details", "messages", "model_info", "projector_info",
    "capabilities", "modified_at", "requires",
)  # fmt: skip
NEVER = "2300-01-01T00:00:00.000000Z"  # Ollama's clients show what is so far away as "Forever"
_IN_MEMORY = (Residency.RESIDENT, Residency.DRAINING)
_ABILITIES = (
    (Capability.CHAT, "completion"), (Capability.COMPLETION, "completion"), (Capability.EMBED, "embedding"),
    (Capability.TOOLS, "tools"), (Capability.IMAGES, "vision"), (Capability.THINKING, "thinking"),
)  # fmt: skip
_PAGE = """<!doctype html><meta charset="utf-8"><title>Modelyard</title>
<h1>Modelyard is running</h1><p>It speaks OpenAI's API under <code>/v1</code> and Ollama's under <code>/api</code>.</p>
"""
Ask = Callable[[Model, bool], Awaitable[Mapping[str, object]]]
_model = msgspec.json.Decoder(OllamaModelBody)


async def root(request: Request, _caller: Caller) -> Response:
    """GET /: what Ollama's clients look for, unless a browser asks."""
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_PAGE)
    return PlainTextResponse("Ollama is running")


async def version(_request: Request, _caller: Caller) -> Response:
    """GET /api/version."""
    return json_answer({"version": OLLAMA_VERSION, "modelyard": __version__})


class OllamaModelEndpoints:
    """The lists, and one model of them."""

    def __init__(
        self,
        catalog: Catalog,
        residents: Residents,
        clock: Clock,
        fleet: FleetView = no_fleet,
        ask: Ask | None = None,
    ) -> None:
        """`ask` has the node of a model tell what it says of it, at length if need be."""
        self._ask = ask
        self._catalog, self._residents, self._clock, self._fleet = catalog, residents, clock, fleet

    async def tags(self, _request: Request, caller: Caller) -> Response:
        """GET /api/tags: one entry per name, damaged files aside."""
        places = Places(self._residents(), self._fleet())
        servable = (model for model in self._catalog.list() if not model.problem)
        found = usable(servable, caller)
        return json_answer({"models": [_tag(name, copies, places) for name, copies in found.items()]})

    async def ps(self, _request: Request, caller: Caller) -> Response:
        """GET /api/ps: one entry per copy in memory, here and at nodes, the longest to stay first."""
        by_name = {model.name: model for model in self._catalog.list()}
        held = [*self._held_here(by_name, self._residents()), *_held_there(by_name, self._fleet())]
        held = [one for one in held if caller.may_use(one.model.name)]
        held.sort(key=lambda one: -(one.expires_in_s if one.expires_in_s is not None else float("inf")))
        return json_answer({"models": [self._running(one) for one in held]})

    async def show(self, request: Request, caller: Caller) -> Response:
        """POST /api/show."""
        body = decode_body(await read_body(request, bytes_max=BODY_BYTES_MAX, is_plain_read=True), _model)
        wanted = required_name(body.wanted)
        model = self._catalog.resolve(wanted)
        if not caller.may_use(model.name):
            raise ModelNotFound(model=wanted[:200])
        return json_answer({**_shown(model), **await self._told(model, verbose=bool(body.verbose))})

    async def _told(self, model: Model, *, verbose: bool) -> Mapping[str, object]:
        """What its node says of it. A node that does not answer leaves what is known here."""
        if model.kind != "ollama" or self._ask is None:
            return {}
        try:
            async with asyncio.timeout(SHOW_S):
                told = await self._ask(model, verbose)
        except (YardError, TimeoutError):
            return {}
        return {name: told[name] for name in SHOWN if name in told}

    def _held_here(self, models: dict[str, Model], residents: Iterable[ResidentStatus]) -> Iterable[_Held]:
        for resident in residents:
            if resident.state in _IN_MEMORY:
                model = models.get(resident.model) or Model(resident.model, resident.engine)
                used = resident.measured_bytes or resident.reserved_bytes
                on_devices = sum(count for device, count in used.items() if device != "ram")
                yield _Held(
                    model, sum(used.values()), on_devices, resident.context_length or 0, resident.expires_in_s
                )  # fmt: skip

    def _running(self, held: _Held) -> dict[str, object]:
        name = tagged(held.model.bare_name)
        wall = self._clock.wall()
        return {
            "name": name,
            "model": name,
            "size": held.total_bytes,
            "digest": digest_of(held.model),
            "details": _details(held.model),
            "expires_at": NEVER if held.expires_in_s is None else time_text(wall + held.expires_in_s),
            "size_vram": held.vram_bytes,
            "context_length": held.context_length,
            "node": held.model.node or LOCAL,
        }


@dataclass(frozen=True, slots=True)
class _Held:
    """One copy in memory."""

    model: Model
    total_bytes: int
    vram_bytes: int
    context_length: int
    expires_in_s: float | None


def _held_there(models: dict[str, Model], fleet: Iterable[FleetNodeStatus]) -> Iterable[_Held]:
    """What nodes hold whose memory is not ours; the others' models are residents here."""
    copies = {(model.node, model.node_model): model for model in models.values() if model.node}
    for node in fleet:
        for held in () if node.shares_devices else node.residents:
            model = copies.get((node.name, held.node_model))
            if model is not None:
                yield _Held(model, held.total_bytes, held.vram_bytes, held.context_length or 0, held.expires_in_s)


def _tag(name: str, copies: list[Model], places: Places) -> dict[str, object]:
    model = next((one for one in copies if one.size_bytes), copies[0])  # clouds know neither size nor digest
    return {
        "name": tagged(name),
        "model": tagged(name),
        "modified_at": time_text(model.modified_at),
        "size": model.size_bytes,
        "digest": digest_of(model),
        "details": _details(model),
        "capabilities": _abilities(model),
        "node": model.node or LOCAL,
        "nodes": [places.of(copy).told() for copy in copies],
    }


def _shown(model: Model) -> dict[str, object]:
    architecture = model.architecture or "unknown"
    facts: dict[str, object] = {"general.architecture": architecture}
    if model.parameter_count is not None:
        facts["general.parameter_count"] = model.parameter_count
    if model.context_length is not None:
        facts[f"{architecture}.context_length"] = model.context_length
    return {
        "modelfile": f"# {model.bare_name}, served by Modelyard\nFROM {tagged(model.bare_name)}\n",
        "parameters": "",
        "template": "",
        "details": _details(model),
        "model_info": facts,
        "capabilities": _abilities(model),
        "modified_at": time_text(model.modified_at),
        "node": model.node or LOCAL,
    }


def _details(model: Model) -> dict[str, object]:
    return {
        "parent_model": "",
        "format": model.format,
        "family": model.architecture,
        "families": [model.architecture] if model.architecture else [],
        "parameter_size": parameter_text(model.parameter_count) or model.metadata.get("parameter_size", ""),
        "quantization_level": model.quantization,
    }


def _abilities(model: Model) -> list[str]:
    return list(dict.fromkeys(word for capability, word in _ABILITIES if capability in model.capabilities))


def tagged(name: str) -> str:
    """A name as Ollama lists it: it always has a tag.

    >>> tagged("org/qwen"), tagged("qwen:4b")
    ('org/qwen:latest', 'qwen:4b')
    """
    return name if ":" in name else f"{name}:latest"


def digest_of(model: Model) -> str:
    """What changes with a model's files: their digest where it is known, else that of what identifies them."""
    known = model.digest.removeprefix("sha256:")
    return known or hashlib.sha256(model.identity.encode("utf-8", "surrogatepass")).hexdigest()


def parameter_text(count: int | None) -> str:
    """A number of parameters as Ollama writes it.

    >>> parameter_text(8_030_261_248), parameter_text(3_150_080), parameter_text(None)
    ('8.0B', '3.2M', '')
    """
    if count is None:
        return ""
    for factor, unit in ((1_000_000_000, "B"), (1_000_000, "M"), (1_000, "K")):
        if count >= factor:
            return f"{count / factor:.1f}{unit}"
    return str(count)

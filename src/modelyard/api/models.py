"""OpenAI's list of models, with what we know beyond it in a member of its own. Looking wakes no model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from modelyard.errors import ModelNotFound, YardError
from modelyard.gateway.keys import Caller, Right
from modelyard.types.model import Model
from modelyard.types.status import Residency

from .answers import json_answer
from .copies import FleetView, Places, Residents, no_fleet, usable

Details = Callable[[Model], Awaitable[Mapping[str, object]]]


class Catalog(Protocol):
    """What we need of the catalog."""

    def resolve(self, text: str) -> Model: ...

    def find(self, text: str) -> Model | None: ...

    def list(self) -> tuple[Model, ...]: ...


HOPS = "x-modelyard-hops"


class ModelEndpoints:
    """The list, and one model of it."""

    def __init__(self, catalog: Catalog, residents: Residents, details: Details, fleet: FleetView = no_fleet) -> None:
        """`details` says how a model would be started and what it would need; it may take a moment."""
        self._catalog = catalog
        self._residents = residents
        self._details = details
        self._fleet = fleet

    async def models(self, request: Request, caller: Caller) -> Response:
        """GET /v1/models: every model this caller may use, and who has it. Told from memory.

        A server like us is not told what we have from others like us: two that know each other would keep a model
        alive between them that nobody has any more.
        """
        places = self._places()
        listed = self._catalog.list()
        if HOPS in request.headers:
            passed_on = {node.name for node in self._fleet() if node.is_like_us}
            listed = tuple(model for model in listed if model.node not in passed_on)
        found = usable(listed, caller)
        return json_answer({"object": "list", "data": [_entry(name, copies, places) for name, copies in found.items()]})

    async def model(self, request: Request, caller: Caller) -> Response:
        """GET /v1/models/{id}. A damaged one is shown with its problem; who may read sees how it would be started."""
        wanted: str = request.path_params["id"]
        model = self._catalog.find(wanted) or self._catalog.resolve(wanted)
        if not caller.may_use(model.name):
            raise ModelNotFound(model=wanted[:200])
        is_here = not model.node and not model.problem
        told = await self._told(model) if Right.READ in caller.rights and is_here else {}
        if "@" in wanted:
            return json_answer(_entry(model.name, [model], self._places(), told))
        copies = usable(self._catalog.list(), caller).get(model.bare_name) or [model]
        return json_answer(_entry(model.bare_name, copies, self._places(), told))

    async def _told(self, model: Model) -> Mapping[str, object]:
        try:
            return await self._details(model)
        except YardError as error:  # the model is still there to be looked at
            return {"problem": str(error)}

    def _places(self) -> Places:
        return Places(self._residents(), self._fleet())


def _entry(
    name: str, copies: Sequence[Model], places: Places, told: Mapping[str, object] = MappingProxyType({})
) -> dict[str, object]:
    """One name: what is known of the first copy whose node says most, and where all of them are."""
    model, nodes = next((one for one in copies if one.size_bytes), copies[0]), [places.of(copy) for copy in copies]
    return {
        "id": name,
        "object": "model",
        "created": int(model.modified_at),
        "owned_by": "modelyard",
        "modelyard": {
            "state": next((one.state for one in nodes if one.state == Residency.RESIDENT), nodes[0].state),
            "size_bytes": model.size_bytes,
            "context_length": model.context_length,
            "engine": model.engine,
            "format": model.format,
            "architecture": model.architecture,
            "parameter_count": model.parameter_count,
            "quantization": model.quantization,
            "capabilities": sorted(model.capabilities),
            "aliases": list(model.aliases),
            "problem": model.problem,
            "nodes": [place.told() for place in nodes],
            **told,
        },
    }

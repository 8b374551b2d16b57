"""OpenAI's list of models, with what we know beyond it in a member of its own. Looking wakes no model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from modelyard.errors import ModelNotFound, YardError
from modelyard.gateway.keys import Caller, Right
from modelyard.types.model import Model
from modelyard.types.status import Residency, ResidentStatus

from .answers import json_answer

Details = Callable[[Model], Awaitable[Mapping[str, object]]]


class Catalog(Protocol):
    """What we need of the catalog."""

    def resolve(self, text: str) -> Model: ...

    def find(self, text: str) -> Model | None: ...

    def list(self) -> tuple[Model, ...]: ...


class ModelEndpoints:
    """The list, and one model of it."""

    def __init__(self, catalog: Catalog, residents: Callable[[], Iterable[ResidentStatus]], details: Details) -> None:
        """`details` says how a model would be started and what it would need; it may take a moment."""
        self._catalog = catalog
        self._residents = residents
        self._details = details

    async def models(self, _request: Request, caller: Caller) -> Response:
        """GET /v1/models: every model this caller may use."""
        states = self._states()
        listed = [_entry(model, states) for model in self._catalog.list() if caller.may_use(model.name)]
        return json_answer({"object": "list", "data": listed})

    async def model(self, request: Request, caller: Caller) -> Response:
        """GET /v1/models/{id}. A damaged one is shown with its problem; who may read sees how it would be started."""
        wanted: str = request.path_params["id"]
        model = self._catalog.find(wanted) or self._catalog.resolve(wanted)
        if not caller.may_use(model.name):
            raise ModelNotFound(model=wanted[:200])
        told = await self._told(model) if Right.READ in caller.rights and not model.problem else {}
        return json_answer(_entry(model, self._states(), told))

    async def _told(self, model: Model) -> Mapping[str, object]:
        try:
            return await self._details(model)
        except YardError as error:  # the model is still there to be looked at
            return {"problem": str(error)}

    def _states(self) -> dict[str, Residency]:
        return {resident.model: resident.state for resident in self._residents()}


def _entry(
    model: Model, states: Mapping[str, Residency], told: Mapping[str, object] = MappingProxyType({})
) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": int(model.modified_at),
        "owned_by": "modelyard",
        "modelyard": {
            "state": states.get(model.name, Residency.ABSENT).value,
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
            **told,
        },
    }

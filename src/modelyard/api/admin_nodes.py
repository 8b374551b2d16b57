"""The part of the admin API about other nodes. Everything is told from memory; only `check` has a node asked."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from modelyard.gateway.node_operations import WEIGHT_MAX, NodeOperations
from modelyard.types.fleet import FleetNodeStatus

from .answers import json_answer
from .callers import By

SCHEMA_VERSION = 1


class NodeBody(BaseModel):
    """What to change about a node; what is not given stays."""

    model_config = ConfigDict(extra="forbid")
    weight: Annotated[float | None, Field(ge=0, le=WEIGHT_MAX, allow_inf_nan=False)] = None
    draining: bool | None = None


def add_nodes(api: FastAPI, nodes: NodeOperations) -> None:
    """Add the routes of other nodes to the admin API."""

    @api.get("/admin/nodes")
    async def listed() -> Response:
        """Every other node as last seen, with its health, weight, models in memory, and when it is tried again."""
        return json_answer({"schema_version": SCHEMA_VERSION, "nodes": [asdict(one) for one in nodes.status()]})

    @api.get("/admin/nodes/{name}", responses={200: {"model": FleetNodeStatus}})
    async def one(name: str) -> Response:
        """One other node as last seen."""
        return json_answer(asdict(nodes.one(name)))

    @api.post("/admin/nodes/{name}/edit", responses={200: {"model": FleetNodeStatus}})
    async def edit(name: str, caller: By, body: NodeBody) -> Response:
        """Change a node's weight, or drain it. Counts from the next request on; no answer is cut."""
        return json_answer(asdict(nodes.edit(caller, name, weight=body.weight, draining=body.draining)))

    @api.post("/admin/nodes/{name}/check", responses={200: {"model": FleetNodeStatus}})
    async def check(name: str, caller: By) -> Response:
        """Have a node looked at now, and tell how it is."""
        return json_answer(asdict(await nodes.check(caller, name)))

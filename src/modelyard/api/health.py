"""Probes and memory views: `/livez`, `/readyz`, `/health` say only up and ready; the rest asks for the right `read`.

A model that loads, or fails to, never changes liveness or readiness.
"""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from modelyard.errors import NotFound
from modelyard.gateway.keys import Caller, Right
from modelyard.gateway.memory_history import MemoryHistory
from modelyard.gateway.operations import Operations
from modelyard.types.status import NodeStatus, Residency

from .answers import json_answer

RECEIPTS_MAX = 20

_LOADED = (Residency.RESIDENT, Residency.DRAINING)
_NO_STORE = {"cache-control": "no-store"}
_RECEIPTS = {"model.loaded", "model.unloaded"}


class HealthEndpoints:
    """One node's health."""

    def __init__(self, operations: Operations, history: MemoryHistory) -> None:
        self._operations = operations
        self._history = history

    async def livez(self, _request: Request, _caller: Caller) -> Response:
        """The process and its event loop are alive."""
        return PlainTextResponse("ok\n", headers=_NO_STORE)

    async def readyz(self, request: Request, caller: Caller) -> Response:
        """Requests may be sent here. `?verbose` lists the checks, for callers who may read."""
        is_ready = self._operations.is_ready
        text = "ok\n" if is_ready else "not ready\n"
        if "verbose" in request.query_params and Right.READ in caller.rights:
            lines = (f"[{'+' if ok else '-'}]{name} {'ok' if ok else 'failed'}" for name, ok in self._checks(request))
            text = "\n".join((*lines, text))
        return PlainTextResponse(text, 200 if is_ready else 503, headers=_NO_STORE)

    async def check(self, request: Request, _caller: Caller) -> Response:
        """One check of readiness."""
        ok = self._operations.checks().get(request.path_params["check"])
        if ok is None:
            raise NotFound(path=request.scope["path"][:200])
        return PlainTextResponse("ok\n" if ok else "failed\n", 200 if ok else 503, headers=_NO_STORE)

    async def health(self, _request: Request, _caller: Caller) -> Response:
        return json_answer({"status": "ok", "ready": self._operations.is_ready})

    async def detailed(self, _request: Request, _caller: Caller) -> Response:
        """Models, memory, queue and failures; of memory what is true now."""
        status = self._operations.status()
        states = {resident.model: resident.state for resident in status.residents}
        models = [
            {"id": model.name, "state": states.get(model.name, Residency.ABSENT), "problem": model.problem or None}
            for model in self._operations.catalog.list()
        ]
        return json_answer(
            {
                "status": "draining" if status.draining else "ok",
                "ready": status.ready,
                "version": status.version,
                "uptime_s": round(self._operations.uptime_s(), 1),
                "models": models,
                "embedding_models_count": sum(
                    resident.purpose == "embedding" and resident.state in _LOADED for resident in status.residents
                ),
                "vector_cache": asdict(self._operations.vectors.status),
                "memory": self._memory(status),
                "queue": status.queue,
                "requests_running": len(status.requests),
                "failures": status.failures,
            }
        )

    async def memory(self, _request: Request, _caller: Caller) -> Response:
        """Memory now, who holds it, what loads and unloads did to it, and how it went over time."""
        status = await self._operations.fresh_status()
        return json_answer(
            {**self._memory(status), "receipts": self._receipts(), "history": self._history.series()},
        )

    def _memory(self, status: NodeStatus) -> dict[str, object]:
        trends = self._history.trends()
        return {
            "devices": [asdict(device) for device in status.devices],
            "residents": [asdict(resident) for resident in status.residents],
            "node": {
                "anonymous_bytes": self._history.node.anonymous_bytes,
                "file_bytes": self._history.node.file_bytes,
            },
            "trends": [asdict(trend) for trend in trends],
            "is_leak_suspected": any(trend.is_leak_suspected for trend in trends),
        }

    def _receipts(self) -> list[dict[str, object]]:
        """Of the last loads and unloads, the newest first."""
        told = [event for event in reversed(self._operations.events.recent()) if event.name in _RECEIPTS]
        return [{"event": event.name, "at": event.at, **event.fields} for event in told[:RECEIPTS_MAX]]

    def _checks(self, request: Request) -> list[tuple[str, bool]]:
        excluded = set(request.query_params.getlist("exclude"))
        return [(name, ok) for name, ok in self._operations.checks().items() if name not in excluded]

"""`/metrics`: what Prometheus reads. Families about requests and memory come from the gateway; from here come the
node's own facts and what was refused at the door, before a request became one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from modelyard import __version__
from modelyard.gateway.keys import Caller


class NodeFacts(Collector):
    """Version and readiness, read at the moment of the scrape."""

    def __init__(self, is_ready: Callable[[], bool]) -> None:
        self._is_ready = is_ready

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("modelyard_node", "This node.", {"version": __version__})
        yield GaugeMetricFamily("modelyard_ready", "1 if requests may be sent here.", float(self._is_ready()))


class DoorMetrics:
    """Counts refusals by error code. Codes are ours, so the family is bounded."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refusals = Counter(
            "refusals", "Requests refused before they were served, by code.", ("code",),
            namespace="modelyard", registry=registry,
        )  # fmt: skip
        self._children: dict[str, Counter] = {}

    def count_refusal(self, code: str) -> None:
        child = self._children.get(code)
        if child is None:
            child = self._children[code] = self._refusals.labels(code)
        child.inc()


class MetricsEndpoint:
    """Serves one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    async def scrape(self, request: Request, _caller: Caller) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": content_type, "cache-control": "no-store"})

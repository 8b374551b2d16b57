"""The figures of this node for Prometheus: what is counted, in which units, under which labels.

Labels take only values we choose (routes, catalog names, error codes), so no caller can grow a family. Children are
looked up once per combination and kept: the lookup costs more than counting.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from modelyard.events import Event
from modelyard.providers.ticket import Ticket
from modelyard.types.memory import RAM, ProcessMemory
from modelyard.types.status import DeviceStatus, Residency, ResidentStatus

REQUEST_BUCKETS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 300, 900)
FIRST_TOKEN_BUCKETS_S = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 120, 300)
TOKEN_BUCKETS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 30)
LOAD_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 300, 600, 1200)


class ModelFigures:
    """The counters of one model on one node, already labelled."""

    __slots__ = (
        "completion_tokens", "decode_s", "first_token_s", "prefill_s", "prompt_tokens", "queue_s", "tokens",
    )  # fmt: skip

    def __init__(self, metrics: Metrics, model: str, node: str) -> None:
        self.prompt_tokens = metrics.prompt_tokens.labels(model, node)
        self.completion_tokens = metrics.completion_tokens.labels(model, node)
        self.tokens = metrics.tokens.labels(model, node)
        self.first_token_s = metrics.first_token_s.labels(model, node)
        self.queue_s = metrics.queue_s.labels(model, node)
        self.prefill_s = metrics.prefill_s.labels(model, node)
        self.decode_s = metrics.decode_s.labels(model, node)


class Metrics:
    """Every family of this node, in a registry of its own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which nobody reads
        self.registry = registry = registry or CollectorRegistry()
        model = ("model", "node")

        def counter(name: str, text: str, labels: Sequence[str]) -> Counter:
            return Counter(name, text, labels, namespace="modelyard", registry=registry)

        def histogram(name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
            return Histogram(name, text, labels, namespace="modelyard", registry=registry, buckets=buckets)

        self.requests = counter(
            "requests", "Requests by outcome; each exactly once.", ("route", "model", "node", "code", "finish_reason")
        )
        self.prompt_tokens = counter("prompt_tokens", "Tokens read.", model)
        self.completion_tokens = counter("completion_tokens", "Tokens generated.", model)
        self.tokens = counter("tokens", "Tokens read and generated.", model)
        self.request_s = histogram(
            "e2e_request_latency_seconds", "From the request to the last byte.", ("route",), REQUEST_BUCKETS_S
        )
        self.first_token_s = histogram(
            "time_to_first_token_seconds", "From the request to the first token.", model, FIRST_TOKEN_BUCKETS_S
        )
        self.queue_s = histogram(
            "request_queue_time_seconds", "Waiting for memory and a slot.", model, REQUEST_BUCKETS_S
        )
        self.prefill_s = histogram(
            "request_prefill_time_seconds", "Reading the prompt, as the engine reports.", model, REQUEST_BUCKETS_S
        )
        self.decode_s = histogram(
            "request_decode_time_seconds", "Generating, as the engine reports.", model, REQUEST_BUCKETS_S
        )
        self.load_s = histogram("model_load_seconds", "Loading a model.", ("kind",), LOAD_BUCKETS_S)
        self.load_failures = counter("model_load_failures", "Loads that failed.", ("engine", "code"))
        self.fallbacks = counter(
            "fallbacks", "Answers by another model than the one asked for.", ("model", "to", "reason")
        )
        self.evictions = counter("evictions", "Models that left memory, by reason.", ("reason",))
        self.vector_hits = counter("vector_cache_hits", "Inputs whose vectors were kept.", ("model",))
        self.vector_misses = counter("vector_cache_misses", "Inputs that had to be embedded.", ("model",))
        self.vector_bytes = Gauge(
            "vector_cache_bytes", "Memory of the vectors that are kept.", namespace="modelyard", registry=registry
        )
        self.loaded_at = Gauge(
            "model_loaded_timestamp_seconds", "When a model was last loaded.", ("model",),
            namespace="modelyard", registry=registry,
        )  # fmt: skip
        self.gaps = GapHistogram("modelyard_inter_token_latency_seconds", "Gaps between pieces of an answer.")
        registry.register(self.gaps)
        self._outcomes: dict[tuple[str, str, str, str, str], Counter] = {}
        self._routes: dict[str, Histogram] = {}
        self._models: dict[tuple[str, str], ModelFigures] = {}

    def finished(self, ticket: Ticket, code: str, took_s: float, first_token_s: float | None) -> None:
        """A request ended, whatever became of it."""
        model = ticket.model.partition("@")[0]  # the node has a label of its own
        self.outcome(ticket.route, model, ticket.provider, code, ticket.finish or "").inc()
        self.latency(ticket.route).observe(took_s)
        if not ticket.provider:
            return
        figures = self.of_model(model, ticket.provider)
        if ticket.queue_s is not None:
            figures.queue_s.observe(ticket.queue_s)
        if first_token_s is not None:
            figures.first_token_s.observe(first_token_s)
        usage = ticket.usage
        if usage is None:
            return
        figures.prompt_tokens.inc(usage.input_tokens)
        figures.completion_tokens.inc(usage.output_tokens)
        figures.tokens.inc(usage.input_tokens + usage.output_tokens)
        if usage.prefill_s is not None:
            figures.prefill_s.observe(usage.prefill_s)
        if usage.decode_s is not None:
            figures.decode_s.observe(usage.decode_s)

    def vectors_found(self, model: str, hits: int, misses: int) -> None:
        """So many inputs were in the cache of vectors, and so many were not."""
        if hits:
            self.vector_hits.labels(model).inc(hits)
        if misses:
            self.vector_misses.labels(model).inc(misses)

    def fell_back(self, model: str, to: str, reason: str) -> None:
        """Another model answers than the one asked for."""
        self.fallbacks.labels(model, to, reason).inc()

    def gaps_of(self, model: str) -> Callable[[float], None]:
        """A function that counts one gap between pieces of a model's answer."""
        return self.gaps.gaps_of(model)

    def outcome(self, route: str, model: str, node: str, code: str, finish: str) -> Counter:
        """The counter of one kind of outcome."""
        key = (route, model, node, code, finish)
        child = self._outcomes.get(key)
        if child is None:
            child = self._outcomes[key] = self.requests.labels(*key)
        return child

    def latency(self, route: str) -> Histogram:
        """The histogram of one route."""
        child = self._routes.get(route)
        if child is None:
            child = self._routes[route] = self.request_s.labels(route)
        return child

    def of_model(self, model: str, node: str) -> ModelFigures:
        """The counters of one model."""
        figures = self._models.get((model, node))
        if figures is None:
            figures = self._models[model, node] = ModelFigures(self, model, node)
        return figures

    def count_event(self, event: Event) -> None:
        """Count what the node's bus tells about loads and unloads."""
        fields = event.fields
        match event.name:
            case "model.loaded":
                self.load_s.labels(str(fields.get("purpose", "chat"))).observe(_number(fields.get("took_s")))
                self.loaded_at.labels(str(fields.get("model", ""))).set(event.at)
            case "model.load_failed":
                self.load_failures.labels(str(fields.get("engine", "")), str(fields.get("code", ""))).inc()
            case "model.unloaded":
                self.evictions.labels(str(fields.get("reason", ""))).inc()


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


class GapHistogram(Collector):
    """A histogram fed once per piece of every answer, so it must cost a fraction of a microsecond."""

    def __init__(self, name: str, text: str, bounds_s: Sequence[float] = TOKEN_BUCKETS_S) -> None:
        self._name, self._text = name, text
        self._bounds_s = tuple(bounds_s)
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def gaps_of(self, model: str) -> Callable[[float], None]:
        """A function that counts one gap of a model."""
        counts = self._counts.setdefault(model, [0] * (len(self._bounds_s) + 1))
        sums, bounds_s = self._sums, self._bounds_s
        sums.setdefault(model, 0.0)

        def count(gap_s: float) -> None:
            counts[bisect_left(bounds_s, gap_s)] += 1
            sums[model] += gap_s

        return count

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(self._name, self._text, labels=("model",))
        for model, counts in list(self._counts.items()):
            total, buckets = 0, []
            for bound, count in zip((*self._bounds_s, float("inf")), counts, strict=True):
                total += count
                buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
            family.add_metric((model,), buckets, self._sums[model])
        yield family


class NodeGauges(Collector):
    """What is true now: read when somebody looks, from the snapshots that status pages use too."""

    def __init__(
        self,
        residents: Callable[[], Iterable[ResidentStatus]],
        devices: Callable[[], Iterable[DeviceStatus]],
        requests_running: Callable[[], int],
        requests_waiting: Callable[[], int],
        node_memory: Callable[[], ProcessMemory] = ProcessMemory,
    ) -> None:
        self._residents = residents
        self._devices = devices
        self._running = requests_running
        self._waiting = requests_waiting
        self._node_memory = node_memory

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "modelyard_requests_running", "Requests that hold a slot.", value=float(self._running())
        )
        yield GaugeMetricFamily(
            "modelyard_requests_waiting", "Requests that wait for memory or a slot.", value=float(self._waiting())
        )
        yield from self._of_residents(list(self._residents()))
        yield from self._of_devices()
        memory = self._node_memory()
        node = GaugeMetricFamily("modelyard_node_memory_bytes", "Memory of this server itself.", labels=("kind",))
        node.add_metric(("anonymous",), float(memory.anonymous_bytes))
        node.add_metric(("file",), float(memory.file_bytes))
        yield node

    def _of_devices(self) -> Iterator[Metric]:
        devices = GaugeMetricFamily("modelyard_device_memory_bytes", "Memory of a device.", labels=("device", "kind"))
        held = GaugeMetricFamily(
            "modelyard_device_held_bytes", "What models hold of a device, by their state.", labels=("device", "state")
        )
        for device in self._devices():
            reading = device.reading
            for kind, count in (
                ("total", reading.total_bytes),
                ("used", reading.used_bytes),
                ("free", reading.free_bytes),
                ("reserved", device.reserved_bytes),
                ("headroom", device.headroom_bytes),
                ("foreign", device.foreign_bytes),
                ("available", device.free_bytes),
            ):
                devices.add_metric((reading.device, kind), float(count))
            for state, count in device.held_bytes.items():
                held.add_metric((reading.device, state), float(count))
        yield devices
        yield held

    def _of_residents(self, residents: list[ResidentStatus]) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            "modelyard_model_memory_bytes", "Memory of a resident model.", labels=("model", "device", "kind")
        )
        for resident in residents:
            for kind, counts in (
                ("predicted", resident.predicted_bytes),
                ("reserved", resident.reserved_bytes),
                ("measured", resident.measured_bytes),
                ("peak", resident.peak_bytes),
                ("file", {RAM: resident.file_bytes} if resident.file_bytes else {}),
            ):
                for device, count in counts.items():
                    memory.add_metric((resident.model, device, kind), float(count))
        yield memory
        loaded = [resident for resident in residents if resident.state in (Residency.RESIDENT, Residency.DRAINING)]
        count_by_kind = GaugeMetricFamily("modelyard_resident_models", "Models in memory.", labels=("kind",))
        for purpose in ("chat", "embedding", "rerank"):
            count_by_kind.add_metric((purpose,), float(sum(resident.purpose == purpose for resident in loaded)))
        yield count_by_kind

"""Requests in flight and their outcomes, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import generate_latest
from structlog.testing import capture_logs

from modelyard.clock import SystemClock
from modelyard.errors import BadRequest, ModelNotFound, QueueFull, RequestCancelled, UpstreamInvalid, YardError
from modelyard.events import Event
from modelyard.gateway.inference import Inference
from modelyard.gateway.keys import ALL_RIGHTS, Caller
from modelyard.gateway.metrics import GapHistogram, Metrics, NodeGauges
from modelyard.gateway.usage import Usage as UsageRecorder
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import Chunk, Delta, InferenceRequest, Message, Usage
from modelyard.types.memory import DeviceReading, ProcessMemory
from modelyard.types.model import Candidates, Capability, Model
from modelyard.types.status import DeviceStatus, Residency, ResidentStatus
from tests.support.only_here import OnlyHere

ME = Caller("me", ALL_RIGHTS)
ASKED = InferenceRequest("small", messages=(Message("user", "the secret question"),))
ANSWER: list[list[Chunk]] = [
    [Delta(text="the"), Delta(text=" secret")],
    [Delta(text=" answer")],
    [Delta(finish="stop"), Usage(3, 4, prefill_s=0.1, decode_s=0.2)],
]


class Scripted:
    """A provider and its stream in one: gives the batches, then the error if there is one."""

    name = "local"

    def __init__(self, batches: list[list[Chunk]], error: YardError | None = None) -> None:
        self.batches, self.error = batches, error
        self.refusal: YardError | None = None
        self.open_count = 0

    @asynccontextmanager
    async def answer(self, model: Model, request: InferenceRequest, ticket: Ticket) -> AsyncIterator[Scripted]:
        ticket.provider, ticket.phase = self.name, "queued"
        if self.refusal is not None:
            raise self.refusal
        ticket.queue_s, ticket.load_s, ticket.phase = 0.5, 0.0, "prefill"
        self.open_count += 1
        self._left: Iterator[list[Chunk]] = iter(self.batches)
        try:
            yield self
        finally:
            self.open_count -= 1

    def __aiter__(self) -> Scripted:
        return self

    async def __anext__(self) -> list[Chunk]:
        await asyncio.sleep(0)
        for batch in self._left:
            return batch
        if self.error is not None:
            raise self.error
        raise StopAsyncIteration


class OneModel:
    model = Model("tiny", "fake", capabilities=frozenset((Capability.CHAT,)))

    def candidates(self, text: str) -> Candidates:
        if text != "small":
            raise ModelNotFound(model=text)
        return Candidates(self.model.name, (self.model,))


class Node:
    def __init__(self, provider: Scripted) -> None:
        self.metrics, clock = Metrics(), SystemClock()
        self.loading: set[str] = set()
        self.inference = Inference(
            catalog=OneModel(), router=OnlyHere(provider), usage=UsageRecorder(self.metrics, clock),
            metrics=self.metrics, clock=clock, loading=lambda: self.loading,
        )  # fmt: skip

    async def ask(self, request: InferenceRequest = ASKED, request_id: str = "req-1") -> str:
        text = ""
        with self.inference.ticket(ME, "/v1/chat/completions", request_id) as ticket:
            async with self.inference.open(ME, request, ticket) as stream:
                async for chunks in stream:
                    text += "".join(chunk.text for chunk in chunks if isinstance(chunk, Delta))
        return text

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def outcomes(self) -> dict[tuple[str, str, str], float]:
        return {
            (sample.labels["model"], sample.labels["code"], sample.labels["finish_reason"]): sample.value
            for sample in next(iter(self.metrics.requests.collect())).samples
            if sample.name.endswith("_total")
        }


async def test_a_complete_answer_is_one_outcome_with_its_tokens() -> None:
    node = Node(Scripted(ANSWER))

    assert await node.ask() == "the secret answer"

    labels = {"model": "tiny", "node": "local"}
    assert node.outcomes() == {("tiny", "ok", "stop"): 1}
    assert node.value("modelyard_prompt_tokens_total", **labels) == 3
    assert node.value("modelyard_completion_tokens_total", **labels) == 4
    assert node.value("modelyard_tokens_total", **labels) == 7
    assert node.value("modelyard_time_to_first_token_seconds_count", **labels) == 1
    assert node.value("modelyard_request_queue_time_seconds_sum", **labels) == 0.5
    assert node.value("modelyard_request_decode_time_seconds_sum", **labels) == 0.2
    assert node.value("modelyard_inter_token_latency_seconds_count", model="tiny") == 1
    assert node.value("modelyard_e2e_request_latency_seconds_count", route="/v1/chat/completions") == 1


async def test_the_log_line_says_what_happened_and_not_what_was_said() -> None:
    with capture_logs() as lines:
        await Node(Scripted(ANSWER)).ask()

    (line,) = lines
    assert line["event"] == "request.finished"
    assert (line["request_id"], line["caller"], line["model"], line["code"]) == ("req-1", "me", "tiny", "ok")
    assert (line["input_tokens"], line["output_tokens"], line["output_chunks"]) == (3, 4, 3)
    assert "secret" not in repr(lines)


@pytest.mark.parametrize(
    ("batches", "error", "refusal", "outcome"),
    [
        (ANSWER, UpstreamInvalid(provider="x", problem="y"), None, ("tiny", "upstream_invalid_response", "stop")),
        (ANSWER[:1], UpstreamInvalid(provider="x", problem="y"), None, ("tiny", "upstream_invalid_response", "")),
        ([], None, QueueFull(waiting=3), ("tiny", "queue_full", "")),
    ],
)
async def test_a_failure_is_one_outcome(
    batches: list[list[Chunk]], error: YardError | None, refusal: YardError | None, outcome: tuple[str, str, str]
) -> None:
    provider = Scripted(batches, error)
    provider.refusal = refusal
    node = Node(provider)

    with pytest.raises(YardError):
        await node.ask()

    assert node.outcomes() == {outcome: 1}
    assert node.inference.in_flight_count == provider.open_count == 0


async def test_names_nobody_knows_make_no_label() -> None:
    node = Node(Scripted(ANSWER))

    for n in range(50):
        with pytest.raises(ModelNotFound):
            await node.ask(InferenceRequest(f"nonsense-{n}", messages=(Message("user", "x"),)))

    assert node.outcomes() == {("", "model_not_found", ""): 50}
    assert b"nonsense" not in generate_latest(node.metrics.registry)


async def test_what_we_did_not_foresee_is_internal_and_logged_with_its_cause() -> None:
    node = Node(Scripted(ANSWER))

    with capture_logs() as lines, pytest.raises(ZeroDivisionError), node.inference.ticket(ME, "/r", "req-1"):
        raise ZeroDivisionError

    assert node.outcomes() == {("", "internal", ""): 1}
    assert lines[0]["log_level"] == "error"
    assert isinstance(lines[0]["exc_info"], ZeroDivisionError)


async def test_cancelling_at_every_step_leaves_nothing_and_one_outcome_each() -> None:
    for steps in range(12):
        provider = Scripted(ANSWER * 2)
        node = Node(provider)
        asking = asyncio.create_task(node.ask())
        for _ in range(steps):
            await asyncio.sleep(0)

        was_there = node.inference.cancel("req-1")

        if was_there:
            with pytest.raises(RequestCancelled):
                await asking
        else:
            await asyncio.wait((asking,))
        assert node.inference.in_flight_count == provider.open_count == 0
        if steps:
            assert sum(node.outcomes().values()) == 1


async def test_requests_in_flight_tell_their_phase() -> None:
    node = Node(Scripted(ANSWER))

    with node.inference.ticket(ME, "/r", "req-9") as ticket:
        assert [request.phase for request in node.inference.snapshot()] == ["received"]
        ticket.model, ticket.phase = "tiny", "queued"
        node.loading.add("tiny")
        assert [request.phase for request in node.inference.snapshot()] == ["loading"]
        assert node.inference.running_count == 0
        ticket.phase = "generating"
        (request,) = node.inference.snapshot()

    assert (request.id, request.model, request.caller, request.phase) == ("req-9", "tiny", "me", "generating")
    assert node.inference.snapshot() == ()


async def test_a_request_for_what_a_model_cannot_do_reaches_no_provider() -> None:
    provider = Scripted(ANSWER)
    node = Node(provider)

    with pytest.raises(BadRequest):
        await node.ask(InferenceRequest("small", prompt="x"))

    assert node.outcomes() == {("tiny", "unsupported_capability", ""): 1}


def test_gaps_are_counted_into_cumulative_buckets() -> None:
    histogram = GapHistogram("gaps", "Gaps.", bounds_s=(0.1, 1.0))
    count = histogram.gaps_of("tiny")

    for gap_s in (0.05, 0.1, 0.5, 7.0):
        count(gap_s)

    samples = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in histogram.collect()
        for sample in family.samples
    }
    assert samples["gaps_bucket", "0.1"] == 2
    assert samples["gaps_bucket", "1.0"] == 3
    assert samples["gaps_bucket", "+Inf"] == samples["gaps_count", None] == 4
    assert samples["gaps_sum", None] == pytest.approx(7.65)


def test_gauges_are_read_when_somebody_looks() -> None:
    metrics = Metrics()
    residents = [
        ResidentStatus("tiny", "fake", Residency.RESIDENT, 1, False, 4, 0, 0, 4096, {"ram": 100}, {"ram": 90},
                       "formula", 1.0, 0.5, None, predicted_bytes={"ram": 80}, peak_bytes={"ram": 95}, file_bytes=7),
    ]  # fmt: skip
    held = {"resident": 100, "promised": 0}
    devices = [DeviceStatus(DeviceReading("ram", "RAM", 1000, 400), 10, 990, 100, 500, held, free_bytes=390)]
    node = ProcessMemory(30, 20)
    metrics.registry.register(NodeGauges(lambda: residents, lambda: devices, lambda: 2, lambda: 3, lambda: node))

    value = metrics.registry.get_sample_value
    assert value("modelyard_requests_running") == 2
    assert value("modelyard_requests_waiting") == 3
    assert value("modelyard_resident_models", {"kind": "chat"}) == 1
    assert value("modelyard_device_memory_bytes", {"device": "ram", "kind": "used"}) == 600
    for kind, count in (("headroom", 10), ("foreign", 500), ("reserved", 100), ("available", 390)):
        assert value("modelyard_device_memory_bytes", {"device": "ram", "kind": kind}) == count
    assert value("modelyard_device_held_bytes", {"device": "ram", "state": "resident"}) == 100
    for kind, count in (("predicted", 80), ("reserved", 100), ("measured", 90), ("peak", 95), ("file", 7)):
        assert value("modelyard_model_memory_bytes", {"model": "tiny", "device": "ram", "kind": kind}) == count
    assert value("modelyard_node_memory_bytes", {"kind": "anonymous"}) == 30
    residents.clear()
    assert value("modelyard_resident_models", {"kind": "chat"}) == 0


def test_events_of_the_node_are_counted() -> None:
    metrics = Metrics()

    metrics.count_event(Event("model.loaded", 1_700_000_000.0, {"model": "tiny", "took_s": 0.7}))
    metrics.count_event(Event("model.load_failed", 1.0, {"engine": "fake", "code": "model_load_failed"}))
    metrics.count_event(Event("model.unloaded", 1.0, {"model": "tiny", "reason": "eviction"}))
    metrics.count_event(Event("node.started", 1.0))

    value = metrics.registry.get_sample_value
    assert value("modelyard_model_load_seconds_sum", {"kind": "chat"}) == pytest.approx(0.7)
    assert value("modelyard_model_loaded_timestamp_seconds", {"model": "tiny"}) == 1_700_000_000
    assert value("modelyard_model_load_failures_total", {"engine": "fake", "code": "model_load_failed"}) == 1
    assert value("modelyard_evictions_total", {"reason": "eviction"}) == 1

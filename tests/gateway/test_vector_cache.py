"""The cache of vectors: what is the same input, who is answered from it, what is asked for, what is forgotten."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from modelyard.errors import UpstreamInvalid
from modelyard.gateway.cached_vectors import CachedVectors
from modelyard.gateway.metrics import Metrics
from modelyard.gateway.vector_cache import ENTRY_BYTES, KEY_BYTES, VectorCache
from modelyard.providers.ticket import Ticket
from modelyard.types.embeddings import EmbedAnswer, EmbedRequest, Input, Vector
from modelyard.types.model import Candidates, Model, model_at

HERE = Model("m", "llamacpp", identity="one")
SIZE = KEY_BYTES + ENTRY_BYTES + 2 * 4  # of a vector of two numbers


@dataclass
class Engine:
    """Embeds: the length of an input, and how many were asked for so far."""

    asked: list[tuple[Input, ...]] = field(default_factory=list)
    tells_counts: bool = True
    answered_by: str = "m"
    degraded: tuple[str, ...] = ()
    spoilt: bool = False

    async def embed(self, candidates: Candidates, request: EmbedRequest, ticket: Ticket) -> EmbedAnswer:
        self.asked.append(request.inputs)
        ticket.model, ticket.degraded = self.answered_by, self.degraded
        serial = math.nan if self.spoilt else float(sum(map(len, self.asked)))
        vectors: list[Vector] = [array("f", (len(given), serial)) for given in request.inputs]
        counts = tuple(len(given) for given in request.inputs)
        return EmbedAnswer(tuple(vectors), sum(counts), counts if self.tells_counts else ())


@dataclass
class Desk:
    """The cache before an engine."""

    engine: Engine = field(default_factory=Engine)
    cache: VectorCache = field(default_factory=lambda: VectorCache(10**6))
    metrics: Metrics = field(default_factory=lambda: Metrics(CollectorRegistry()))

    def __post_init__(self) -> None:
        self.front = CachedVectors(self.cache, self.metrics, self.engine.embed)

    async def ask(
        self, *inputs: Input, caller: str = "me", models: Sequence[Model] = (HERE,), **wishes: object
    ) -> EmbedAnswer:
        ticket = Ticket("r1", request_id="x", route="/v1/embeddings", caller_id=caller, started_at=0.0)
        ticket.model = "m"
        request = EmbedRequest("m", inputs, **wishes)  # type: ignore[arg-type]
        self.why, answer = "", await self.front.embed(Candidates("m", tuple(models)), request, ticket)
        self.why, self.provider = ticket.why, ticket.provider
        return answer


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_an_input_is_embedded_once_and_its_tokens_count_each_time(desk: Desk) -> None:
    first, second = await desk.ask("abc"), await desk.ask("abc")

    assert desk.engine.asked == [("abc",)]
    assert first.vectors == second.vectors
    assert first.input_tokens == second.input_tokens == 3
    assert (desk.why, desk.provider) == ("cache", "local")
    assert (desk.cache.status.hits, desk.cache.status.misses, desk.cache.status.entries) == (1, 1, 1)


async def test_only_the_rest_is_asked_for_and_the_order_is_kept(desk: Desk) -> None:
    await desk.ask("bb")
    answer = await desk.ask("a", "bb", "ccc", "bb")

    assert desk.engine.asked == [("bb",), ("a", "ccc")]
    assert [vector[0] for vector in answer.vectors] == [1, 2, 3, 2]
    assert answer.input_tokens == 8


async def test_what_differs_in_anything_that_matters_is_another_input(desk: Desk) -> None:
    await desk.ask("a")
    for given, wishes in [
        ("a ", {}), ("A", {}), ((97,), {}), ("á", {}), ("a\u0301", {}), ("a", {"dimensions": 2}),
        ("a", {"truncate": False}),
    ]:  # fmt: skip
        before = len(desk.engine.asked)
        await desk.ask(given, **wishes)  # type: ignore[arg-type]
        assert len(desk.engine.asked) == before + 1, (given, wishes)


async def test_no_caller_is_answered_for_what_another_asked(desk: Desk) -> None:
    await desk.ask("secret", caller="one")
    await desk.ask("secret", caller="two")

    assert desk.engine.asked == [("secret",), ("secret",)]
    request = EmbedRequest("m", ("secret",))
    assert desk.cache.keys("one", "id", request) != desk.cache.keys("two", "id", request)
    assert desk.cache.keys("one", "id", request) != VectorCache(1).keys("one", "id", request)


async def test_changed_files_are_another_model_and_a_scan_forgets_the_old_one(desk: Desk) -> None:
    await desk.ask("a")
    await desk.ask("a", models=[Model("m", "llamacpp", identity="two")])

    assert desk.engine.asked == [("a",), ("a",)]
    desk.cache.retain({"two"})
    assert desk.cache.status.entries == 1


async def test_the_one_not_used_for_longest_makes_room() -> None:
    desk = Desk(cache=VectorCache(2 * SIZE))
    for text in ("a", "bb", "a", "ccc", "a", "bb"):
        await desk.ask(text)

    assert desk.engine.asked == [("a",), ("bb",), ("ccc",), ("bb",)]
    assert desk.cache.bytes == 2 * SIZE
    desk.cache.resize(SIZE)
    assert (desk.cache.bytes, desk.cache.status.entries) == (SIZE, 1)
    desk.cache.resize(0)
    assert (desk.cache.bytes, desk.cache.status.entries) == (0, 0)


async def test_a_cache_of_nothing_keeps_nothing() -> None:
    desk = Desk(cache=VectorCache(0))
    await desk.ask("a")
    await desk.ask("a")

    assert len(desk.engine.asked) == 2


async def test_who_says_how_long_a_model_stays_wants_it_asked(desk: Desk) -> None:
    await desk.ask("a")
    await desk.ask("a", keep_alive_s=0.0)

    assert len(desk.engine.asked) == 2


async def test_several_copies_answer_from_the_cache_only_as_a_whole(desk: Desk) -> None:
    copies = [HERE, model_at("studio", "ollama", "m", digest="ab")]
    desk.engine.answered_by = "m@studio"
    await desk.ask("a", models=copies)
    await desk.ask("a", models=copies)
    assert (desk.why, desk.provider) == ("cache", "studio")
    await desk.ask("a", "b", models=copies)

    assert desk.engine.asked == [("a",), ("a", "b")]


async def test_what_may_change_unseen_is_not_kept(desk: Desk) -> None:
    cloud = [model_at("cloud", "openai", "m")]
    for _time in range(2):
        await desk.ask("a", models=cloud)

    assert len(desk.engine.asked) == 2


async def test_what_a_node_tells_no_counts_of_is_kept_only_alone() -> None:
    desk = Desk(Engine(tells_counts=False))
    await desk.ask("a", "bb")
    await desk.ask("a")
    await desk.ask("a")
    assert desk.engine.asked == [("a", "bb"), ("a",)]


async def test_a_smaller_way_to_start_and_a_broken_answer_are_not_kept() -> None:
    desk = Desk(Engine(degraded=("context_length=64",)))
    await desk.ask("a")
    desk.engine.degraded, desk.engine.spoilt = (), True
    with pytest.raises(UpstreamInvalid):
        await desk.ask("b")

    assert desk.cache.status.entries == 0


async def test_hits_and_misses_are_counted_by_model(desk: Desk) -> None:
    await desk.ask("a", "b")
    await desk.ask("a", "b", "c")

    sample = desk.metrics.registry.get_sample_value
    assert sample("modelyard_vector_cache_hits_total", {"model": "m"}) == 2
    assert sample("modelyard_vector_cache_misses_total", {"model": "m"}) == 3

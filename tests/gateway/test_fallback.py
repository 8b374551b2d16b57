"""Another model answers for one that cannot be brought in: in the configured order, each once, and only if it may."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from modelyard.clock import SystemClock
from modelyard.errors import (
    InsufficientMemory,
    LoadFailed,
    LoadStalled,
    ModelFileError,
    ModelNotAllowed,
    ModelNotFound,
    OutOfMemory,
    QueueFull,
    WorkerCrashed,
    YardError,
)
from modelyard.gateway.inference import Inference
from modelyard.gateway.keys import ALL_RIGHTS, Caller
from modelyard.gateway.metrics import Metrics
from modelyard.gateway.usage import Usage as UsageRecorder
from modelyard.providers.ticket import Ticket
from modelyard.types.chat import Chunk, Delta, InferenceRequest, Message
from modelyard.types.model import Candidates, Capability, Model
from tests.support.only_here import OnlyHere

ME = Caller("me", ALL_RIGHTS)
NO_ROOM = InsufficientMemory(model="big", never=True)


class Provider:
    """Refuses as it is told, else says who answers, and breaks afterwards if it is told to."""

    name = "local"

    def __init__(self, refusals: Mapping[str, YardError], breaks: YardError | None = None) -> None:
        self.refusals, self.breaks = refusals, breaks
        self.asked: list[str] = []
        self.open_count = 0

    @asynccontextmanager
    async def answer(self, model: Model, request: InferenceRequest, ticket: Ticket) -> AsyncIterator[Provider]:
        self.asked.append(model.name)
        ticket.provider = self.name
        if model.name in self.refusals:
            raise self.refusals[model.name]
        ticket.degraded += ("n_batch=64",) if model.name == "degraded" else ()
        self.open_count += 1
        self._left: list[list[Chunk]] = [[Delta(finish="stop")], [Delta(text=model.name)]]
        try:
            yield self
        finally:
            self.open_count -= 1

    def __aiter__(self) -> Provider:
        return self

    async def __anext__(self) -> list[Chunk]:
        if not self._left:
            raise StopAsyncIteration
        if self.breaks is not None:
            raise self.breaks
        return self._left.pop()


class Catalog:
    def candidates(self, text: str) -> Candidates:
        if text == "ghost":
            raise ModelNotFound(model=text)
        capability = Capability.EMBED if text == "vectors" else Capability.CHAT
        model = Model(text, f"engine of {text}", capabilities=frozenset((capability,)))
        return Candidates(text, (model,))


class Node:
    def __init__(self, provider: Provider, ladders: Mapping[str, Sequence[str]], caller: Caller = ME) -> None:
        self.provider, self.caller, self.metrics = provider, caller, Metrics()
        self.ticket: Ticket | None = None
        self.inference = Inference(
            catalog=Catalog(), router=OnlyHere(provider), usage=UsageRecorder(self.metrics, SystemClock()),
            metrics=self.metrics, clock=SystemClock(), fallbacks=lambda name: ladders.get(name, ()),
        )  # fmt: skip

    async def ask(self, model: str = "big") -> str:
        text = ""
        asked = InferenceRequest(model, messages=(Message("user", "hello"),))
        with self.inference.ticket(self.caller, "/v1/chat/completions", "req-1") as ticket:
            self.ticket = ticket
            async with self.inference.open(self.caller, asked, ticket) as stream:
                async for chunks in stream:
                    text += "".join(chunk.text for chunk in chunks if isinstance(chunk, Delta))
        assert self.provider.open_count == 0
        return text

    def fallbacks(self) -> dict[tuple[str, str, str], float]:
        samples = next(iter(self.metrics.fallbacks.collect())).samples
        return {
            (one.labels["model"], one.labels["to"], one.labels["reason"]): one.value
            for one in samples
            if one.name.endswith("_total")
        }


@pytest.mark.parametrize(
    "cause", [NO_ROOM, OutOfMemory(model="big"), LoadFailed(model="big", problem="bad"), LoadStalled(model="big"),
              ModelFileError(path="big", problem="cut")]
)  # fmt: skip
async def test_a_model_that_cannot_be_brought_in_is_stood_in_for(cause: YardError) -> None:
    node = Node(Provider({"big": cause}), {"big": ("small",)})

    with capture_logs() as logs:
        assert await node.ask() == "small"

    assert node.ticket is not None
    assert (node.ticket.model, node.ticket.engine) == ("small", "engine of small")
    assert (node.ticket.degraded, node.ticket.fallback_reason) == (("model=small",), cause.code)
    assert node.fallbacks() == {("big", "small", cause.code): 1}
    line = next(one for one in logs if one["event"] == "request.finished")
    assert (line["model"], line["code"], line["fallback_reason"]) == ("small", "ok", cause.code)


async def test_nobody_stands_in_for_a_model_that_answers() -> None:
    node = Node(Provider({}), {"big": ("small",)})

    assert await node.ask() == "big"

    assert node.provider.asked == ["big"]
    assert node.ticket is not None
    assert (node.ticket.degraded, node.ticket.fallback_reason, node.fallbacks()) == ((), "", {})


@pytest.mark.parametrize("error", [QueueFull(waiting=1), WorkerCrashed(model="big", exit="signal 9")])
async def test_only_a_model_that_cannot_be_brought_in_is_stood_in_for(error: YardError) -> None:
    node = Node(Provider({"big": error}), {"big": ("small",)})

    with pytest.raises(type(error)):
        await node.ask()

    assert node.provider.asked == ["big"]


async def test_after_the_answer_has_begun_nobody_stands_in() -> None:
    node = Node(Provider({}, breaks=LoadFailed(model="big", problem="late")), {"big": ("small",)})

    with pytest.raises(LoadFailed, match="could not be loaded"):
        await node.ask()

    assert node.provider.asked == ["big"]


async def test_the_next_one_is_asked_in_order_and_a_stand_in_may_have_its_own() -> None:
    ladders = {"big": ("middle", "small"), "middle": ("last",)}
    refusals: dict[str, YardError] = {name: LoadFailed(model=name, problem="no") for name in ("big", "middle", "small")}
    node = Node(Provider(refusals), ladders)

    assert await node.ask() == "last"

    assert node.provider.asked == ["big", "middle", "small", "last"]
    assert node.fallbacks() == {("big", "last", "model_load_failed"): 1}


async def test_a_circle_ends_with_the_error_of_what_was_asked_for() -> None:
    ladders = {"big": ("small", "big"), "small": ("big", "small", "tiny"), "tiny": ("small",)}
    refusals = {"big": NO_ROOM, "small": OutOfMemory(model="small"), "tiny": OutOfMemory(model="tiny")}
    node = Node(Provider(refusals), ladders)

    with pytest.raises(InsufficientMemory) as caught:
        await node.ask()

    assert caught.value.fields["model"] == "big"
    assert node.provider.asked == ["big", "small", "tiny"]
    assert node.ticket is not None
    assert (node.ticket.model, node.ticket.degraded, node.ticket.fallback_reason) == ("big", (), "")
    assert node.fallbacks() == {}


async def test_a_key_that_may_not_use_the_stand_in_gets_the_next_or_the_error() -> None:
    caller = Caller("bound", ALL_RIGHTS, models=frozenset(("big", "third")))
    node = Node(Provider({"big": NO_ROOM}), {"big": ("small", "third")}, caller)
    other = Node(Provider({"big": NO_ROOM}), {"big": ("small",)}, caller)

    assert await node.ask() == "third"
    with pytest.raises(InsufficientMemory):
        await other.ask()

    assert (node.provider.asked, other.provider.asked) == (["big", "third"], ["big"])
    with pytest.raises(ModelNotAllowed):
        await other.ask("small")


async def test_one_that_does_not_exist_or_cannot_do_it_is_passed_over() -> None:
    node = Node(Provider({"big": NO_ROOM}), {"big": ("ghost", "vectors", "small")})

    assert await node.ask() == "small"

    assert node.provider.asked == ["big", "small"]


async def test_what_the_stand_in_gives_up_itself_is_said_too() -> None:
    node = Node(Provider({"big": NO_ROOM}), {"big": ("degraded",)})

    assert await node.ask() == "degraded"

    assert node.ticket is not None
    assert node.ticket.degraded == ("model=degraded", "n_batch=64")

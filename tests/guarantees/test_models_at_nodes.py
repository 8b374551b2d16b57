"""What Ollama clients do to models at nodes through us: they come, stay as long as was said, and go, where they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import ollama
import pytest

from modelyard.client.ollama import OllamaService
from modelyard.errors import OllamaError
from modelyard.testing import FAULTS, FakeOllama
from modelyard.testing.fake_ollama import FakeModel
from tests.support.fleet import Fleet, fleet


@asynccontextmanager
async def talking(
    nodes: dict[str, FakeOllama], config: dict[str, Any] | None = None, **per_node: Any
) -> AsyncIterator[tuple[Fleet, ollama.AsyncClient]]:
    async with fleet({**nodes}, config, **per_node) as yard:
        for name in nodes:
            await yard.until(name, health="healthy")
        async with ollama.AsyncClient(host=yard.server.url) as client:
            yield yard, client


@pytest.mark.parametrize(("keep_alive", "least_s", "most_s"), [(-1, 1e8, 1e12), ("1h", 3500, 3600), (7, 5, 7)])
async def test_a_load_by_an_empty_prompt_stays_as_long_as_it_says(
    keep_alive: int | str, least_s: float, most_s: float
) -> None:
    node = FakeOllama(["m"])
    async with talking({"studio": node}) as (_yard, client):
        await client.generate("m", keep_alive=keep_alive)
        left_s = node.residents["m:latest"]
        await client.chat("m", [], keep_alive=0)

    assert least_s <= left_s <= most_s
    assert not node.residents


async def test_an_unload_means_every_copy_in_memory_and_a_load_the_one_that_would_answer() -> None:
    nodes = {"a": FakeOllama(["m"]), "b": FakeOllama(["m"])}
    async with talking(nodes) as (yard, client):
        await client.generate("m@b")
        await client.generate("m")  # it is there already
        held = {name: [*node.residents] for name, node in nodes.items()}
        await client.generate("m@a")
        told = await client.generate("m", keep_alive=0)
        gone = {name: [*node.residents] for name, node in nodes.items()}
        await yard.edit("a", draining=True)
        await client.generate("m")
        drained = {name: [*node.residents] for name, node in nodes.items()}

    assert held == {"a": [], "b": ["m:latest"]}
    assert told.done_reason == "unload"
    assert gone == {"a": [], "b": []}
    assert drained == {"a": [], "b": ["m:latest"]}


async def test_what_is_in_memory_is_told_right_after_an_answer() -> None:
    node = FakeOllama(["m"])
    async with talking({"studio": node}, look_s=600) as (_yard, client):
        message = {"role": "user", "content": "Hello"}
        await client.chat("m", [message], keep_alive="1h")
        [kept] = (await client.ps()).models
        await client.chat("m", [message], keep_alive=0)
        left = (await client.ps()).models

    assert kept.expires_at is not None
    assert kept.expires_at.year < 2200
    assert not left


async def test_a_model_that_cannot_think_answers_who_asks_it_to() -> None:
    node = FakeOllama([FakeModel("plain", capabilities=("completion",)), FakeModel("deep")])
    async with talking({"studio": node}) as (_yard, client):
        for model in ("plain", "deep"):
            await client.chat(model, [{"role": "user", "content": "Hello"}], think=True)

    assert [bool(one.body.get("think")) for one in node.questions] == [False, True]


async def test_show_tells_what_the_node_tells_and_lists_keep_the_details() -> None:
    node = FakeOllama(["m"])
    async with talking({"studio": node}) as (_yard, client), ollama.AsyncClient(host=node.url) as direct:
        ours, theirs = await client.show("m"), await direct.show("m")
        [listed], [told] = (await client.list()).models, (await direct.list()).models

    assert (ours.template, ours.parameters, ours.modelinfo) == (theirs.template, theirs.parameters, theirs.modelinfo)
    assert listed.details is not None
    assert told.details is not None
    assert (listed.details.parameter_size, listed.details.format) == (told.details.parameter_size, told.details.format)


async def test_an_alias_is_not_deleted_with_the_model_behind_it() -> None:
    node = FakeOllama(["m"])
    async with talking({"studio": node}, {"models": {"builtin": False, "aliases": {"fast": "m"}}}) as (_yard, client):
        with pytest.raises(ollama.ResponseError, match="another name for m") as refused:
            await client.delete("fast")
        await client.delete("m")

    assert refused.value.status_code == 400
    assert not node.models


async def test_a_pull_of_what_no_registry_has_says_so() -> None:
    node = FakeOllama(
        ["m"], pull=({"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"})
    )
    async with talking({"studio": node}) as (_yard, client):
        with pytest.raises(ollama.ResponseError, match="pull model manifest: file does not exist"):
            async for _step in await client.pull("zzz", stream=True):
                pass


async def test_a_node_out_of_memory_is_told_in_words_that_clients_know() -> None:
    node = FakeOllama(["m"])
    async with talking({"studio": node}) as (yard, _client), OllamaService(yard.server.url) as service:
        node.play(FAULTS["oom"])
        with pytest.raises(OllamaError, match=r"\(OOM\)"):
            await service.generate("m", "Hello")

"""What operators do to the models of a node: the node does it, and what it then has is known at once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from modelyard.testing import FakeModel, FakeOllama, FakeOpenAI
from tests.support.fleet import Fleet, fleet


async def post(yard: Fleet, path: str, body: dict[str, Any], method: str = "POST") -> tuple[int, Any]:
    async with yard.http.request(method, f"{yard.server.url}{path}", json=body) as answer:
        text = await answer.text()
        lines = [json.loads(line) for line in text.splitlines() if line]
        return answer.status, lines[-1] if lines else None


async def test_a_model_is_loaded_and_unloaded_at_its_node_with_receipts() -> None:
    studio = FakeOllama([FakeModel("big", size=3 * 1024**3)])
    async with fleet({"studio": studio}) as yard:
        first = await post(yard, "/admin/models/big@studio/load", {})
        held = dict(studio.residents)
        again = await post(yard, "/admin/models/big@studio/load", {})
        listed = await yard.get("/api/ps")
        gone = await post(yard, "/admin/models/big@studio/unload", {})
        twice = await post(yard, "/admin/models/big@studio/unload", {})

    assert first[1]["receipt"]["worker"]["anonymous_bytes"] == 3 * 1024**3
    assert list(held) == ["big:latest"]
    assert again[1]["receipt"] is None
    assert [one["node"] for one in listed["models"]] == ["studio"]
    assert gone[1]["receipt"]["action"] == "unload"
    assert twice[1]["receipt"] is None
    assert studio.residents == {}


async def test_pull_copy_and_delete_act_where_the_name_says() -> None:
    nodes = {"one": FakeOllama(["m"]), "two": FakeOllama(["m"])}
    async with fleet(nodes) as yard:
        pulled = await post(yard, "/api/pull", {"model": "fresh:1b@two"})
        answer = await yard.ask("fresh:1b@two")
        copied = await post(yard, "/api/copy", {"source": "m@one", "destination": "m2"})
        unclear = await post(yard, "/api/delete", {"model": "m"}, "DELETE")
        deleted = await post(yard, "/api/delete", {"model": "m@two"}, "DELETE")
        nobody = await post(yard, "/api/pull", {"model": "other"})

    assert (pulled[0], pulled[1]["status"]) == (200, "success")
    assert answer.is_whole
    assert copied[0] == 200
    assert sorted(nodes["one"].models) == ["m2:latest", "m:latest"]
    assert (unclear[0], deleted[0]) == (400, 200)
    assert "one, two" in unclear[1]["error"]
    assert sorted(nodes["two"].models) == ["fresh:1b"]
    assert nobody[0] == 400


async def test_what_cannot_be_done_to_a_server_of_another_kind_is_said() -> None:
    async with fleet({"cloud": FakeOpenAI(["gpt"])}) as yard:
        pulled = await post(yard, "/api/pull", {"model": "gpt@cloud"})
        unloaded = await post(yard, "/admin/models/gpt@cloud/unload", {})

    assert pulled[0] == 400
    assert unloaded[0] == 400
    assert "cloud" in unloaded[1]["detail"]


async def test_a_model_pulled_on_a_node_is_known_within_a_look() -> None:
    studio = FakeOllama(["m"])
    async with fleet({"studio": studio}) as yard:
        studio.models["new:latest"] = FakeModel("new")
        async with asyncio.timeout(20):
            while not (await yard.ask("new")).is_whole:  # noqa: ASYNC110 - a look comes every second
                await asyncio.sleep(0.05)

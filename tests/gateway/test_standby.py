"""Models that come and go without a question: who may have them do so, and that nothing is loaded to be unloaded."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from modelyard.errors import ModelNotAllowed, PermissionDenied
from modelyard.gateway.keys import ALL_RIGHTS, Caller, Right
from modelyard.gateway.operations import Operations, first_of
from modelyard.gateway.standby import Standby
from modelyard.models.catalog import Catalog
from modelyard.providers.ticket import Ticket
from modelyard.residency.use import NO_WISH, Wish
from modelyard.types.chat import InferenceRequest
from modelyard.types.model import Model, model_at

from .manual_clock import ManualClock

BOSS, USER = Caller("boss", ALL_RIGHTS), Caller("user", frozenset((Right.INFER,)))


@dataclass
class World:
    """Leases that are granted at once, operations that remember, and a catalog of one model here and one elsewhere."""

    leased: list[dict[str, Any]] = field(default_factory=list)
    acts: list[tuple[object, ...]] = field(default_factory=list)
    residents: list[Any] = field(default_factory=list)

    def standby(self) -> Standby:
        catalog = Catalog([Model("tiny", "echo")])
        catalog.replace_node("studio", (model_at("studio", "ollama", "far"), model_at("studio", "ollama", "tiny")))
        catalog.replace_node("cloud", (model_at("cloud", "openai", "gpt"),))
        nodes = SimpleNamespace(keeps=lambda model: bool(model.node))
        operations = SimpleNamespace(
            catalog=catalog, nodes=nodes, load=self._load, unload=self._unload, choose=first_of
        )
        return Standby(cast(Operations, operations), self, lambda: self.residents, ManualClock(), queue_s=lambda: 300.0)

    @asynccontextmanager
    async def lease(
        self, model: Model, *, ticket: str, caller: str, deadline: float, keep_alive_s: float | None = None,
        wish: Wish = NO_WISH,
    ) -> AsyncIterator[Any]:  # fmt: skip
        self.leased.append({"model": model.name, "caller": caller, "deadline": deadline, "keep_alive_s": keep_alive_s})
        yield SimpleNamespace(queue_s=0.25, load_s=0.5)

    async def _load(self, caller: Caller, name: str, *, keep_alive_s: float | None = None) -> None:
        self.acts.append(("load", caller.id, name) if keep_alive_s is None else ("load", caller.id, name, keep_alive_s))

    async def _unload(self, caller: Caller, name: str) -> None:
        self.acts.append(("unload", caller.id, name))


def ticket() -> Ticket:
    return Ticket("r1", request_id="req-1", route="/api/chat", caller_id="user", started_at=0.0)


def asked(model: str, keep_alive_s: float | None = None) -> InferenceRequest:
    return InferenceRequest(model, keep_alive_s=keep_alive_s)


async def test_loading_takes_no_more_than_asking_and_says_how_long_to_stay() -> None:
    world, noted = World(), ticket()

    await world.standby().load(USER, asked("TINY", 600.0), noted)

    assert [(one["model"], one["caller"], one["keep_alive_s"]) for one in world.leased] == [("tiny", "user", 600.0)]
    assert (noted.queue_s, noted.load_s, noted.provider, noted.model) == (0.25, 0.5, "local", "tiny")


async def test_a_load_waits_no_longer_than_its_caller() -> None:
    world, noted = World(), ticket()
    noted.deadline_at = 7.0

    await world.standby().load(USER, asked("tiny"), noted)

    assert world.leased[0]["deadline"] == 7.0


async def test_a_model_elsewhere_is_loaded_by_its_node() -> None:
    world, noted = World(), ticket()

    await world.standby().load(USER, asked("far"), noted)
    await world.standby().load(USER, asked("far", -1.0), noted)

    assert world.leased == []
    assert world.acts == [("load", "user", "far@studio"), ("load", "user", "far@studio", -1.0)]
    assert noted.provider == "studio"


async def test_a_model_that_nobody_has_to_bring_in_is_there_already() -> None:
    world, noted = World(), ticket()

    await world.standby().load(USER, asked("gpt"), noted)

    assert (world.acts, world.leased, noted.provider) == ([], [], "cloud")


async def test_an_operator_unloads() -> None:
    world = World(residents=[SimpleNamespace(model="tiny", leases=3, waiting=0)])

    await world.standby().unload(BOSS, asked("tiny", 0.0), ticket())

    assert world.acts == [("unload", "boss", "tiny")]


async def test_others_let_go_of_what_nobody_uses() -> None:
    world = World(residents=[SimpleNamespace(model="tiny", leases=0, waiting=0)])

    await world.standby().unload(USER, asked("tiny", 0.0), ticket())

    assert [one["keep_alive_s"] for one in world.leased] == [0.0]
    assert world.acts == []


@pytest.mark.parametrize(("leases", "waiting"), [(1, 0), (0, 1)])
async def test_others_do_not_take_away_what_somebody_uses(leases: int, waiting: int) -> None:
    world = World(residents=[SimpleNamespace(model="tiny", leases=leases, waiting=waiting)])

    with pytest.raises(PermissionDenied):
        await world.standby().unload(USER, asked("tiny", 0.0), ticket())
    with pytest.raises(PermissionDenied):
        await world.standby().unload(USER, asked("far", 0.0), ticket())

    assert (world.acts, world.leased) == ([], [])


async def test_nothing_is_loaded_to_be_unloaded() -> None:
    world = World()

    await world.standby().unload(USER, asked("tiny", 0.0), ticket())

    assert (world.acts, world.leased) == ([], [])


async def test_a_key_for_a_copy_elsewhere_gets_that_one() -> None:
    world, caller = World(), Caller("narrow", frozenset((Right.INFER,)), models=frozenset(("tiny@studio",)))

    await world.standby().load(caller, asked("tiny"), ticket())

    assert (world.acts, world.leased) == ([("load", "narrow", "tiny@studio")], [])


@pytest.mark.parametrize("act", ["load", "unload"])
async def test_a_key_for_other_models_does_neither(act: str) -> None:
    world, caller = World(), Caller("narrow", frozenset((Right.INFER,)), models=frozenset(("other",)))

    with pytest.raises(ModelNotAllowed):
        await getattr(world.standby(), act)(caller, asked("tiny", 0.0), ticket())

    assert (world.acts, world.leased) == ([], [])

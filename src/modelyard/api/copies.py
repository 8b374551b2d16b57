"""Who has which model, and in what state: the catalog's copies beside what nodes were last seen to hold.

All of it is in memory: nobody is asked, so a list never waits for a node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from modelyard.gateway.keys import Caller
from modelyard.types.fleet import FleetNodeStatus, ResidentCopy
from modelyard.types.model import Model
from modelyard.types.status import Residency, ResidentStatus

LOCAL = "local"
UNKNOWN = "unknown"  # of a node that does not tell what is in its memory

Residents = Callable[[], Iterable[ResidentStatus]]
FleetView = Callable[[], Sequence[FleetNodeStatus]]


def no_fleet() -> tuple[FleetNodeStatus, ...]:
    """Nobody but us."""
    return ()


@dataclass(frozen=True, slots=True)
class Place:
    """One copy of a model, as it stands."""

    model: Model
    state: str
    seen_s_ago: float | None  # age of what is told; None: never seen

    @property
    def node(self) -> str:
        return self.model.node or LOCAL

    def told(self) -> dict[str, object]:
        """What lists say of it."""
        return {
            "node": self.node,
            "state": self.state,
            "size_bytes": self.model.size_bytes,
            "age_s": None if self.seen_s_ago is None else round(self.seen_s_ago, 1),
        }


class Places:
    """One look at where everything is."""

    def __init__(self, residents: Iterable[ResidentStatus], fleet: Sequence[FleetNodeStatus]) -> None:
        self._states = {resident.model: resident.state.value for resident in residents}
        self._nodes = {node.name: node for node in fleet}
        self._held: Mapping[tuple[str, str], ResidentCopy] = {
            (node.name, held.node_model): held for node in fleet for held in node.residents
        }

    def of(self, model: Model) -> Place:
        """How it stands with one copy."""
        node = self._nodes.get(model.node)
        if node is None or node.shares_devices:
            state = self._states.get(model.name, Residency.ABSENT.value)
            return Place(model, state, 0.0 if not model.node else node.seen_s_ago if node else None)
        held = self._held.get((model.node, model.node_model))
        if held is not None:
            return Place(model, held.state, node.seen_s_ago)
        tells = bool(node.residents) or node.kind == "ollama"
        return Place(model, Residency.ABSENT.value if tells else UNKNOWN, node.seen_s_ago)


def usable(models: Iterable[Model], caller: Caller) -> dict[str, list[Model]]:
    """The models this caller may use, by their names without a node; of each the copy here first."""
    found: dict[str, list[Model]] = {}
    for model in models:
        if caller.may_use(model.name):
            found.setdefault(model.bare_name, []).append(model)
    for copies in found.values():
        copies.sort(key=lambda model: bool(model.node))
    return found

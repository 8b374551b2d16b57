"""The control plane's use cases: what is the state, bring this model in, take it out, stop that request.

Asks the owners (residency, catalog, requests in flight) to make it so; decides nothing about memory itself. Every act
leaves one audit line, written before its result is told. Knows nothing about HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from modelyard import __version__
from modelyard.clock import Clock
from modelyard.errors import N_, NotFound
from modelyard.events import EventBus
from modelyard.models.store import Store
from modelyard.types.memory import Receipt
from modelyard.types.model import Candidates, Model
from modelyard.types.status import DeviceStatus, NodeStatus, RequestStatus, ResidentStatus, WaitStatus

from .audit import audited
from .cached_vectors import identity_of
from .keys import Caller
from .node_operations import NodeOperations
from .vector_cache import VectorCache

log = structlog.get_logger()
DRAINING = "node.draining"  # the last event that followers get


class ResidencyControl(Protocol):
    """What the control plane needs from the residency manager."""

    async def load(self, model: Model, *, pinned: bool | None = None, role: str = "") -> Receipt | None: ...

    async def unload(self, name: str, *, force: bool = False, role: str = "") -> Receipt | None: ...

    def pin(self, name: str, *, pinned: bool) -> None: ...

    def residents(self) -> tuple[ResidentStatus, ...]: ...

    def devices(self) -> tuple[DeviceStatus, ...]: ...

    def waiting(self) -> tuple[WaitStatus, ...]: ...

    def failures(self) -> Mapping[str, str]: ...

    async def refresh(self) -> None: ...

    @property
    def queue_length(self) -> int: ...


class CatalogControl(Protocol):
    """What the control plane needs from the catalog."""

    def resolve(self, text: str) -> Model: ...

    def find(self, text: str) -> Model | None: ...

    def candidates(self, text: str) -> Candidates: ...

    def list(self) -> tuple[Model, ...]: ...

    def role_of(self, text: str) -> str: ...

    def replace(self, models: Sequence[Model]) -> None: ...


class RequestRegistry(Protocol):
    """What the control plane needs from the requests in flight."""

    def snapshot(self) -> tuple[RequestStatus, ...]: ...

    def cancel(self, request_id: str) -> bool: ...


def first_of(candidates: Candidates) -> Model:
    """Where nobody chooses."""
    return candidates.models[0]


class Operations:
    """One node's control plane."""

    def __init__(
        self,
        *,
        clock: Clock,
        events: EventBus,
        residency: ResidencyControl,
        catalog: CatalogControl,
        requests: RequestRegistry,
        scan: Callable[[], Sequence[Model]],
        effective_settings: Callable[[], Mapping[str, object]] = dict,
        nodes: NodeOperations | None = None,
        store: Store | None = None,
        config_problem: Callable[[], str] = str,
        choose: Callable[[Candidates], Model] = first_of,
        vectors: VectorCache | None = None,
    ) -> None:
        """`choose` says which of several copies a request would go to now."""
        self.choose = choose
        self.vectors = vectors or VectorCache(0)
        self.events = events
        self.catalog = catalog
        self.store = store  # model files on this disk, where there is a place for them
        self.nodes = nodes  # what can be done to other nodes, where there may be some
        self._clock = clock
        self._residency = residency
        self._requests = requests
        self._scan = scan
        self._scanning = asyncio.Lock()
        self._effective_settings = effective_settings
        self._config_problem = config_problem
        self._started_at = clock.wall()
        self._is_started = False
        self._is_draining = False

    # ---- is it up ----

    @property
    def is_draining(self) -> bool:
        """True once the node has been told to stop."""
        return self._is_draining

    @property
    def is_ready(self) -> bool:
        """Whether requests may be sent here. A model that fails to load does not change it."""
        return self._is_started and not self._is_draining

    def checks(self) -> dict[str, bool]:
        """What readiness is made of, by name."""
        return {"started": self._is_started, "not_draining": not self._is_draining}

    def mark_started(self) -> None:
        """Everything is built and listening."""
        self._is_started = True
        log.info("node.started")
        self.events.publish("node.started", self._clock.wall())

    def begin_drain(self) -> None:
        """Take no new work from now on. Followers of events are told, and hang up."""
        if not self._is_draining:
            self._is_draining = True
            log.info(DRAINING)
            self.events.publish(DRAINING, self._clock.wall())

    # ---- what is the state ----

    def status(self) -> NodeStatus:
        """The node at this moment."""
        return NodeStatus(
            version=__version__,
            started_at=self._started_at,
            ready=self.is_ready,
            draining=self._is_draining,
            devices=self._residency.devices(),
            residents=self._residency.residents(),
            queue=self._residency.queue_length,
            waiting=self._residency.waiting(),
            requests=self._requests.snapshot(),
            failures=dict(self._residency.failures()),
            config_problem=self._config_problem(),
        )

    async def fresh_status(self) -> NodeStatus:
        """The node at this moment, after a look at who holds the memory of its devices."""
        await self._residency.refresh()
        return self.status()

    def uptime_s(self) -> float:
        return max(self._clock.wall() - self._started_at, 0.0)

    def effective_settings(self) -> Mapping[str, object]:
        """Every setting with its value and origin, secrets masked by whoever handed it in."""
        return self._effective_settings()

    # ---- make it so ----

    async def load(
        self, caller: Caller, name: str, *, pinned: bool | None = None, keep_alive_s: float | None = None
    ) -> Receipt | None:
        """Bring a model into memory; nothing happens if it is there. Named by a role, it is there for that role.

        Of several copies the one that a request would go to. How long it stays can be said of one at a node.
        """
        with audited(caller, "load", name):
            role, model = self.catalog.role_of(name), self.choose(self.catalog.candidates(name))
            if self.nodes is not None and self.nodes.keeps(model):
                return await self.nodes.load(model, keep_alive_s)
            return await self._residency.load(model, pinned=pinned, role=role)

    async def unload(self, caller: Caller, name: str, *, force: bool = False) -> Receipt | None:
        """Take a model out of memory, after its running answers; with `force`, at once.

        Named by a role, only that role lets go of it, and it leaves with the last one. A name that several nodes have
        means every copy in memory.
        """
        with audited(caller, "unload", name):
            role, receipt = self.catalog.role_of(name), None
            copies = self.catalog.candidates(name).models if self.catalog.find(name) is not None else ()
            nodes = self.nodes
            there = [one for one in copies if nodes is not None and nodes.keeps(one)]
            for copy in there:
                if nodes is not None and (len(copies) == 1 or nodes.has_resident(copy)):
                    receipt = await nodes.unload(copy) or receipt
            if there and len(there) == len(copies):
                return receipt
            return await self._residency.unload(self._resident_name(name), force=force, role=role) or receipt

    def pin(self, caller: Caller, name: str, *, pinned: bool) -> None:
        """Keep a model in memory whatever else wants the room, or no longer."""
        with audited(caller, "pin" if pinned else "unpin", name):
            self._residency.pin(self._resident_name(name), pinned=pinned)

    async def rescan(self, caller: Caller) -> tuple[Model, ...]:
        """Read the model folders again. Two at once become one after the other."""
        with audited(caller, "rescan", ""):
            async with self._scanning:
                self.catalog.replace(await asyncio.to_thread(self._scan))
            self.vectors.retain({identity_of(model) for model in self.catalog.list()})
            return self.catalog.list()

    def cancel(self, caller: Caller, request_id: str) -> None:
        """Stop one request in flight."""
        with audited(caller, "cancel", request_id):
            if not self._requests.cancel(request_id):
                hint = N_("GET /admin/status lists what is.")
                raise NotFound(N_("No request {id} is in flight."), id=request_id, hints=(hint,))

    def _resident_name(self, name: str) -> str:
        """A resident may have left the catalog; its own name still reaches it."""
        lowered = name.lower()
        if any(resident.model == lowered for resident in self._residency.residents()):
            return lowered
        return self.catalog.resolve(name).name

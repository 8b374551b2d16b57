"""Looks at every node now and then, and has one token made where only that can tell whether it still answers.

Promises: looking and probing load nothing; a probe is rare, and asks only a model that is in memory and idle; a node
that hangs holds up nobody else. One task per node. When to look and whether to probe is health.py's to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from modelyard.clock import Clock
from modelyard.errors import N_, UpstreamError, UpstreamTimeout, YardError
from modelyard.types.fleet import NodeLook
from modelyard.types.model import Capability, Model

from .fleet import Fleet
from .node import FleetNode

UNREADABLE = N_("it could not be asked")
PAUSE_S_LEAST = 0.05
MAKES_TOKENS = frozenset((Capability.CHAT, Capability.COMPLETION))

_log = structlog.get_logger()


class Prober:
    """The eyes of the fleet."""

    def __init__(self, fleet: Fleet, clock: Clock) -> None:
        self._fleet, self._clock = fleet, clock
        self._watches: dict[FleetNode, asyncio.Task[None]] = {}
        self._nudges: dict[FleetNode, asyncio.Event] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled: one watch for every node there is, begun and ended as nodes come and go."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                nodes = set(self._fleet.nodes.values())
                for node in nodes - self._watches.keys():
                    self._nudges[node] = asyncio.Event()
                    self._watches[node] = tasks.create_task(self._watch(node))
                for node in self._watches.keys() - nodes:
                    self._watches.pop(node).cancel()
                    del self._nudges[node]
                await self._changed.wait()

    def nodes_changed(self) -> None:
        """Nodes came or went."""
        self._changed.set()

    def nudge(self, name: str) -> None:
        """Look at this node now: something about it has just changed, or failed."""
        node = self._fleet.nodes.get(name)
        if node in self._nudges:
            self._nudges[node].set()

    async def first_looks(self, nodes: Iterable[FleetNode], within_s: float) -> None:
        """Look at new nodes once, in parallel, so that their models are known from the start where they answer."""
        looks = [asyncio.ensure_future(self.look(node)) for node in nodes]
        if looks:
            _done, late = await asyncio.wait(looks, timeout=within_s)
            for look in late:  # given up: its watch begins with a look of its own
                look.cancel()

    async def _watch(self, node: FleetNode) -> None:
        nudge = self._nudges[node]
        while True:
            nudge.clear()
            await self.look(node)
            await self._probe_if_due(node)
            pause_s = node.health.next_look_at(self._clock.monotonic()) - self._clock.monotonic()
            try:
                async with asyncio.timeout(max(pause_s, PAUSE_S_LEAST)):
                    await nudge.wait()
            except TimeoutError:
                pass

    async def look(self, node: FleetNode) -> None:
        """One look, and what it says to the fleet. Of a node that is reached in another way since it says nothing."""
        parts, limit_s, began_at = node.parts, node.rules.health_timeout_s, self._clock.monotonic()
        is_silent = True
        try:
            async with asyncio.timeout(limit_s):
                look: NodeLook | YardError = await parts.control.look()
        except TimeoutError:
            look, is_silent = UpstreamTimeout(model=node.name, budget_s=limit_s), parts.heard_at() < began_at
        except YardError as error:
            look = error
        except Exception:
            _log.exception("fleet.look_failed", node=node.name)
            look = UpstreamError(provider=node.name, problem=UNREADABLE)
        if node.parts is not parts:
            return
        if isinstance(look, YardError):
            self._fleet.missed(node, look, is_silent=is_silent)
        else:
            self._fleet.saw(node, look)

    async def _probe_if_due(self, node: FleetNode) -> None:
        idle = self._idle_resident(node)
        now = self._clock.monotonic()
        if not node.health.probe_due(now, has_idle_resident=idle is not None, shares_timer=node.rules.kind == "ollama"):
            return
        assert idle is not None, "only a resident model is probed"
        parts, limit_s = node.parts, node.rules.health_timeout_s
        error: YardError | None = None
        try:
            async with asyncio.timeout(limit_s):
                await parts.control.probe(idle)
        except TimeoutError:
            error = UpstreamTimeout(model=idle.name, budget_s=limit_s)
        except YardError as failure:
            error = failure
        except Exception:
            _log.exception("fleet.probe_failed", node=node.name)
            error = UpstreamError(provider=node.name, problem=UNREADABLE)
        if node.parts is parts:
            self._fleet.probed(node, error)

    @staticmethod
    def _idle_resident(node: FleetNode) -> Model | None:
        """A model that is in memory, answers nobody of ours, and can chat."""
        models = node.look.models if node.look is not None else ()
        return next(
            (
                model
                for model in models
                if model.capabilities & MAKES_TOKENS
                and model.name in node.residents
                and not node.in_flight[model.name]
                and node.is_resident(model)
            ),
            None,
        )

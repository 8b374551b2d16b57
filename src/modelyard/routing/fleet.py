"""The nodes we know and how each is doing: the only owner of that. Looks, attempts and operators report here.

Promises: every attempt ends with exactly one verdict on its node; an edit counts from the next request on; nothing here
waits for a node. Decides nothing: health.py, cooldown.py and ranking.py do, from what is told here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

import structlog

from modelyard.clock import Clock
from modelyard.errors import N_, NodeNotFound, NoNodeAvailable, UpstreamUnreachable, YardError
from modelyard.events import EventBus
from modelyard.providers.ticket import Ticket
from modelyard.types.fleet import FleetNodeStatus, Health, NodeLook
from modelyard.types.model import Model

from .attempt import Attempt
from .cooldown import Cooldowns, Trial
from .failures import Failure, failure_of
from .health import IN_ROTATION, HealthRules, NodeHealth
from .node import FleetNode, NodeParts, NodeRules
from .wanted import Wanted

RETRY_AFTER_S = 5.0  # told where nobody knows when a node comes back
RETRY_AFTER_S_MIN = 1.0
NEAR_COUNT_MAX = 3
NEAR_RATIO_MIN = 0.5
PROBLEM_CHARS_MAX = 100

_log = structlog.get_logger()


class Names(Protocol):
    """What we need of the catalog."""

    def replace_node(self, node: str, models: tuple[Model, ...]) -> bool: ...


class Fleet:
    """Every other node, and how it stands with it."""

    def __init__(
        self,
        clock: Clock,
        names: Names,
        events: EventBus,
        *,
        cooldowns: Cooldowns | None = None,
    ) -> None:
        self.nudge: Callable[[str], None] = lambda _node: None  # has a node looked at soon; the prober's
        self.nodes: dict[str, FleetNode] = {}
        self.cooldowns = cooldowns or Cooldowns()
        self._clock, self._names, self._events = clock, names, events

    # ---- which nodes there are ----

    def put(self, rules: NodeRules, parts: NodeParts) -> FleetNode:
        """A new node. It may be asked at once; what it has is known after the first look."""
        node = self.nodes[rules.name] = self.made(rules, parts)
        self._names.replace_node(rules.name, ())
        return node

    def made(self, rules: NodeRules, parts: NodeParts) -> FleetNode:
        """A node that nobody is sent to yet: it may be looked at, and then take the place of another."""
        return FleetNode(rules, parts, NodeHealth(rules.name, self._now(), HealthRules(look_s=rules.look_s)))

    async def move(self, node: FleetNode) -> None:
        """Another server takes the place of the node of that name. Answers under way end where they began.

        Nothing that was known of the old one counts, but for an operator's edits; where the new one did not answer a
        look yet, the old one's models stay listed.
        """
        old = self.nodes[node.name]
        if node.look is None and node.rules.kind == old.rules.kind:
            node.look, node.looked_at = old.look, old.looked_at
        old.configure(node.rules)
        node.edit(old.edits)
        self.nodes[node.name] = node
        self.cooldowns.forget(node.name)
        self._names.replace_node(node.name, self._offered(node))
        await old.parts.close()

    async def reconnect(self, rules: NodeRules, parts: NodeParts) -> None:
        """Reach a node in another way from the next request on. What is known of it stays, but that it refused us."""
        node = self.node(rules.name)
        old, node.parts = node.parts, parts
        self.set_rules(rules)
        if node.health.state is Health.MISCONFIGURED:  # that was about the old key
            before = node.health.state
            node.health = NodeHealth(node.name, self._now(), node.health.rules)
            self.cooldowns.forget(node.name)
            self.tell_health(node, before)
        await old.close()
        self.nudge(node.name)

    async def remove(self, name: str) -> None:
        """Forget a node. Answers under way go on: their connections are their own."""
        node = self.nodes.pop(name)
        self._names.replace_node(name, ())
        self.cooldowns.forget(name)
        await node.parts.close()

    async def close(self) -> None:
        """Hang up on every node."""
        for node in self.nodes.values():
            await node.parts.close()

    def edit(self, name: str, **changed: object) -> NodeRules:
        """Change what counts from the next request on: `weight`, `draining`, `slots`, `models`."""
        node = self.node(name)
        node.edit(changed)
        self._offer(node)
        self._tell("node.changed", name, **changed)
        return node.rules

    def set_rules(self, rules: NodeRules) -> None:
        """Take what the configuration says now. An operator's edit of a field stays until that field differs there."""
        node = self.node(rules.name)
        node.configure(rules)
        node.health.rules = replace(node.health.rules, look_s=rules.look_s)
        self._offer(node)

    def continues(self, model: Model) -> bool:
        """Whether whoever has this copy can go on from the middle of an answer."""
        node = self.nodes.get(model.node)
        return node.rules.continues if node is not None else model.engine == "llamacpp"

    def node(self, name: str) -> FleetNode:
        """The node of that name, or `NodeNotFound`."""
        found = self.nodes.get(name)
        if found is None:
            raise self._unknown(name)
        return found

    def why_nothing_at(self, model: str, name: str) -> YardError | None:
        """Why nothing is known of a node: it was never seen, or nobody configured it. None: it has no such model."""
        node = self.nodes.get(name)
        if node is None:
            return self._unknown(name, param="model")
        if node.look is not None:
            return None
        wait_s = max(node.health.next_look_at(now := self._now()) - now, RETRY_AFTER_S_MIN)
        reasons = f"{name}: {node.health.reason or N_('it was not seen yet')}"
        return NoNodeAvailable(model=model, reasons=reasons, retry_after_s=wait_s, param="model")

    def _unknown(self, name: str, param: str | None = None) -> NodeNotFound:
        near = ", ".join(difflib.get_close_matches(name[:100], list(self.nodes), NEAR_COUNT_MAX, NEAR_RATIO_MIN))
        if not near:
            return NodeNotFound(node=name[:100], param=param)
        return NodeNotFound(node=name[:100], near=near, param=param)

    # ---- what is found ----

    def saw(self, node: FleetNode, look: NodeLook) -> None:
        """A look went well."""
        now = self._clock.monotonic()
        before = node.health.state
        node.saw(look, now)
        node.health.looked(now)
        if not self.is_known(node):
            return
        if node.health.wants_try(now):  # else whoever should find out would wait for a time that is over
            self.cooldowns.connected(node.name, now)
        self._offer(node)
        self.tell_health(node, before)

    def missed(self, node: FleetNode, error: YardError, *, is_silent: bool = True) -> None:
        """A look failed. What it had stays listed, with its age.

        `is_silent`: not one control call was answered. A node that is out and silent is given up by whoever waits
        there for a first token: another may be asked. One that answers some calls may be loading, which would be lost.
        """
        before = node.health.state
        failure = failure_of(error) or Failure.INVALID
        problem = str(error.fields.get("problem", ""))[:PROBLEM_CHARS_MAX]
        node.health.look_failed(failure, self._clock.monotonic(), error.retry_after_s, problem)
        self.tell_health(node, before, problem=str(error))
        if is_silent and failure in (Failure.CONNECT, Failure.TIMEOUT):
            node.parts.drop_idle()  # they may lead nowhere; a new one says so within seconds
            if node.health.state is Health.OUT:
                for ticket in list(node.waiting):
                    ticket.interrupt(UpstreamUnreachable(provider=node.name, problem=N_("it has stopped answering")))

    def probed(self, node: FleetNode, error: YardError | None) -> None:
        """A probe ended; with an error that is not the node's fault it has answered."""
        before = node.health.state
        failure = None if error is None else failure_of(error)  # a refusal is an answer: it is not the node's fault
        node.health.probed(self._clock.monotonic(), failure)
        self.tell_health(node, before, problem="" if error is None else str(error))

    # ---- what is answered ----

    @contextmanager
    def attempt(self, model: Model, wanted: Wanted, ticket: Ticket) -> Iterator[Attempt]:
        """One request at one node; exactly one verdict comes of it."""
        node, tokens = self.node(model.node), wanted.work
        attempt = Attempt(self, node, model, ticket, self._now(), wanted.keep_alive_s)
        node.in_flight[model.name] += 1
        node.queued_tokens[model.name] += tokens
        node.waiting.add(ticket)
        error: BaseException | None = None
        try:
            yield attempt
        except BaseException as exc:
            error = exc
            raise
        finally:
            node.in_flight[model.name] -= 1
            node.queued_tokens[model.name] -= tokens
            node.waiting.discard(ticket)
            attempt.ended(error, self._now())

    def failed(
        self,
        node: FleetNode,
        model: Model,
        failure: Failure,
        error: BaseException,
        now: float,
        trials: tuple[Trial, ...],
    ) -> None:
        """An attempt failed by the node's fault."""
        before = node.health.state
        retry_after_s = error.retry_after_s if isinstance(error, YardError) else None
        node.health.attempt_failed(failure, now)
        self.cooldowns.failed(node.name, model.name, failure, now, retry_after_s=retry_after_s, trials=trials)
        _log.info("fleet.attempt_failed", node=node.name, model=model.name, failure=failure.value)
        self.tell_health(node, before, problem=str(error))
        self.nudge(node.name)

    # ---- what is told ----

    def status(self) -> tuple[FleetNodeStatus, ...]:
        """Every node, by name, from memory."""
        now, wall = self._clock.monotonic(), self._clock.wall()
        return tuple(self._status(node, now, wall) for _name, node in sorted(self.nodes.items()))

    # ---- inside ----

    def _now(self) -> float:
        return self._clock.monotonic()

    def is_known(self, node: FleetNode) -> bool:
        """Whether it is the node of its name: not yet to be, and not gone."""
        return self.nodes.get(node.name) is node

    def _offered(self, node: FleetNode) -> tuple[Model, ...]:
        return tuple(model for model in (node.look.models if node.look is not None else ()) if node.rules.offers(model))

    def _offer(self, node: FleetNode) -> None:
        offered = self._offered(node)
        if self._names.replace_node(node.name, offered):
            _log.info("fleet.models_changed", node=node.name, models=len(offered))

    def _status(self, node: FleetNode, now: float, wall: float) -> FleetNodeStatus:
        health, rules, look = node.health, node.rules, node.look
        cooling = {
            model: left_s
            for (name, model), until in self.cooldowns.snapshot(now).items()
            if name == node.name and (left_s := until - now) > 0
        }
        return FleetNodeStatus(
            name=node.name, kind=rules.kind, url=rules.url, health=health.state, reason=health.reason,
            since=wall - (now - health.since), weight=rules.weight, draining=node.is_draining,
            in_flight=node.in_flight.total(), models_count=len(look.models) if look is not None else 0,
            version=look.version if look is not None else "", residents=tuple(node.residents.values()),
            seen_s_ago=None if node.looked_at is None else now - node.looked_at,
            next_probe_in_s=max(0.0, health.next_look_at(now) - now), cooling=cooling, slots=rules.slots,
            shares_devices=rules.shares_devices, is_like_us=look is not None and look.is_like_us,
        )  # fmt: skip

    def tell_health(self, node: FleetNode, before: Health, problem: str = "") -> None:
        state = node.health.state
        if state is not before and self.is_known(node):
            if state in IN_ROTATION and before not in IN_ROTATION:
                self.cooldowns.recovered(node.name, self._now())
            _log.info("node.health", node=node.name, health=state.value, before=before.value, problem=problem)
            self._tell("node.health", node.name, health=state.value, before=before.value, reason=node.health.reason)

    def _tell(self, name: str, node: str, **fields: object) -> None:
        self._events.publish(name, self._clock.wall(), node=node, **fields)

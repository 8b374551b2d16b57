"""Takes up a changed configuration while the node runs: only what differs is touched, and nothing that runs is cut.

The exception is a key that was taken back or narrowed: what it may no longer do ends at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass

from modelyard.api.security import Guard
from modelyard.clock import Clock
from modelyard.config.changes import Changes, in_force
from modelyard.config.schema import Settings
from modelyard.config.settings import LoadedSettings
from modelyard.errors import N_, NotAuthenticated
from modelyard.gateway.inference import Inference
from modelyard.gateway.keys import Caller, Right
from modelyard.gateway.operations import Operations
from modelyard.models.catalog import Catalog
from modelyard.node import CONFIGURATION
from modelyard.providers.fitting import PromptLimits
from modelyard.providers.local import LocalProvider
from modelyard.residency.manager import ResidencyManager
from modelyard.residency.messages import LimitsChanged, RecycleAsked
from modelyard.routing.fleet import Fleet
from modelyard.routing.node import NodeParts, NodeRules
from modelyard.routing.prober import Prober
from modelyard.routing.router import Router
from modelyard.wiring.commands import commands, warn_of_open_commands
from modelyard.wiring.engines import Recipes
from modelyard.wiring.names import aliases, prompt_limits
from modelyard.wiring.nodes import node_parts, node_rules, retry_budget, routing_rules
from modelyard.wiring.parts import (
    deadlines,
    guard,
    guard_rules,
    keeping,
    residency_limits,
    start_limits,
)
from modelyard.workers.start import Starter

FIRST_LOOKS_S = 2.0  # at other nodes before anybody is sent there; who is slower is known later


class Live:
    """The settings in force. Written by `Applying` alone."""

    def __init__(self, loaded: LoadedSettings) -> None:
        self.started = loaded.settings
        self.become(loaded)

    def become(self, loaded: LoadedSettings) -> None:
        """What is configured now; what needs a restart stays in force as it was at the start."""
        self.loaded, self.settings = loaded, in_force(self.started, loaded.settings)

    def load_s(self) -> float:
        """Longest load, by now."""
        return self.settings.deadlines.load_s

    def queue_s(self) -> float:
        """Longest wait for memory, by now."""
        return self.settings.residency.queue_s

    def prompt_limits(self, model: str) -> PromptLimits:
        """How long prompts to a model may be, by now."""
        return prompt_limits(self.settings, model)


@dataclass(frozen=True, slots=True)
class Others:
    """Other nodes: what is known of them, who looks at them, who chooses among them and us, and we as one of them."""

    fleet: Fleet
    prober: Prober
    router: Router
    local: LocalProvider


@dataclass(frozen=True, slots=True)
class Applying:
    """The parts of one node that a changed configuration reaches."""

    live: Live
    clock: Clock
    catalog: Catalog
    manager: ResidencyManager
    starter: Starter
    recipes: Recipes
    others: Others
    guard: Guard
    inference: Inference
    operations: Operations

    async def apply(self, changed: Changes, loaded: LoadedSettings) -> None:
        """Take up what differs. Whatever can fail does before anything is changed: what is new is made first."""
        before, new = self.live.loaded, in_force(self.live.started, loaded.settings)
        touches_keys = changed.touch("keys", "limits", "server", "models.aliases", "roles")
        guard_now = guard(new, self.clock) if touches_keys else None
        ways = self._ways(changed, new)
        self.live.become(loaded)
        is_engine = any(name.endswith(".engines") for name in changed.names)
        found_by = (
            "models.folders", "models.path", "models.code_folders", "models.builtin", "models.command", "models.echo",
        )  # fmt: skip
        if is_engine or changed.touch(*found_by):
            try:
                await self.operations.rescan(CONFIGURATION)
            except BaseException:
                self.live.become(before)
                raise
        if guard_now is not None:
            self._take_up_keys(guard_now)
        if changed.touch("models.aliases", "roles", "routing.order"):
            self.catalog.configure(aliases(new), new.roles, new.routing.order)
        if changed.touch("models.command"):
            self._let_go(self._take_up_commands())
        self._take_up_models(changed)
        if changed.touch("embeddings.cache_bytes"):
            self.inference.vectors.cache.resize(new.embeddings.cache_bytes)
        if changed.touch("memory", "residency", "models.groups", "embeddings"):
            self.manager.feed(LimitsChanged(self.clock.monotonic(), residency_limits(new)))
        if changed.touch("deadlines", "residency.queue_s"):
            self.starter.limits = start_limits(new)
            self.others.local.deadlines = deadlines(new)
            self.manager.queue_s = new.residency.queue_s
        if changed.touch("guards"):
            self.inference.guards.rules = guard_rules(new)
        if changed.touch("routing"):
            self.others.router.rules, self.others.router.budget = routing_rules(new), retry_budget(new)
        await self._take_up_nodes(changed, ways)

    def _take_up_keys(self, now: Guard) -> None:
        self.guard.become(now)
        callers: Mapping[str, Caller] = now.keys.callers()

        def is_out(caller_id: str, model: str) -> bool:
            caller = callers.get(caller_id)
            if caller is None:
                return bool(callers) and not caller_id.startswith("local:")
            return Right.INFER not in caller.rights or not caller.may_use(model)

        if callers:
            self.inference.interrupt_callers(is_out, NotAuthenticated(N_("This key was taken back.")))

    def _take_up_commands(self) -> Set[str]:
        """A changed command counts from the next load on. Which models have none any more."""
        engine = self.recipes.command
        before = engine.recipes
        engine.configure(commands(self.live.settings))
        now = engine.recipes
        changed = {name: recipe for name, recipe in now.items() if before.get(name) != recipe}
        warn_of_open_commands(changed)
        self.manager.forget_specs(changed)
        return before.keys() - now.keys()

    def _let_go(self, models: Collection[str]) -> None:
        """These leave when they are idle, pinned or not: nobody can ask for them any more."""
        for resident in self.manager.residents():
            if resident.model in models:
                self.manager.pin(resident.model, pinned=False)
                why = "its command is no longer configured"
                self.manager.feed(RecycleAsked(self.clock.monotonic(), resident.model, resident.epoch, why))

    def _take_up_models(self, changed: Changes) -> None:
        new = self.live.settings
        if not changed.touch("models.launch", "models.options"):
            return
        self.starter.configure(keeping(new))
        self.recipes.configure(new)
        self.inference.vectors.cache.clear()  # a context or a number format gives other vectors
        self.manager.forget_specs(None if "" in changed.launched_anew else changed.launched_anew)
        for name in changed.launched_anew:
            options = new.models.options_for(name)
            if name and changed.touch(f"models.options.{name}.pinned"):
                self.manager.pin(name.lower(), pinned=options.pinned)

    def _ways(self, changed: Changes, new: Settings) -> dict[str, tuple[NodeRules, NodeParts]]:
        """How nodes are reached that are new, or reached in another way. Nobody is connected to for it."""
        names = {*changed.nodes_added, *changed.nodes_reconnected, *changed.nodes_moved}
        fleet, limits_of = self.others.fleet, self.live.prompt_limits
        return {
            given.name: (node_rules(given), node_parts(given, new, self.clock, fleet, self.manager, limits_of))
            for given in new.nodes
            if given.name in names
        }

    async def _take_up_nodes(self, changed: Changes, ways: Mapping[str, tuple[NodeRules, NodeParts]]) -> None:
        fleet, prober = self.others.fleet, self.others.prober
        for name in changed.nodes_removed:
            await fleet.remove(name)
        for name in changed.nodes_added:
            fleet.put(*ways[name])
        for given in self.live.settings.nodes:
            if given.name in changed.nodes_edited:
                fleet.set_rules(node_rules(given))
        for name in changed.nodes_reconnected:
            await fleet.reconnect(*ways[name])
        prober.nodes_changed()
        moved = [fleet.made(*ways[name]) for name in changed.nodes_moved]
        await prober.first_looks(moved, FIRST_LOOKS_S)  # the old ones answer meanwhile
        for node in moved:
            await fleet.move(node)
        prober.nodes_changed()

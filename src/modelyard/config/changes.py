"""What differs between two configurations, by name, and which of it counts only after a restart. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, SecretStr

from modelyard.config.node_settings import NodeSettings
from modelyard.config.schema import Settings

# What a running server cannot take up. A name stands for all below it.
RESTART = (
    "server.host", "server.port", "server.fd", "server.drain_s", "server.body_max_bytes", "server.language",
    "memory.gpus", "memory.ram_limit_bytes", "models.engine", "guards.hook", "pull", "log",
)  # fmt: skip
DEVICES = "devices"  # of a node: the ledger is built around those that share them
# Of a node: what counts at the next request, without another connection.
NODE_RULES = frozenset(("weight", "draining", "slots", "models", "look_s", "health_timeout_s"))


@dataclass(frozen=True, slots=True)
class Changes:
    """The names of what differs, in order."""

    names: tuple[str, ...] = ()
    after_restart: tuple[str, ...] = ()  # of these, those that nobody takes up now
    nodes_added: tuple[str, ...] = ()
    nodes_removed: tuple[str, ...] = ()
    nodes_edited: tuple[str, ...] = ()  # only their rules
    nodes_replaced: tuple[str, ...] = ()  # reached in another way
    launched_anew: tuple[str, ...] = ()  # models whose workers would be started otherwise; empty name: all others

    def __bool__(self) -> bool:
        return bool(self.names)

    def touch(self, *prefixes: str) -> bool:
        """Whether anything at or below one of these names differs."""
        return any(name == prefix or name.startswith(f"{prefix}.") for name in self.names for prefix in prefixes)


def changes(old: Settings, new: Settings) -> Changes:
    """Everything that differs."""
    before, after = dict(_leaves(old, "")), dict(_leaves(new, ""))
    names = tuple(name for name in sorted({*before, *after}) if before.get(name) != after.get(name))
    nodes_before, nodes_after = _by_name(old), _by_name(new)
    both = [name for name in nodes_after if name in nodes_before]
    differing = {name: _fields(nodes_before[name], nodes_after[name]) for name in both}
    return Changes(
        names,
        after_restart=tuple(name for name in names if _needs_restart(name, nodes_before, nodes_after)),
        nodes_added=tuple(name for name in nodes_after if name not in nodes_before),
        nodes_removed=tuple(name for name in nodes_before if name not in nodes_after),
        nodes_edited=tuple(name for name in both if differing[name] and differing[name] <= NODE_RULES),
        nodes_replaced=tuple(name for name in both if differing[name] - NODE_RULES),
        launched_anew=_launched_anew(old, new),
    )


def _leaves(value: object, name: str) -> Iterator[tuple[str, object]]:
    """Every single setting by its dotted name. Secrets are compared, and never leave this function otherwise."""
    match value:
        case SecretStr():
            yield name, value.get_secret_value()
        case NodeSettings():
            yield from ((f"{name}.{field}", leaf) for field, leaf in value)
        case BaseModel():
            for field, inner in value:
                yield from _leaves(inner, f"{name}.{field}" if name else field)
        case tuple() if value and isinstance(value[0], BaseModel):
            for at, inner in enumerate(value):
                yield from _leaves(inner, f"{name}.{getattr(inner, 'name', getattr(inner, 'id', at))}")
        case Mapping():
            for key, inner in value.items():
                yield from _leaves(inner, f"{name}.{key}")
        case _:
            yield name, value


def _by_name(settings: Settings) -> dict[str, NodeSettings]:
    return {node.name: node for node in settings.nodes}


def _fields(old: NodeSettings, new: NodeSettings) -> frozenset[str]:
    return frozenset(field for field, value in new if getattr(old, field) != value)


def _needs_restart(name: str, old: Mapping[str, NodeSettings], new: Mapping[str, NodeSettings]) -> bool:
    if any(name == prefix or name.startswith(f"{prefix}.") for prefix in RESTART):
        return True
    if not name.startswith("nodes."):
        return False
    node, _dot, field = name.removeprefix("nodes.").rpartition(".")
    shares = [nodes[node].devices for nodes in (old, new) if node in nodes]
    if field == DEVICES:
        return any(shares)
    return any(shares) and field in ("url", "slots", "is_this_machine")  # the ledger's own eye on it


def _launched_anew(old: Settings, new: Settings) -> tuple[str, ...]:
    names = {"", *old.models.options, *new.models.options}
    return tuple(sorted(name for name in names if old.models.options_for(name) != new.models.options_for(name)))

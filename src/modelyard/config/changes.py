"""What differs between two configurations, by name, and which of it counts only after a restart. Pure.

A new setting counts at once, unless it stands in `RESTART`; a test compares a server that took up every setting with
one that was started with them.
"""

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
# Of a node: what counts at the next request, without another connection.
NODE_RULES = frozenset(("weight", "draining", "slots", "models", "look_s", "health_timeout_s"))
NODE_PLACE = frozenset(("kind", "url"))  # of a node: with another one it is another server
# Of all nodes: part of the way each is reached.
NODE_DEADLINES = ("deadlines.load_s", "deadlines.load_per_gib_s", "residency.queue_s")
# Of a node that shares devices: the ledger is built around it.
LEDGER = ("devices", "kind", "url")
LEDGER_TOO = ("slots", "is_this_machine")


@dataclass(frozen=True, slots=True)
class Changes:
    """The names of what differs, in order."""

    names: tuple[str, ...] = ()
    after_restart: tuple[str, ...] = ()  # of these, those that nobody takes up now
    nodes_added: tuple[str, ...] = ()
    nodes_removed: tuple[str, ...] = ()
    nodes_edited: tuple[str, ...] = ()  # only their rules
    nodes_reconnected: tuple[str, ...] = ()  # the same server, reached in another way: timeouts, key, TLS, dialect
    nodes_moved: tuple[str, ...] = ()  # another server
    launched_anew: tuple[str, ...] = ()  # models whose workers would be started otherwise; empty name: all others

    def __bool__(self) -> bool:
        return bool(self.names)

    def touch(self, *prefixes: str) -> bool:
        """Whether anything at or below one of these names differs."""
        return any(name == prefix or name.startswith(f"{prefix}.") for name in self.names for prefix in prefixes)


def changes(old: Settings, new: Settings, started: Settings | None = None) -> Changes:
    """Everything that differs, for a server that was started with `started`."""
    started = started or old
    before, after, taken_up = (dict(leaves(one, "")) for one in (old, new, in_force(started, new)))
    names = tuple(name for name in sorted({*before, *after}) if before.get(name) != after.get(name))
    nodes_before, nodes_after = _by_name(in_force(started, old)), _by_name(in_force(started, new))
    both = [name for name in nodes_after if name in nodes_before]
    differing = {name: _fields(nodes_before[name], nodes_after[name]) for name in both}
    moved = [name for name in both if differing[name] & NODE_PLACE]
    all_again = any(name in names for name in NODE_DEADLINES)
    again = [name for name in both if name not in moved and (all_again or differing[name] - NODE_RULES)]
    return Changes(
        names,
        after_restart=tuple(
            name for name in names if taken_up.get(name) != after.get(name) or _left_the_ledger(name, started, after)
        ),
        nodes_added=tuple(name for name in nodes_after if name not in nodes_before),
        nodes_removed=tuple(name for name in nodes_before if name not in nodes_after),
        nodes_edited=tuple(name for name in both if differing[name] and name not in (*moved, *again)),
        nodes_reconnected=tuple(again),
        nodes_moved=tuple(moved),
        launched_anew=_launched_anew(old, new),
    )


def in_force(started: Settings, configured: Settings) -> Settings:
    """What a server that was started with the one works by once it took up the other: all but what needs a restart."""
    kept: dict[str, object] = {}
    for name in RESTART:
        section, _dot, field = name.partition(".")
        if not field:
            kept[section] = getattr(started, section)
            continue
        whole = kept.get(section, getattr(configured, section))
        assert isinstance(whole, BaseModel), "what has a dot in its name is a section"
        kept[section] = whole.model_copy(update={field: getattr(getattr(started, section), field)})
    before = _by_name(started)
    kept["nodes"] = tuple(_node_in_force(before.get(node.name), node) for node in configured.nodes)
    return configured.model_copy(update=kept)


def _node_in_force(started: NodeSettings | None, node: NodeSettings) -> NodeSettings:
    """A node that shares devices stays where it is until a restart, and no other begins to share any."""
    if started is None or not started.devices:
        return node.model_copy(update={"devices": ()}) if node.devices else node
    if any(getattr(node, field) != getattr(started, field) for field in LEDGER):
        rules = NODE_RULES.difference(LEDGER_TOO)
        return started.model_copy(update={field: getattr(node, field) for field in rules})
    return node.model_copy(update={field: getattr(started, field) for field in LEDGER_TOO})


def _left_the_ledger(name: str, started: Settings, after: Mapping[str, object]) -> bool:
    """Whether this is the devices of a node that is gone from the configuration, and not yet from the ledger."""
    return name not in after and any(node.devices and name == f"nodes.{node.name}.devices" for node in started.nodes)


def leaves(value: object, name: str) -> Iterator[tuple[str, object]]:
    """Every single setting by its dotted name. Secrets are compared, and never leave this function otherwise."""
    match value:
        case SecretStr():
            yield name, value.get_secret_value()
        case NodeSettings():
            yield from ((f"{name}.{field}", value.leaf(field)) for field in type(value).model_fields)
        case BaseModel():
            for field, inner in value:
                yield from leaves(inner, f"{name}.{field}" if name else field)
        case tuple() if value and isinstance(value[0], BaseModel):
            for at, inner in enumerate(value):
                yield from leaves(inner, f"{name}.{getattr(inner, 'name', getattr(inner, 'id', at))}")
        case Mapping():
            for key, inner in value.items():
                yield from leaves(inner, f"{name}.{key}")
        case _:
            yield name, value


def _by_name(settings: Settings) -> dict[str, NodeSettings]:
    return {node.name: node for node in settings.nodes}


def _fields(old: NodeSettings, new: NodeSettings) -> frozenset[str]:
    return frozenset(field for field in NodeSettings.model_fields if old.leaf(field) != new.leaf(field))


def _launched_anew(old: Settings, new: Settings) -> tuple[str, ...]:
    names = {"", *old.models.options, *new.models.options}
    return tuple(sorted(name for name in names if old.models.options_for(name) != new.models.options_for(name)))

"""What the settings are, where each came from, and what is risky about them on this machine. Pure: values in, values
out; whoever calls prints. Secrets are masked here, so nothing downstream has to remember to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, SecretStr

from modelyard.config.finding import Finding
from modelyard.config.load import Origin, Parts, dotted
from modelyard.config.schema import Settings
from modelyard.config.settings import LoadedSettings, is_open
from modelyard.errors import N_
from modelyard.units import GIB, format_bytes, format_duration, parse_bytes, parse_duration

MASK = "********"
COMMIT_BYTES_MIN = 16 * GIB
# Not settings of ours, and they count all the same.
FURTHER_VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
    "OLLAMA_MODELS", "OLLAMA_REMOTE_HOST", "OLLAMA_REMOTE_PORT",
)  # fmt: skip
DISK_FREE_BYTES_MIN = 5 * GIB
UNLOAD_DISABLED = Finding(
    "unload_disabled",
    N_("Idle models stay in memory until another needs their room: unloading is switched off."),
    N_("Set MODEL_UNLOAD_ENABLED=1 (residency.unload_enabled) to have them unloaded."),
)


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One value and its origin."""

    name: str
    value: object  # plain JSON types; secrets masked
    origin: Origin


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What the risks depend on. None where the machine does not say."""

    ram_total_bytes: int
    gpu_count: int
    commit_limit_bytes: int | None = None  # RAM and page file together, where the system limits what it promises
    disk_free_bytes: int | None = None  # where models and state are kept


def setting_rows(loaded: LoadedSettings) -> tuple[SettingRow, ...]:
    """Every value, in the order of the documentation."""
    return tuple(
        SettingRow(dotted(parts), value, loaded.origin(parts)) for parts, value in _values(loaded.settings, ())
    )


def effective_lines(loaded: LoadedSettings, *, everything: bool = False) -> tuple[str, ...]:
    """The configuration in effect as lines for people; without `everything` only what differs from the defaults."""
    rows = [row for row in setting_rows(loaded) if everything or row.origin.source != "default"]
    return tuple(f"{row.name} = {written(row.name, row.value)}  ({row.origin})" for row in rows)


def variable_lines(loaded: LoadedSettings, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The environment variables in effect, secrets masked: settings, and what else counts."""
    shown = {name: MASK if _is_secret(parts) else environment.get(name, "") for name, parts in loaded.variables.items()}
    for name in FURTHER_VARIABLES:
        if value := environment.get(name):
            shown[name] = MASK if "TOKEN" in name or "@" in value else value
    return tuple(f"{name}={value}" for name, value in sorted(shown.items()))


def risks(settings: Settings, facts: MachineFacts) -> list[Finding]:
    """What may go wrong with these settings on this machine, worst first."""
    found = []
    if is_open(settings):
        found.append(
            Finding(
                "open_bind",
                N_("Everybody who reaches {host} may use this server: it listens off loopback without a key."),
                N_("Add a key, or listen on 127.0.0.1."),
                {"host": settings.server.host},
            )
        )
    if facts.commit_limit_bytes is not None and facts.commit_limit_bytes < COMMIT_BYTES_MIN:
        found.append(
            Finding(
                "commit_limit_low",
                N_("The system promises programs {limit} at most; loading a large model may fail."),
                N_("Enlarge the page file or swap so that it is at least {wanted}."),
                {"limit": format_bytes(facts.commit_limit_bytes), "wanted": format_bytes(COMMIT_BYTES_MIN)},
            )
        )
    if not settings.residency.unload_enabled:
        found.append(UNLOAD_DISABLED)
    ram_limit = settings.memory.ram_limit_bytes
    if ram_limit is not None and ram_limit > facts.ram_total_bytes:
        found.append(
            Finding(
                "ram_limit_high",
                N_("memory.ram_limit_bytes is {limit}, and this machine has {total}."),
                N_("Lower it; the smaller of the two counts."),
                {"limit": format_bytes(ram_limit), "total": format_bytes(facts.ram_total_bytes)},
            )
        )
    headroom = settings.memory.headroom_bytes
    if ram_limit is not None and ram_limit <= headroom:
        found.append(
            Finding(
                "ram_limit_low",
                N_("No model fits: memory.ram_limit_bytes is {limit}; memory.headroom_bytes keeps {headroom} of it."),
                N_("Raise the first, such as to 8GiB, or lower the second."),
                {"limit": format_bytes(ram_limit), "headroom": format_bytes(headroom)},
            )
        )
    if facts.disk_free_bytes is not None and facts.disk_free_bytes < DISK_FREE_BYTES_MIN:
        found.append(
            Finding(
                "disk_low",
                N_("Only {free} of disk is free."),
                N_("Make room before fetching models."),
                {"free": format_bytes(facts.disk_free_bytes)},
            )
        )
    if settings.memory.gpus and facts.gpu_count == 0:
        found.append(
            Finding("no_gpu", N_("No GPU is in use: models run on the CPU."), N_("Prefer small models."), {}, "notice")
        )
    return [*found, *_unknown_devices(settings, facts)]


def _unknown_devices(settings: Settings, facts: MachineFacts) -> Iterator[Finding]:
    known = {"ram", *(f"gpu{number}" for number in range(facts.gpu_count))}
    for node in settings.nodes:
        for device in node.devices:
            if device not in known:
                yield Finding(
                    "unknown_device",
                    N_("The node {node} is said to use {device}, which is not in use here: nothing there counts."),
                    N_("Correct devices of that node; this machine has {known}."),
                    {"node": node.name, "device": device, "known": ", ".join(sorted(known))},
                )


def written(name: str, value: object) -> str:
    """A setting's value as a person would write it, with units where its name has one and nothing is lost.

    >>> written("headroom_bytes", 2 * GIB), written("load_s", 300.0), written("load_s", 90.5), written("port", 1)
    ('2GiB', '5m', '90.5', '1')
    """
    if isinstance(value, int) and name.endswith("_bytes"):
        text = format_bytes(value).replace(" ", "").replace(".0", "")
        return text if value and parse_bytes(text) == value else str(value)
    if isinstance(value, float) and name.endswith("_s") and not name.endswith("_per_s") and value >= 60:
        text = format_duration(value)
        return text if parse_duration(text) == value else f"{value:g}"
    return shown(list(value) if isinstance(value, tuple) else value)


def shown(value: object) -> str:
    """A value as a person would write it in a file."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case list():
            return "[" + ", ".join(shown(item) for item in value) + "]"
        case dict():
            return "{" + ", ".join(f"{key} = {shown(item)}" for key, item in value.items()) + "}"
        case str():
            return f'"{value}"'
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _values(value: object, parts: Parts) -> Iterator[tuple[Parts, object]]:
    match value:
        case BaseModel():
            for name in type(value).model_fields:
                yield from _values(getattr(value, name), (*parts, name))
        case Mapping() if value:
            for name, item in value.items():
                yield from _values(item, (*parts, str(name)))
        case _:
            yield parts, _plain(value)


def _plain(value: object) -> object:
    match value:
        case SecretStr():
            return MASK
        case Path():
            return str(value)
        case BaseModel():
            return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
        case tuple() | list():
            return [_plain(item) for item in value]
        case Mapping():
            return {str(name): _plain(item) for name, item in value.items()}
        case _:
            return value


def _is_secret(parts: Parts) -> bool:
    return parts[:1] in (("keys",), ("nodes",))  # nodes as one JSON text may have keys in them

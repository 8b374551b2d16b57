"""Every setting there is counts at once when it changes, or is told to need a restart.

A server that took up a second configuration is compared with one that was started with it: every value that any of
their parts keeps is the same. A new setting needs a second value below.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import is_dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from pprint import pformat
from types import CellType, FunctionType, MethodType
from typing import Any, get_args

from pydantic import BaseModel

from modelyard.compose import WholeNode, running_node
from modelyard.config.changes import changes, in_force
from modelyard.config.paths import Paths
from modelyard.config.schema import Settings
from modelyard.config.settings import LoadedSettings, load_settings
from tests.support.node import short_folder

CERTIFICATE = str(Path(__file__).parent / "support" / "authority.pem")
LAUNCH = {
    "context_length": 512, "slots": 2, "threads": 1, "n_batch": 64, "n_gpu_layers": 1, "kv_type": "q8_0",
    "prompt_cache_bytes": 5, "device": "cpu", "dtype": "float16", "quantization": "4bit",
    "kv_blocks": 100, "ladder": ["n_batch=32"],
}  # fmt: skip
PROMPTS = {"max_input_tokens": 100, "max_message_tokens": 50, "trim": True}
BASE: dict[str, Any] = {
    "keys": [{"id": "k", "secret": "sha256:" + "0" * 64}],
    "memory": {"gpus": False, "headroom": {"ram": 1}},
    "models": {
        "folders": ["."], "builtin": False, "aliases": {"text": "e", "several": {"warm": ["e"]}},
        "options": {"e": {}, "not-here": {}}, "groups": {"g": {}}, "echo": {"e": {}},
        "command": {"c": {"command": "a {port}"}},
    },
    "roles": {"r": "e"},
    "nodes": [
        {"name": "moved", "kind": "openai", "url": "http://127.0.0.1:9"},
        {"name": "edited", "kind": "openai", "url": "http://127.0.0.1:9"},
        {"name": "sharing", "devices": ["ram"], "url": "http://127.0.0.1:9"},
    ],
}  # fmt: skip
WAY = {
    "key": "env:NODE_KEY", "extra_options": False, "new_token_limit": True, "continues": True, "ca_file": CERTIFICATE,
    "fingerprint": "0" * 64, "connect_s": 3, "first_token_s": 30, "between_tokens_s": 31,
}  # fmt: skip
RULES = {"weight": 2, "draining": True, "slots": 3, "models": ["m"], "look_s": 4, "health_timeout_s": 5}
OTHER: dict[str, Any] = {
    "server": {
        "host": "127.0.0.2", "port": 1, "fd": 9, "allowed_hosts": ["a"], "allowed_origins": ["http://a"],
        "allow_open_bind": True, "trusted_proxies": ["10.0.0.0/8"], "body_max_bytes": 2048, "drain_s": 1,
        "language": "zh_TW",
    },
    "keys": [{"id": "k", "secret": "sha256:" + "1" * 64, "rights": ["read"], "models": ["e"], "priority": 1}],
    "limits": {"requests_max": 7, "window_s": 8, "concurrent_max": 9},
    "memory": {
        "policy": "exclusive", "headroom_bytes": 3, "headroom": {"ram": 2}, "ram_limit_bytes": 10**12, "gpus": True,
    },
    "residency": {"idle_ttl_s": 10, "unload_enabled": False, "queue_max": 11, "queue_s": 12},
    "deadlines": {
        "connect_s": 13, "first_token_s": 14, "between_tokens_s": 15, "load_stall_s": 16, "load_s": 17,
        "load_per_gib_s": 18,
    },
    "models": {
        "folders": ["other"], "builtin": True, "default": "e", "engine": "echo", "path": "other",
        "code_folders": ["other"],
        "engines": ["llamacpp"],
        "aliases": {"text": "x", "several": {"first": ["e"]}},
        "launch": LAUNCH,
        "options": {
            "e": {**LAUNCH, **PROMPTS, "slots": 3, "idle_ttl_s": 20, "engines": ["llamacpp"], "weight": 2,
                  "priority": 1, "group": "g"},
            "not-here": {"pinned": True},
        },
        "groups": {"g": {"resident_max": 2}},
        "command": {
            "c": {
                "command": "b {port}", "model_path": "org/m", "ready_path": "/ready",
                "environment": {"A": "env:NODE_KEY"},
                "stop_command": "stop {port}", "slots": 2, "context_length": 100, "capabilities": ["embed"],
                "served_name": "m", "footprint": "5MiB", "has_progress": True,
            },
        },
        "echo": {
            "e": {
                "slots": 5, "context_length": 5, "reply_tokens": 5, "tokens_per_s": 5, "prefill_tokens_per_s": 5,
                "echo_prompt": True, "reasoning_tokens": 5, "footprint_bytes": 5, "allocate_bytes": 5,
                "growth_bytes_per_token": 5, "load_s": 5, "fail_load": "5", "fail_load_code": 5, "stall_load": True,
                "crash_after_tokens": 5, "crash_signal": 5, "stall_after_tokens": 5, "stall_before_first": True,
                "garbage_after_tokens": 5, "cut_after_bytes": 5, "cut_step_bytes": 5, "ignore_term": True,
                "exit_late_s": 5,
            },
        },
    },
    "prompts": PROMPTS,
    "embeddings": {"cache_bytes": 5, "resident_max": 2, "idle_ttl_s": 6},
    "guards": {"deny": ["never say this"], "hook": "a", "hook_s": 1, "on_failure": "pass"},
    "pull": {"store": "other", "hosts": ["example.com"], "attempts_max": 2, "backoff_s": 3, "silence_s": 4},
    "roles": {"r": "x"},
    "nodes": [
        {"name": "moved", "kind": "ollama", "url": "http://127.0.0.1:13", "devices": ["ram"], **WAY, **RULES,
         "is_this_machine": True},
        {"name": "edited", "kind": "openai", "url": "http://127.0.0.1:9", **WAY, **RULES},
        {"name": "sharing", "devices": ["ram"], "url": "http://127.0.0.1:13", **WAY, **RULES},
    ],
    "routing": {
        "strategy": "weighted", "order": ["openai", "local", "ollama"], "attempts_max": 4, "retry_ratio": 0.5,
        "retry_floor": 5, "retry_on_timeout": True, "continue_streams": True, "total_s": 19,
    },
    "sync": {
        "enabled": True, "schedule_cron": "1 1 * * *", "allowed_window": "02:00-06:00", "baseline_models": ["a"],
        "fallback_models": ["b"], "fallback": True, "data_root": "x", "attempts_max": 4, "backoff_s": 1,
        "parallel_max": 2, "manifest_path": "y",
    },
    "log": {"level": "error", "format": "json"},
}  # fmt: skip
NAMES = frozenset(("keys.id", "nodes.name"))  # whose they are; another one is another entry

# What a part remembers of what happened, and not of what is configured.
HISTORY = frozenset((
    "EventBus", "NodeHealth", "Cooldowns", "ConfigWatch", "Live", "LoadedSettings", "RunFolder", "MemoryHistory",
    "Prober", "Ticket", "DeviceWatch", "Guests", "Ledger", "DeviceReading",
))  # fmt: skip
HISTORY_OF = frozenset((
    "Scheduler._now", "Scheduler._balance", "Scheduler._is_room_stale", "Scheduler._pins", "Scheduler._has_pins",
    "MemoryBooks.readings", "NeighbourWatch._looked_at", "Hosting._newest", "NodeSettings.__pydantic_fields_set__",
))  # fmt: skip


def load(folder: Path, config: Mapping[str, Any]) -> LoadedSettings:
    (folder / "other").mkdir(exist_ok=True)
    path = folder / "modelyard.json"
    path.write_text(json.dumps(config))
    paths = Paths(*(folder / "var" for _field in Paths.__dataclass_fields__))
    return load_settings(config_file=path, environment={"NODE_KEY": "sesame"}, folder=folder, paths=paths)


def every_setting(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The name of each setting, without the names of entries of tables and lists."""
    for name, field in kind.model_fields.items():
        inner = next((one for one in sections_in(field.annotation)), None)
        if inner is None:
            yield f"{prefix}{name}"
        else:
            yield from every_setting(inner, f"{prefix}{name}.")


def sections_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for one in get_args(annotation):
        yield from sections_in(one)


def test_every_setting_has_a_second_value_here(tmp_path: Path) -> None:
    first, second = load(tmp_path, BASE).settings, load(tmp_path, OTHER).settings
    tables = "keys", "nodes", "models.options", "models.groups", "models.echo", "models.command", "models.aliases"
    differing = {
        next(
            (
                f"{table}.{name.removeprefix(f'{table}.').partition('.')[2]}"
                for table in tables
                if name.startswith(f"{table}.")
            ),
            name,
        )
        for name in changes(first, second).names
    }
    plain = {name for name in every_setting(Settings) if not any(one.startswith(f"{name}.") for one in differing)}

    assert plain - differing == NAMES


async def test_a_server_that_took_up_everything_is_like_one_that_was_started_with_it(tmp_path: Path) -> None:
    with short_folder() as folder:
        first, second = load(folder, BASE), load(folder, OTHER)
        in_its_place = replace(second, settings=in_force(first.settings, second.settings))
        async with running(in_its_place) as node:
            started = values(node)
        async with running(in_its_place) as node:
            noise = differing(started, values(node))
        async with running(replace(first, again=lambda: second)) as node:
            told = await node.config.reload()
            taken_up = values(node)

    parts = {name.partition(".")[0] for name in started}
    assert {
        "RoutingRules",
        "StartLimits",
        "ResidencyLimits",
        "Deadlines",
        "OllamaResidents",
        "OllamaEndpoints",
    } <= parts
    assert not told.problem
    assert {name for name in told.after_restart if not name.startswith("nodes.")} == {
        *(f"server.{name}" for name in ("host", "port", "fd", "drain_s", "body_max_bytes", "language")),
        "memory.gpus", "memory.ram_limit_bytes", "models.engine", "guards.hook", "log.level", "log.format",
        *(f"pull.{name}" for name in ("store", "hosts", "attempts_max", "backoff_s", "silence_s")),
    }  # fmt: skip
    assert "nodes.sharing.url" in told.after_restart
    assert "nodes.moved.devices" in told.after_restart
    found = {
        name: (started.get(name), taken_up.get(name))
        for name in differing(started, taken_up) - noise - HISTORY_OF
        if not name.endswith("_at")  # when something happened; no setting is named like that
    }
    assert not found, pformat(found)


@asynccontextmanager
async def running(loaded: LoadedSettings) -> AsyncIterator[WholeNode]:
    async with running_node(loaded) as node:
        for _turn in range(10):
            await asyncio.sleep(0)
        yield node


Kept = dict[str, Counter[str]]


def differing(one: Kept, other: Kept) -> set[str]:
    return {name for name in {*one, *other} if one.get(name, Counter()) != other.get(name, Counter())}


def values(node: WholeNode) -> Kept:
    """Every plain value that a part keeps: by the kind of part and its attribute, how often which value is there."""
    found: Kept = {}
    seen: set[object] = set()
    kept_alive: list[object] = []  # else an id may come again
    waiting: list[tuple[str, object]] = [("node", node), ("applying", node.config._apply)]
    while waiting:
        where, value = waiting.pop()
        if value is None or isinstance(value, bool | int | float | str | bytes | Path | Enum):
            found.setdefault(where, Counter())[repr(value)] += 1
        elif (one := identity(value)) not in seen:
            seen.add(one)
            kept_alive.append(value)
            waiting += inside(where, value)
    return found


def identity(value: object) -> object:
    """What is seen once: a frozen value that equals another one is the same."""
    if is_dataclass(value) and getattr(value, "__dataclass_params__").frozen:  # noqa: B009 - the attribute has no type
        with suppress(TypeError):  # it holds what cannot be hashed
            return type(value), hash(value), value
    return id(value)


def inside(where: str, value: object) -> list[tuple[str, object]]:
    kind = type(value)
    match value:
        case dict() | list() | tuple() | set() | frozenset() if kind.__module__ in ("builtins", "collections"):
            items = value.items() if isinstance(value, dict) else ((None, one) for one in value)
            return [(where, part) for pair in items for part in pair]
        case Counter() | Mapping():
            return [(where, part) for pair in value.items() for part in pair]
        case partial():
            return [(where, part) for part in (value.func, value.args, value.keywords)]
        case MethodType():
            return [(where, value.__self__), (where, value.__func__)]
        case FunctionType() if value.__module__.startswith("modelyard"):
            cells: tuple[CellType, ...] = value.__closure__ or ()
            names = (f"{value.__qualname__}.{name}" for name in value.__code__.co_freevars)
            return [(name, cell.cell_contents) for name, cell in zip(names, cells, strict=True)]
        case _ if kind.__module__.startswith(("modelyard", "starlette")) and kind.__name__ not in HISTORY:
            names_of_slots = [name for one in kind.__mro__ for name in getattr(one, "__slots__", ())]
            fields = {**getattr(value, "__dict__", {})}
            fields |= {name: getattr(value, name) for name in names_of_slots if hasattr(value, name)}
            return [(f"{kind.__name__}.{name}", part) for name, part in fields.items()]
    return []

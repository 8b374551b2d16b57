"""A configuration file of several programs, `config/config.json`: what its `services.ollama` and `jobs` mean for us.

What else stands in such a file is other programs'. Inside these two, a key nobody knows is an error. Pure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from modelyard.config.finding import Finding
from modelyard.errors import N_, ConfigError

PATH = ("config", "config.json")
MARKS = ("services", "jobs")
HOST_VARIABLE, PORT_VARIABLE = "OLLAMA_REMOTE_HOST", "OLLAMA_REMOTE_PORT"
PORT = 11434
_OLLAMA = (
    "scheme", "host", "port", "health_timeout", "baseline_models", "fallback_models", "fallback", "nodes", "download",
)  # fmt: skip
_NODE, _DOWNLOAD, _RETRY = (
    ("host", "port", "weight", "name", "scheme"),
    ("data_root", "retry", "allowed_window", "max_parallel_jobs"),
    ("max_attempts", "backoff_seconds"),
)
_SYNC = ("enabled", "schedule_cron", "manifest_path")


def is_shared(tree: Mapping[str, object]) -> bool:
    """Whether a file has this layout."""
    return any(mark in tree for mark in MARKS)


def from_shared(
    tree: Mapping[str, object], variables: Mapping[str, str], where: str, notices: list[Finding]
) -> dict[str, object]:
    """Our settings, as raw values."""
    services, jobs = _table(tree.get("services"), "services", where), _table(tree.get("jobs"), "jobs", where)
    others = [key for key in tree if key not in MARKS]
    others += [f"services.{key}" for key in services if key != "ollama"]
    others += [f"jobs.{key}" for key in jobs if key != "ollama_sync"]
    if others:
        notices.append(
            Finding(
                "config_others",
                N_("{where} holds settings of other programs, which are ignored: {names}."),
                N_("Nothing, if they are meant for others."),
                {"where": where, "names": ", ".join(sorted(others)[:10])},
                "notice",
            )
        )
    ours: dict[str, object] = {}
    if "ollama" in services:
        ollama = _known(services["ollama"], _OLLAMA, "services.ollama", where)
        ours["nodes"] = nodes(ollama, variables, where)
        ours["sync"] = _sync(ollama, where)
    if "ollama_sync" in jobs:
        sync = _known(jobs["ollama_sync"], _SYNC, "jobs.ollama_sync", where)
        ours["sync"] = {**_table(ours.get("sync"), "sync", where), "enabled": True, **sync}
    return ours


def nodes(ollama: Mapping[str, object], variables: Mapping[str, str], where: str) -> list[dict[str, object]]:
    """The nodes of `services.ollama`; without a list of them, host and port are the one node."""
    listed = ollama.get("nodes")
    if listed is not None and not isinstance(listed, list):
        raise ConfigError(N_("{where}: {name} is a list"), where=where, name="services.ollama.nodes")
    timeout = {"health_timeout_s": ollama["health_timeout"]} if "health_timeout" in ollama else {}
    given: Sequence[Mapping[str, object]] = [
        _known(node, _NODE, f"services.ollama.nodes[{at}]", where) for at, node in enumerate(listed or ())
    ]
    if not given:
        host = variables.get(HOST_VARIABLE) or ollama.get("host") or "127.0.0.1"
        given = [{"host": host, "port": variables.get(PORT_VARIABLE) or ollama.get("port", PORT)}]
    found: list[dict[str, object]] = []
    for node in given:
        scheme = node.get("scheme", ollama.get("scheme", "http"))
        host, port = str(node.get("host", "127.0.0.1")), node.get("port", PORT)
        shown = f"[{host}]" if ":" in host else host
        name = _free(str(node.get("name") or host), port, {str(one["name"]) for one in found})
        weight = {"weight": node["weight"]} if "weight" in node else {}
        found.append({"name": name, "kind": "ollama", "url": f"{scheme}://{shown}:{port}", **weight, **timeout})
    return found


def remote_node(variables: Mapping[str, str]) -> dict[str, object] | None:
    """The node that the environment names, where no file does."""
    host = variables.get(HOST_VARIABLE)
    if not host:
        return None
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{variables.get(PORT_VARIABLE) or PORT}"
    return {"name": _free(host, PORT, set()), "kind": "ollama", "url": url}


def _sync(ollama: Mapping[str, object], where: str) -> dict[str, object]:
    download = _known(ollama.get("download") or {}, _DOWNLOAD, "services.ollama.download", where)
    retry = _known(download.get("retry") or {}, _RETRY, "services.ollama.download.retry", where)
    given = {
        "baseline_models": ollama.get("baseline_models"),
        "fallback_models": ollama.get("fallback_models"),
        "fallback": ollama.get("fallback"),
        "data_root": download.get("data_root"),
        "allowed_window": download.get("allowed_window"),
        "parallel_max": download.get("max_parallel_jobs"),
        "attempts_max": retry.get("max_attempts"),
        "backoff_s": retry.get("backoff_seconds"),
    }
    return {name: value for name, value in given.items() if value is not None}


def _free(name: str, port: object, taken: set[str]) -> str:
    """A name that can stand behind a model's, and is nobody else's."""
    plain = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:50] or "node"
    if plain in taken:
        plain = f"{plain}-{port}"
    count = 2
    unique = plain
    while unique in taken:
        unique, count = f"{plain}-{count}", count + 1
    return unique


def _table(value: object, name: str, where: str) -> Mapping[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(N_("{where}: {name} is a table of settings"), where=where, name=name)
    return value


def _known(value: object, known: Sequence[str], name: str, where: str) -> Mapping[str, object]:
    table = _table(value, name, where)
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
            if near:
                text = N_("{where}: there is no setting {name}; did you mean {near}?")
                raise ConfigError(text, where=where, name=f"{name}.{key}", near=f"{name}.{near[0]}")
            raise ConfigError(N_("{where}: there is no setting {name}"), where=where, name=f"{name}.{key}")
    return table

"""A `config/config.json` that several programs share: what is ours in it, and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelyard.config.settings import LoadedSettings, load_settings
from modelyard.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "config" / "config.example.json"


def load(
    tmp_path: Path, tree: Any, *, environment: dict[str, str] | None = None, own: str | None = None
) -> LoadedSettings:
    (tmp_path / "config").mkdir(exist_ok=True)
    (tmp_path / "config" / "config.json").write_text(json.dumps(tree))
    if own is not None:
        (tmp_path / "modelyard.toml").write_text(own)
    return load_settings(environment=environment or {}, folder=tmp_path)


def test_the_shipped_example_is_read(tmp_path: Path) -> None:
    settings = load(tmp_path, json.loads(EXAMPLE.read_text())).settings

    assert [(node.name, node.kind, node.weight) for node in settings.nodes] == [
        ("10.0.0.21", "ollama", 2.0), ("10.0.0.22", "ollama", 1.0),
    ]  # fmt: skip
    assert settings.nodes[0].health_timeout_s == 10
    assert settings.sync.baseline_models == ("gpt-oss:20b", "qwen3-coder:30b")
    assert settings.sync.fallback_models == ("llama3.1:8b", "mistral-nemo:12b")
    assert (settings.sync.allowed_window, settings.sync.attempts_max) == ("02:00-06:00 UTC+8", 3)
    assert (settings.sync.enabled, settings.sync.schedule_cron) == (True, "0 3 * * *")


def test_without_a_list_host_and_port_are_the_one_node(tmp_path: Path) -> None:
    tree = {"services": {"ollama": {"scheme": "https", "host": "gpu.lan", "port": 8443}}}

    assert [node.url for node in load(tmp_path, tree).settings.nodes] == ["https://gpu.lan:8443"]


def test_the_environment_beats_the_files_host_and_port(tmp_path: Path) -> None:
    variables = {"OLLAMA_REMOTE_HOST": "other.lan", "OLLAMA_REMOTE_PORT": "11500"}
    tree = {"services": {"ollama": {"host": "gpu.lan", "port": 1}}}

    assert [node.url for node in load(tmp_path, tree, environment=variables).settings.nodes] == [
        "http://other.lan:11500"
    ]


def test_the_environment_alone_names_a_node(tmp_path: Path) -> None:
    given = load_settings(environment={"OLLAMA_REMOTE_HOST": "Other.lan"}, folder=tmp_path).settings

    assert [(node.name, node.url) for node in given.nodes] == [("other.lan", "http://Other.lan:11434")]


def test_what_belongs_to_other_programs_is_ignored_with_one_notice(tmp_path: Path) -> None:
    tree = {"app": {"a": 1}, "services": {"redis": {}, "ollama": {"host": "h"}}, "jobs": {"backup": {}}}

    loaded = load(tmp_path, tree)

    notices = [one for one in loaded.notices if one.code == "config_others"]
    assert len(notices) == 1
    assert notices[0].fields["names"] == "app, jobs.backup, services.redis"


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({"services": {"ollama": {"hots": "x"}}}, "did you mean services.ollama.host"),
        ({"services": {"ollama": {"nodes": [{"host": "a", "wieght": 1}]}}}, "did you mean services.ollama.nodes"),
        ({"services": {"ollama": {"download": {"retry": {"attempts": 1}}}}}, "there is no setting"),
        ({"jobs": {"ollama_sync": {"cron": "x"}}}, "there is no setting"),
        ({"services": {"ollama": {"nodes": {}}}}, "is a list"),
        ({"services": {"ollama": []}}, "table of settings"),
        ({"services": {"ollama": {"host": "a b"}}}, "expected http"),
        ({"services": {"ollama": {"download": {"allowed_window": "at night"}}}}, "window"),
    ],
)
def test_a_mistake_inside_our_part_is_an_error(tmp_path: Path, tree: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        load(tmp_path, tree)


def test_our_own_file_wins_over_the_shared_one(tmp_path: Path) -> None:
    own = '[[nodes]]\nname = "mine"\nurl = "http://mine:1"\n'
    tree = {"services": {"ollama": {"host": "gpu.lan", "baseline_models": ["a"]}}}

    settings = load(tmp_path, tree, own=own).settings

    assert [node.name for node in settings.nodes] == ["mine"]
    assert settings.sync.baseline_models == ("a",)


def test_nodes_of_one_host_get_names_of_their_own(tmp_path: Path) -> None:
    nodes = [{"host": "a", "port": 1}, {"host": "a", "port": 2}, {"host": "::1", "port": 3}]

    names = [node.name for node in load(tmp_path, {"services": {"ollama": {"nodes": nodes}}}).settings.nodes]

    assert names == ["a", "a-2", "1"]

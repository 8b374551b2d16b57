"""Nodes in the configuration: only those that share this machine's memory, and no address with a secret in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.config.explain import MachineFacts, risks
from modelyard.config.schema import Settings
from modelyard.config.settings import load_settings
from modelyard.errors import ConfigError
from modelyard.units import GIB


def settings(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "modelyard.toml"
    path.write_text(text)
    return load_settings(config_file=path, environment={}, folder=tmp_path).settings


def test_a_node_needs_no_more_than_its_name(tmp_path: Path) -> None:
    node = settings(tmp_path, "[nodes.studio]\n").nodes["studio"]

    assert (node.kind, node.url, node.devices) == ("ollama", "http://127.0.0.1:11434", ("gpu0",))


@pytest.mark.parametrize(
    "url", ["http://localhost:11434/", "http://[::1]:1", "https://127.8.8.8/ollama", "http://127.0.0.1"]
)
def test_addresses_on_this_machine_are_taken(tmp_path: Path, url: str) -> None:
    assert settings(tmp_path, f'[nodes.a]\nurl = "{url}"\n').nodes["a"].url == url.rstrip("/")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('url = "ftp://127.0.0.1"', "expected http"),
        ('url = "127.0.0.1:11434"', "expected http"),
        ('url = "http://"', "expected http"),
        ('url = "http://127.0.0.1:0"', "expected http"),
        ('url = "http://127.0.0.1:99999"', "expected http"),
        ('url = "http://127.0.0.1/a b"', "expected http"),
        ('url = "http://me:sesame@127.0.0.1"', "no user name"),
        ('url = "http://127.0.0.1/?key=sesame"', "ends with its path"),
        ('url = "http://10.0.0.7:11434"', "not on this machine"),
        ('url = "http://localhost.example.org"', "not on this machine"),
        ('kind = "vllm"', "ollama"),
        ("devices = []", "at least 1"),
        ('devices = ["disk"]', "pattern"),
        ('devices = ["gpu0", "gpu0"]', "twice"),
        ("slots = 0", "greater than"),
        ("device = 1", "did you mean nodes.a.devices"),
    ],
)
def test_what_cannot_be_meant_is_refused_without_showing_secrets(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(tmp_path, f"[nodes.a]\n{line}\n")

    assert problem in str(refused.value)
    assert "sesame" not in str(refused.value)


def test_a_node_in_a_container_is_taken_when_somebody_says_so(tmp_path: Path) -> None:
    text = '[nodes.a]\nurl = "http://172.17.0.2:11434"\nis_this_machine = true\n'

    assert settings(tmp_path, text).nodes["a"].is_this_machine


@pytest.mark.parametrize("name", ["A", "a/b", "", "a@b", "x" * 65])
def test_a_node_has_a_name_that_can_stand_behind_a_models(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        settings(tmp_path, f'[nodes."{name}"]\n')


def test_a_device_that_is_not_there_is_told(tmp_path: Path) -> None:
    given = settings(tmp_path, '[nodes.a]\ndevices = ["gpu0", "gpu1"]\n')

    found = [one for one in risks(given, MachineFacts(64 * GIB, 1)) if one.code == "unknown_device"]

    assert [one.fields["device"] for one in found] == ["gpu1"]

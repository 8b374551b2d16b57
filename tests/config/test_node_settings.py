"""Nodes in the configuration: only those that share this machine's memory, and no address with a secret in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from modelyard.config.changes import changes
from modelyard.config.explain import MachineFacts, risks
from modelyard.config.schema import Settings
from modelyard.config.settings import load_settings
from modelyard.errors import ConfigError
from modelyard.units import GIB
from modelyard.wiring.names import aliases

CERTIFICATE = Path(__file__).parent.parent / "support" / "authority.pem"
NODE = '[[nodes]]\nname = "a"\n'


def settings(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "modelyard.toml"
    path.write_text(text)
    return load_settings(config_file=path, environment={}, folder=tmp_path).settings


def test_a_node_needs_no_more_than_its_name(tmp_path: Path) -> None:
    node = settings(tmp_path, NODE).nodes[0]

    assert (node.kind, node.url, node.devices) == ("ollama", "http://127.0.0.1:11434", ())


@pytest.mark.parametrize(
    "url", ["http://localhost:11434/", "http://[::1]:1", "https://127.8.8.8/ollama", "http://127.0.0.1"]
)
def test_addresses_on_this_machine_are_taken(tmp_path: Path, url: str) -> None:
    assert settings(tmp_path, f'{NODE}url = "{url}"\ndevices = ["ram"]\n').nodes[0].url == url.rstrip("/")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('url = "ftp://127.0.0.1"', "expected http"),
        ('url = "127.0.0.1:11434"', "expected http"),
        ('url = "http://"', "expected http"),
        ('url = "http://127.0.0.1:0"', "expected http"),
        ('url = "http://127.0.0.1:99999"', "expected http"),
        ('url = "http://127.0.0.1/a b"', "expected http"),
        ('url = "http://a..b"', "expected http"),
        (f'url = "http://{"a" * 64}.example"', "expected http"),
        ('url = "http://b\u00fccher.invalid"', "xn--"),
        ('url = "http://me:sesame@127.0.0.1"', "no user name"),
        ('url = "http://127.0.0.1/?key=sesame"', "ends with its path"),
        ('url = "http://10.0.0.7:11434"\ndevices = ["ram"]', "not on this machine"),
        ('url = "http://localhost.example.org"\ndevices = ["ram"]', "not on this machine"),
        ('kind = "vllm"', "ollama"),
        ('kind = "openai"', "needs its url"),
        ('kind = "openai"\nurl = "http://127.0.0.1:1"\ndevices = ["ram"]', "only an Ollama server"),
        ("weight = -1", "greater than"),
        ('fingerprint = "sesame"', "64 hexadecimal"),
        ('key = "sesame-in-plain"', "in plain text"),
        ('devices = ["disk"]', "pattern"),
        ('devices = ["gpu0", "gpu0"]', "twice"),
        ("slots = 0", "greater than"),
        ("device = 1", "did you mean nodes[0].devices"),
    ],
)
def test_what_cannot_be_meant_is_refused_without_showing_secrets(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(tmp_path, f"{NODE}{line}\n")

    assert problem in str(refused.value)
    assert "sesame" not in str(refused.value)


def test_a_node_in_a_container_is_taken_when_somebody_says_so(tmp_path: Path) -> None:
    text = f'{NODE}url = "http://172.17.0.2:11434"\ndevices = ["ram"]\nis_this_machine = true\n'

    assert settings(tmp_path, text).nodes[0].is_this_machine


@pytest.mark.parametrize("name", ["A", "a/b", "", "a@b", "x" * 65, "local", "ollama"])
def test_a_node_has_a_name_that_can_stand_behind_a_models(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        settings(tmp_path, f'[[nodes]]\nname = "{name}"\n')


def test_a_device_that_is_not_there_is_told(tmp_path: Path) -> None:
    given = settings(tmp_path, f'{NODE}devices = ["gpu0", "gpu1"]\n')

    found = [one for one in risks(given, MachineFacts(64 * GIB, 1)) if one.code == "unknown_device"]

    assert [one.fields["device"] for one in found] == ["gpu1"]


def test_the_older_form_is_refused_with_the_new_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"write \[\[nodes\]\] and name = \"studio\""):
        settings(tmp_path, "[nodes.studio]\nslots = 2\n")


def test_two_nodes_do_not_share_a_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two nodes have the name a"):
        settings(tmp_path, NODE + NODE)


def test_a_nodes_key_comes_from_elsewhere_and_is_never_shown(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sesame-open\n")
    (tmp_path / "key").chmod(0o600)

    given = settings(tmp_path, f'{NODE}key = "file:key"\n').nodes[0]

    assert given.key is not None
    assert given.key.get_secret_value() == "sesame-open"
    assert "sesame" not in repr(given)


@pytest.mark.parametrize("key", ["", "\n", "sesame\nopen", "s\u00e9same", "sesame\topen", "sesame\x7f"])
@pytest.mark.parametrize("section", ["[[nodes]]\nname = 'a'\nkey", "[[keys]]\nid = 'a'\nsecret"])
def test_a_key_that_no_header_can_carry_is_refused_with_its_place_and_not_shown(
    tmp_path: Path, key: str, section: str
) -> None:
    (tmp_path / "key").write_text(key)

    with pytest.raises(ConfigError) as refused:
        settings(tmp_path, f'{section} = "file:key"\n')

    assert "modelyard.toml:3" in str(refused.value)
    told = str(refused.value).replace(str(tmp_path), "")
    assert not any(part in told for part in ("same", "open"))


def test_a_reference_that_leads_nowhere_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"modelyard\.toml:5: .*ABSENT"):
        settings(tmp_path, f'{NODE}[[nodes]]\nname = "b"\nkey = "env:ABSENT"\n')


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "no such file"), (b"", "no certificates"), (b"sesame", "no certificates")]
)
def test_a_file_without_certificates_is_refused_with_its_place(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / "ca.pem").write_bytes(content)

    with pytest.raises(ConfigError, match=rf"modelyard\.toml:3: nodes\[0\]\.ca_file: .*{problem}") as refused:
        settings(tmp_path, f'{NODE}ca_file = "ca.pem"\n')

    assert "sesame" not in str(refused.value)


def test_files_that_the_configuration_refers_to_are_watched_and_their_contents_compared(tmp_path: Path) -> None:
    path, key, ca = tmp_path / "modelyard.toml", tmp_path / "key", tmp_path / "ca.pem"
    key.write_text("first")
    shutil.copy(CERTIFICATE, ca)
    path.write_text(f'{NODE}key = "file:key"\nca_file = "ca.pem"\n')
    before = load_settings(config_file=path, environment={}, folder=tmp_path)
    key.write_text("second")
    ca.write_bytes(ca.read_bytes() * 2)
    after = load_settings(config_file=path, environment={}, folder=tmp_path)

    assert {key, ca} <= {*before.watched}
    assert changes(before.settings, after.settings).names == ("nodes.a.ca_file", "nodes.a.key")


def test_an_alias_for_several_models_says_how_one_is_picked(tmp_path: Path) -> None:
    given = settings(tmp_path, '[models.aliases]\nfast = { warm = ["a", "b"] }\nbig = { first = ["c"] }\nx = "y"\n')

    assert aliases(given) == {"fast": ("warm", ("a", "b")), "big": ("first", ("c",)), "x": "y"}
    with pytest.raises(ConfigError, match="either"):
        settings(tmp_path, '[models.aliases]\nfast = { warm = ["a"], first = ["b"] }\n')

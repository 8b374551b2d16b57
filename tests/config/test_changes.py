"""What differs between two configurations."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelyard.config.changes import Changes, changes
from modelyard.config.schema import Settings
from modelyard.config.settings import load_settings

BASE = """
[server]
port = 1
[models.aliases]
a = "b"
[models.options."m"]
slots = 2
[[keys]]
id = "me"
secret = "sha256:%s"
[[nodes]]
name = "x"
url = "http://x:1"
[[nodes]]
name = "y"
url = "http://y:1"
""" % ("0" * 64)


def settings(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "modelyard.toml"
    path.write_text(text)
    return load_settings(config_file=path, environment={}, folder=tmp_path).settings


def found(tmp_path: Path, old: str, new: str) -> Changes:
    assert old in BASE
    return changes(settings(tmp_path, BASE), settings(tmp_path, BASE.replace(old, new)))


def test_the_same_twice_differs_in_nothing(tmp_path: Path) -> None:
    assert not changes(settings(tmp_path, BASE), settings(tmp_path, BASE))


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("port = 1", "port = 2", ("server.port",)),
        ('a = "b"', 'a = "c"', ("models.aliases.a",)),
        ('url = "http://x:1"', 'url = "http://x:1"\nweight = 2', ("nodes.x.weight",)),
        ("0" * 64, "1" * 64, ("keys.me.secret",)),
    ],
)
def test_what_differs_is_named_and_nothing_else(tmp_path: Path, old: str, new: str, names: tuple[str, ...]) -> None:
    assert found(tmp_path, old, new).names == names


def test_a_nodes_weight_is_an_edit_and_its_address_another_node(tmp_path: Path) -> None:
    edited = found(tmp_path, 'url = "http://x:1"', 'url = "http://x:1"\nweight = 0\ndraining = true')
    again = found(tmp_path, 'url = "http://x:1"', 'url = "http://x:1"\nconnect_s = 1\nweight = 3')
    moved = found(tmp_path, 'url = "http://x:1"', 'url = "http://x:2"')
    renamed = found(tmp_path, 'name = "x"', 'name = "z"')

    assert (edited.nodes_edited, edited.nodes_moved) == (("x",), ())
    assert (moved.nodes_edited, moved.nodes_moved) == ((), ("x",))
    assert (again.nodes_edited, again.nodes_reconnected, again.nodes_moved) == ((), ("x",), ())
    assert (renamed.nodes_added, renamed.nodes_removed) == (("z",), ("x",))


def test_only_models_that_would_be_started_otherwise_are_named(tmp_path: Path) -> None:
    assert found(tmp_path, "slots = 2", "slots = 3").launched_anew == ("m",)
    assert found(tmp_path, "[models.aliases]", "[models.launch]\nthreads = 2\n[models.aliases]").launched_anew == (
        "",
        "m",
    )
    assert found(tmp_path, 'a = "b"', 'a = "c"').launched_anew == ()


def test_what_a_running_server_cannot_take_up_is_told(tmp_path: Path) -> None:
    local = 'url = "http://127.0.0.1:1"\ndevices = ["ram"]'

    assert found(tmp_path, "port = 1", "port = 2").after_restart == ("server.port",)
    assert "nodes.x.devices" in found(tmp_path, 'url = "http://x:1"', local).after_restart
    assert not found(tmp_path, 'url = "http://x:1"', 'url = "http://x:2"').after_restart


def test_a_change_is_found_by_any_name_above_it(tmp_path: Path) -> None:
    changed = found(tmp_path, 'a = "b"', 'a = "c"')

    assert changed.touch("models.aliases")
    assert changed.touch("models")
    assert not changed.touch("models.alias", "server")
